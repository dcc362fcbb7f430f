//! `cargo xtask soak`: the test of that name, for as long as is asked for, here or in a virtual
//! machine.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;

use crate::{
    step::Step,
    vm::{self, Version, VmArgs},
    workspace::Workspace,
};

/// Arguments of `soak`.
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
    let environment = [
        ("TCP_STATUS_SOAK_MINUTES", args.minutes),
        ("TCP_STATUS_SOAK_RATE", args.rate),
    ]
    .map(|(name, value)| (name, value.to_string()));
    if let Some(version) = &args.vm {
        let machines = VmArgs::new(vec![version.clone()], args.install);
        let limit = Duration::from_mins(args.minutes.into()) + REST;
        let totals = vm::soak(workspace, &machines, environment.into(), limit)?;
        println!("{totals}");
        return Ok(totals.exit_code());
    }
    let step = Step::cargo()
        .args(["test", "--locked", "--release", "--package", "tcp-status"])
        .args(["--test", "soak", "--", "--nocapture"]);
    let step = environment
        .into_iter()
        .fold(step, |step, (name, value)| step.env(name, value));
    workspace.at_root(step).run()?;
    Ok(ExitCode::SUCCESS)
}
