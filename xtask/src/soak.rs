//! `cargo xtask soak`: the test of that name, for as long as is asked for, here or in a virtual
//! machine.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;

use crate::{
    vm::{self, Version, VmArgs},
    workspace::Workspace,
};

#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// Connections in each second
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// In a virtual machine with this kernel, like 6.1
    #[arg(long, value_name = "VERSION")]
    vm: Option<Version>,
    /// Install what is missing for it (Debian, as root)
    #[arg(long, requires = "vm")]
    install: bool,
}

/// What the soak may take beside its minutes: the start, the last second, and coming to rest.
const REST: Duration = Duration::from_mins(5);

pub(crate) fn run(workspace: &Workspace, args: &SoakArgs) -> Result<ExitCode> {
    let (minutes, rate) = (args.minutes.to_string(), args.rate.to_string());
    let environment = [
        ("TCP_STATUS_SOAK_MINUTES", minutes),
        ("TCP_STATUS_SOAK_RATE", rate),
    ];
    if let Some(version) = &args.vm {
        let machines = VmArgs::new(vec![version.clone()], args.install);
        let limit = Duration::from_mins(args.minutes.into()) + REST;
        return Ok(vm::soak(workspace, &machines, environment.into(), limit)?.finish());
    }
    let step = workspace.cargo("test --locked --release --package tcp-status --test soak");
    let set = |step: crate::step::Step, (name, value)| step.env(name, value);
    let step = environment.into_iter().fold(step, set);
    step.with("-- --nocapture").run()?;
    Ok(ExitCode::SUCCESS)
}
