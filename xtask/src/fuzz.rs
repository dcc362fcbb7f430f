//! `cargo xtask fuzz`: what cargo-fuzz invents, for a bounded time, into each target of
//! `tcp_status::fuzzing`. Grows no kept corpus; what was found in earlier runs lies in cargo's
//! target folder, and so does what made a target crash.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{step::Step, workspace::Workspace};

/// The release of cargo-fuzz that was tried.
const VERSION: &str = "0.13.2";

/// No input may take a target longer, in seconds, or more memory, in MiB. Both are far more than
/// any real input takes, with the sanitizer.
const TIMEOUT: u32 = 10;
const MEMORY: u32 = 1024;

/// Arguments of `fuzz`.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Only this target; all without it
    target: Option<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Install cargo-fuzz, in cargo's target folder
    #[arg(long)]
    install: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &FuzzArgs) -> Result<ExitCode> {
    let fuzzer = Fuzzer::provide(workspace, args.install)?;
    let mut targets = targets(workspace)?;
    if let Some(only) = &args.target {
        ensure!(
            targets.contains(only),
            "no target {only}; there are {}",
            targets.join(", ")
        );
        targets = vec![only.clone()];
    }
    let mut table = format!(
        "{:<12}{:>8}{:>13}{:>10}  result\n",
        "target", "seconds", "executions", "coverage"
    );
    let mut crashes = 0;
    for target in &targets {
        let found = fuzzer.run(target, args.seconds)?;
        crashes += usize::from(!found.good);
        table += &found.row(target, args.seconds);
    }
    println!("{table}{} targets, {crashes} crashed", targets.len());
    Ok(if crashes == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The names of the files in `fuzz/fuzz_targets`.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = workspace.root.join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {folder:?}"))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().into_string();
        if let Some(name) = name
            .ok()
            .as_deref()
            .and_then(|name| name.strip_suffix(".rs"))
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// cargo-fuzz, and where it works.
struct Fuzzer<'a> {
    program: PathBuf,
    workspace: &'a Workspace,
}

impl<'a> Fuzzer<'a> {
    fn provide(workspace: &'a Workspace, install: bool) -> Result<Self> {
        let tools = workspace.target.join("fuzz-tools");
        // The name of the folder says what is in it: the program has not to be asked.
        let root = tools.join(format!("cargo-fuzz-{VERSION}"));
        let program = root.join("bin/cargo-fuzz");
        if !program.is_file() {
            let step = Step::cargo()
                .args(["install", "cargo-fuzz", "--version", VERSION, "--locked"])
                .args(["--root".into(), root])
                .args(["--target-dir".into(), tools.join("build")]);
            if !install {
                bail!("no cargo-fuzz; `cargo xtask fuzz --install` runs:\n  {step}");
            }
            eprintln!("{step}");
            step.run()?;
        }
        Ok(Self { program, workspace })
    }

    fn run(&self, target: &str, seconds: u32) -> Result<Found> {
        let folder = |name: &str| -> Result<PathBuf> {
            let path = self.workspace.target.join("fuzz").join(name).join(target);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
            Ok(path)
        };
        let crashes = folder("crashes")?;
        let step = Step::new(&self.program)
            .args(["fuzz", "run", "--target-dir"])
            .arg(self.workspace.target.join("fuzz/build"))
            .arg(target)
            .arg(folder("corpus")?)
            .arg(self.workspace.root.join("fuzz/corpus").join(target))
            .arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={TIMEOUT}"))
            .arg(format!("-rss_limit_mb={MEMORY}"))
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .arg("-print_final_stats=1")
            // Sanitizers are behind an unstable flag, which is all that is used of it.
            .env("RUSTC_BOOTSTRAP", "1")
            .folder(self.workspace.root.join("fuzz"));
        eprintln!("{step}");
        let mut child = step
            .command()
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{step}`"))?;
        let mut found = Found::default();
        let stderr = child.stderr.take().context("cargo-fuzz has no stderr")?;
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line.with_context(|| format!("cannot read from `{step}`"))?;
            let line = String::from_utf8_lossy(&line);
            eprintln!("{line}");
            found.hear(&line);
        }
        found.good = child.wait()?.success();
        ensure!(
            found.good || found.crash.is_some(),
            "`{step}` failed; what it printed above says why"
        );
        Ok(found)
    }
}

/// What libFuzzer said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    executions: u64,
    coverage: u64,
    /// The file with the input that made it crash.
    crash: Option<String>,
    good: bool,
}

impl Found {
    /// `#1234 NEW cov: 56 ft: 78 ...`, `stat::number_of_executed_units: 1234`, and
    /// `artifact_prefix='...'; Test unit written to FILE`.
    fn hear(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let mut number_after = |name| {
            words.find(|word| *word == name)?;
            words.next()?.parse().ok()
        };
        if line.starts_with('#') {
            self.coverage = number_after("cov:").unwrap_or(self.coverage);
        } else if let Some(number) = number_after("stat::number_of_executed_units:") {
            self.executions = number;
        } else if let Some((_, file)) = line.split_once("Test unit written to ") {
            self.crash = Some(file.trim().to_owned());
        }
    }

    fn row(&self, target: &str, seconds: u32) -> String {
        let Self {
            executions,
            coverage,
            crash,
            ..
        } = self;
        let result = match crash {
            Some(file) if !self.good => format!("CRASHED on {file}"),
            _ => "ok".to_owned(),
        };
        format!("{target:<12}{seconds:>8}{executions:>13}{coverage:>10}  {result}\n")
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
            "#65536\tpulse  cov: 402 ft: 900 corp: 100/9kb lim: 1024 exec/s: 32768 rss: 90Mb",
            "#70000\tDONE   cov: 403 ft: 901 corp: 101/9kb lim: 1024 exec/s: 3000 rss: 90Mb",
            "stat::number_of_executed_units: 70000",
            "stat::new_units_added:          96",
        ] {
            found.hear(line);
        }
        found.good = true;
        assert_eq!((found.executions, found.coverage), (70_000, 403));
        assert!(found.row("http", 60).ends_with("70000       403  ok\n"));
        found.good = false;
        found.hear("artifact_prefix='/t/'; Test unit written to /t/crash-da39a3");
        assert!(found.row("http", 60).contains("CRASHED on /t/crash-da39a3"));
    }
}
