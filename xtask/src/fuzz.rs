//! `cargo xtask fuzz`: generated input, for a bounded time, for each target of
//! `tcp_status::fuzzing`. The corpus in the repository stays as it is; what earlier runs found, and
//! what made a target crash, is below cargo's target folder.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::{
    files,
    step::Step,
    tools::{self, Tool},
    workspace::Workspace,
};

const CARGO_FUZZ: Tool = ("cargo-fuzz", "0.13.2");

/// No input may take a target longer, in seconds, or more memory, in MiB. Both are far more than
/// any real input takes, with the sanitizer.
const TIMEOUT: u32 = 10;
const MEMORY: u32 = 1024;

/// Arguments of `fuzz`.
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
    tools::provide(workspace, &[CARGO_FUZZ], args.install)?;
    let sources = files::list(workspace.root.join("fuzz/fuzz_targets"))?;
    let names = sources.iter().filter_map(|path| path.file_stem()?.to_str());
    let mut targets: Vec<_> = names.collect();
    if let Some(only) = &args.target {
        let known = targets.join(", ");
        targets.retain(|target| target == only);
        ensure!(!targets.is_empty(), "no target {only}; there are {known}");
    }
    let mut table = format!(
        "{:<12}{:>8}{:>13}{:>10}  result\n",
        "target", "seconds", "executions", "coverage"
    );
    let mut crashes = 0;
    for target in &targets {
        let found = fuzz(workspace, target, args.seconds)?;
        crashes += u32::from(found.crash.is_some());
        let result = found.crash.map(|file| format!("CRASHED on {file}"));
        table += &format!(
            "{target:<12}{:>8}{:>13}{:>10}  {}\n",
            args.seconds,
            found.executions,
            found.coverage,
            result.as_deref().unwrap_or("ok")
        );
    }
    println!("{table}{} targets, {crashes} crashed", targets.len());
    Ok(if crashes == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn fuzz(workspace: &Workspace, target: &str, seconds: u32) -> Result<Found> {
    let folder = |name: &str| -> Result<PathBuf> {
        let path = workspace.target.join("fuzz").join(name).join(target);
        files::create_folder(&path)?;
        Ok(path)
    };
    let crashes = folder("crashes")?;
    let step = Step::new(tools::program(workspace, CARGO_FUZZ))
        .args(["fuzz", "run", "--target-dir"])
        .arg(workspace.target.join("fuzz/build"))
        .arg(target)
        .arg(folder("corpus")?)
        .arg(workspace.root.join("fuzz/corpus").join(target))
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={TIMEOUT}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .arg("-print_final_stats=1")
        // Sanitizers are behind an unstable flag, which is all that is used of it.
        .env("RUSTC_BOOTSTRAP", "1")
        .folder(workspace.root.join("fuzz"));
    eprintln!("{step}");
    let mut child = step
        .command()
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{step}`"))?;
    let mut found = Found::default();
    for line in BufReader::new(child.stderr.take().context("no stderr")?).split(b'\n') {
        let line = line.with_context(|| format!("cannot read from `{step}`"))?;
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        found.read(&line);
    }
    let status = child.wait()?;
    if status.success() {
        found.crash = None;
    } else if found.crash.is_none() {
        step.expect_success(status)?;
    }
    Ok(found)
}

/// What libFuzzer printed.
#[derive(Debug, Default)]
struct Found {
    executions: u64,
    coverage: u64,
    /// The file with the input that made the target crash.
    crash: Option<String>,
}

impl Found {
    /// `#1234 NEW cov: 56 ft: 78 ...`, `stat::number_of_executed_units: 1234`, and
    /// `artifact_prefix='...'; Test unit written to FILE`.
    fn read(&mut self, line: &str) {
        let number_after = |name| {
            line.split_once(name)?
                .1
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        };
        if let Some(number) = number_after("cov: ").filter(|_| line.starts_with('#')) {
            self.coverage = number;
        } else if let Some(number) = number_after("stat::number_of_executed_units: ") {
            self.executions = number;
        } else if let Some((_, file)) = line.split_once("Test unit written to ") {
            self.crash = Some(file.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Found;

    #[test]
    fn libfuzzers_lines_are_read() {
        let mut found = Found::default();
        for line in [
            "INFO: seed corpus: files: 5 min: 3b max: 79b total: 269b rss: 40Mb",
            "#6\tINITED cov: 310 ft: 514 corp: 5/269b exec/s: 0 rss: 41Mb",
            "#70000\tDONE   cov: 403 ft: 901 corp: 101/9kb lim: 1024 exec/s: 3000 rss: 90Mb",
            "stat::number_of_executed_units: 70000",
            "stat::new_units_added:          96",
            "artifact_prefix='/t/'; Test unit written to /t/crash-da39a3",
        ] {
            found.read(line);
        }
        assert_eq!((found.executions, found.coverage), (70_000, 403));
        assert_eq!(found.crash.as_deref(), Some("/t/crash-da39a3"));
    }
}
