//! `cargo xtask soak`: the test of that name, for as long as is asked for.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::{step::Step, workspace::Workspace};

/// Arguments of `soak`.
#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
}

pub(crate) fn run(workspace: &Workspace, args: &SoakArgs) -> Result<ExitCode> {
    let step = Step::cargo()
        .args(["test", "--locked", "--release", "--package", "tcp-status"])
        .args(["--test", "soak", "--", "--nocapture"])
        .env("TCP_STATUS_SOAK_MINUTES", args.minutes.to_string());
    workspace.at_root(step).run()?;
    Ok(ExitCode::SUCCESS)
}
