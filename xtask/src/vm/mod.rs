//! `cargo xtask vm`: the same tests on several kernels, each in a virtual machine: a kernel from
//! Debian's packages, a small initramfs, QEMU. The result is read from what the machine prints.

pub(crate) mod guest;
mod host;
mod kernels;
mod machine;
mod report;
mod runs;
pub(crate) mod trial;

use std::{
    collections::BTreeMap,
    env,
    panic::resume_unwind,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;

use self::{
    host::{Host, PROCESSORS, TEST_LIMIT},
    machine::Accel,
    runs::{Job, Run, Task, boot, jobs, tables},
};
use crate::{
    build::{static_flags, static_path, static_triple},
    test_totals::TestTotals,
    workspace::Workspace,
};

pub(crate) use self::kernels::Version;

/// An emulated machine keeps one processor of the host busy. More would be faster where there are
/// more, and disturb tests that wait for something to happen in time.
const MOST_JOBS: usize = 2;

/// Variables for the tests: the seed of random numbers, and how much churn one makes that has more
/// of it on demand.
const VARIABLES: [&str; 2] = ["TCP_STATUS_SEED", "TCP_STATUS_CHURN"];

/// What is proved on every kernel: first that the kit makes the sockets it says, which is what
/// the others are judged by. Tests of the socket server and of the command line see the same
/// kernel as natively, and stay there.
const TESTS: [&str; 5] = ["held_sockets", "sources", "live", "faults", "machine"];

#[derive(Debug, Default, Args)]
pub(crate) struct VmArgs {
    /// Kernels, like 6.1, or 6.12-rt for one with PREEMPT_RT [default: 5.10 6.1 6.12 7.2]
    versions: Vec<Version>,
    /// Install what is missing (Debian, as root)
    #[arg(long)]
    install: bool,
    /// Only tests whose name contains this
    #[arg(long, value_name = "TEST", value_parser = parse_filter)]
    filter: Option<String>,
    /// Let interrupts come between any two instructions: several times slower
    #[arg(long)]
    fine_interrupts: bool,
}

impl VmArgs {
    /// All tests on these kernels.
    pub(crate) fn new(versions: Vec<Version>, install: bool) -> Self {
        Self {
            versions,
            install,
            ..Self::default()
        }
    }

    fn versions(&self) -> Result<Vec<Version>> {
        if self.versions.is_empty() {
            return kernels::DEFAULT.iter().map(|text| text.parse()).collect();
        }
        Ok(self.versions.clone())
    }
}

pub(crate) fn run(workspace: &Workspace, args: &VmArgs) -> Result<ExitCode> {
    Ok(tests(workspace, args, &[])?.finish())
}

/// Runs the tests, and shows how each came out; on the kernels in `briefly`, only a few.
pub(crate) fn tests(
    workspace: &Workspace,
    args: &VmArgs,
    briefly: &[Version],
) -> Result<TestTotals> {
    // Built with the tests of its package.
    let traffic = static_path(workspace, "tcp-traffic", "vm");
    let task = Task {
        tests: &TESTS,
        jobs: jobs(&args.versions()?, args.filter.as_deref(), briefly),
        environment: vec![("TCP_TRAFFIC", traffic.display().to_string())],
        files: vec![traffic, program(workspace)],
        limit: TEST_LIMIT,
        verbose: false,
    };
    run_jobs(workspace, args, task)
}

/// The soak on these kernels. `environment` is for the test.
pub(crate) fn soak(
    workspace: &Workspace,
    args: &VmArgs,
    environment: Vec<(&'static str, String)>,
    limit: Duration,
) -> Result<TestTotals> {
    let job = |version: &Version| Job::new(version, "", "--nocapture", PROCESSORS);
    let task = Task {
        tests: &["soak"],
        jobs: args.versions()?.iter().map(job).collect(),
        environment,
        files: vec![program(workspace)],
        limit,
        verbose: true,
    };
    run_jobs(workspace, args, task)
}

fn run_jobs(workspace: &Workspace, args: &VmArgs, mut task: Task) -> Result<TestTotals> {
    let mut versions: Vec<_> = task.jobs.iter().map(|job| job.version.clone()).collect();
    versions.sort();
    versions.dedup();
    let host = Host::new(workspace, &versions, args.install)?;
    let binaries = build_tests(workspace, task.tests)?;
    for name in VARIABLES {
        if let Ok(number) = env::var(name) {
            let number: u64 = number
                .parse()
                .with_context(|| format!("{name} is not a number"))?;
            task.environment.push((name, number.to_string()));
        }
    }
    let accel = if args.fine_interrupts {
        Accel::Fine
    } else {
        host.accel()?
    };
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Run)>> {
        let mut runs = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = task.jobs.get(index) else {
                return Ok(runs);
            };
            let run = boot(&host, &task, job, &binaries, accel)
                .with_context(|| format!("cannot run kernel {}", job.name))?;
            runs.push((index, run));
        }
    };
    let jobs = thread::available_parallelism()?.get().min(MOST_JOBS);
    let runs: Result<Vec<_>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let ends = workers.into_iter().map(|worker| worker.join());
        ends.map(|end| end.unwrap_or_else(|payload| resume_unwind(payload)))
            .collect()
    });
    let runs: BTreeMap<_, _> = runs?.into_iter().flatten().collect();
    let runs: Vec<_> = runs.into_values().collect();
    runs.iter().for_each(Run::show_failures);
    println!("{}", tables(&runs));
    let mut totals = TestTotals::default();
    runs.iter().for_each(|run| totals.add(run.counts()));
    Ok(totals)
}

fn parse_filter(text: &str) -> Result<String, &'static str> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "_:".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("not a part of a test's name")
    }
}

/// Builds the static tests for machines, and with them the program.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    build_tests(workspace, &TESTS).map(drop)
}

/// The static `tcp-status` that [`build`] builds.
pub(crate) fn program(workspace: &Workspace) -> PathBuf {
    static_path(workspace, "tcp-status", "vm")
}

/// Builds test binaries that need no libraries; by name.
fn build_tests(workspace: &Workspace, tests: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    eprintln!("building the tests {}, static", tests.join(", "));
    let tests_of: Vec<_> = tests.iter().flat_map(|test| ["--test", test]).collect();
    let messages = workspace
        .cargo("test --locked --no-run --message-format json-render-diagnostics")
        .with("--package tcp-status --package tcp-status-testkit --profile vm")
        .with(tests_of)
        .with("--target")
        .with(static_triple(workspace))
        .env("CARGO_ENCODED_RUSTFLAGS", static_flags())
        .read()?;
    let mut built = BTreeMap::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line).context("cargo did not print JSON")?;
        let target = &message["target"];
        if let (Some(name), Some(path), Some("test")) = (
            target["name"].as_str(),
            message["executable"].as_str(),
            target["kind"][0].as_str(),
        ) {
            built.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    for &test in tests {
        ensure!(
            built.contains_key(test),
            "cargo built no test binary {test}"
        );
    }
    Ok(built)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_cannot_leave_the_shell_word() {
        assert!(parse_filter("live::seed").is_ok());
        assert!(parse_filter("a'b").is_err() && parse_filter("").is_err());
    }
}
