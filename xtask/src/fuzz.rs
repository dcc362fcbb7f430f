//! `cargo xtask fuzz`: generated input, for a bounded time, for each target of
//! `tcp_status::fuzzing`. The corpus in the repository stays as it is; what earlier runs found, and
//! what made a target crash, is below cargo's target folder.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use clap::Args;

use crate::{
    files,
    step::step,
    test_totals::TestTotals,
    toolchain::{Tool, provide_tools, tool},
    workspace::Workspace,
};

const CARGO_FUZZ: Tool = ("cargo-fuzz", "0.13.2");

/// No input may take a target longer than 10 s or more memory than 1 GiB. Both are far more than any
/// real input takes, with the sanitizer.
const LIMITS: &str = "-timeout=10 -rss_limit_mb=1024 -print_final_stats=1";

#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Only this target [default: all]
    target: Option<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Install cargo-fuzz, in cargo's target folder
    #[arg(long)]
    install: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &FuzzArgs) -> Result<ExitCode> {
    provide_tools(workspace, &[CARGO_FUZZ], args.install)?;
    let sources = files::list(workspace.root.join("fuzz/fuzz_targets"))?;
    let names = sources.iter().filter_map(|path| path.file_stem()?.to_str());
    let mut targets: Vec<_> = names.collect();
    if let Some(only) = &args.target {
        let known = targets.join(", ");
        targets.retain(|target| target == only);
        ensure!(!targets.is_empty(), "no target {only}; there are {known}");
    }
    let mut totals = TestTotals::default();
    for target in targets {
        totals.check(target, || fuzz(workspace, target, args.seconds));
    }
    Ok(totals.finish())
}

/// Fails on a crash; libFuzzer prints its statistics, and the file with the input that caused it.
fn fuzz(workspace: &Workspace, target: &str, seconds: u32) -> Result<()> {
    let folder = |name: &str| -> Result<PathBuf> {
        let path = workspace.target.join("fuzz").join(name).join(target);
        files::create_folder(&path)?;
        Ok(path)
    };
    let corpus = workspace.root.join("fuzz/corpus").join(target);
    let step = step!(tool(workspace, CARGO_FUZZ), "fuzz run --target-dir")
        .with(workspace.target.join("fuzz/build"))
        .with(target)
        .with(vec![folder("corpus")?, corpus])
        .with("--")
        .with(LIMITS)
        .with(format!("-max_total_time={seconds}"))
        .with(format!(
            "-artifact_prefix={}/",
            folder("crashes")?.display()
        ))
        // Sanitizers are behind an unstable flag, which is all that is used of it.
        .env("RUSTC_BOOTSTRAP", "1")
        .folder(workspace.root.join("fuzz"));
    eprintln!("{step}");
    step.run()
}
