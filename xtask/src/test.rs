//! `cargo xtask test`: builds, lints and tests everything, and counts. Changes no file of the
//! repository: an eBPF object that its sources would not make is a failure, not a rebuild.

use std::{
    io::{BufRead as _, BufReader},
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::{
    lint,
    object::{self, OBJECT, Record, digest},
    step::{run, step},
    test_totals::{Outcome, SKIPPED, TestTotals},
    toolchain::{Toolchain, apt_install},
    vm,
    workspace::Workspace,
    zabbix,
};

/// Programs that tests compare with or run under, and clippy for the BPF target.
const PACKAGES: &str = "fish iproute2 iptables net-tools prometheus python3-venv rust-web-clippy strace zabbix-agent zsh";

/// Live tests have a network namespace each, but share the kernel: a few trackers beside each
/// other show that they do not disturb each other, many only disturb the timing.
const TEST_THREADS: &str = "2";

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Install what is missing for the tests and for the BPF target (Debian, as root)
    #[arg(long)]
    install: bool,
    /// Run `cargo xtask zabbix` too, counted together
    #[arg(long)]
    zabbix: bool,
    /// Run `cargo xtask vm` with these kernels too, counted together
    #[arg(long, value_name = "VERSION", num_args = 1..)]
    vm: Vec<vm::Version>,
    /// Also run on these kernels only what shows that they load the programs and count
    #[arg(long, value_name = "VERSION", num_args = 1.., requires = "vm")]
    vm_briefly: Vec<vm::Version>,
}

pub(crate) fn run(workspace: &Workspace, args: &TestArgs) -> Result<ExitCode> {
    let toolchain = Toolchain::provide(workspace, args.install)?;
    if args.install {
        apt_install(PACKAGES)?;
    }
    let mut totals = TestTotals::default();
    totals.check("eBPF object", || match &toolchain {
        Ok(toolchain) => compare(workspace, toolchain),
        Err(missing) => Ok(Outcome::Skipped(missing.to_string())),
    });
    lint::check(workspace, &toolchain, &mut totals);
    totals.check("deploy", || {
        if step!("python3 -m venv --help").try_read().is_none() {
            let reason = "no Python with venv; install it on Debian: apt-get install python3-venv";
            return Ok(Outcome::Skipped(reason.into()));
        }
        if !cfg!(target_arch = "x86_64") {
            return Ok(Outcome::Skipped(
                "there is a kubectl for x86-64 only".into(),
            ));
        }
        let tools = workspace.target.join("deploy");
        step!("deploy/check", tools).folder(&workspace.root).run()?;
        Ok(().into())
    });
    totals.check("static binary", || {
        // As it is in the machines: a release would build everything that it is made of once more.
        vm::build(workspace)?;
        run!(vm::program(workspace), "--version")
    });
    let tests = part("tests", || cargo_test(workspace));
    totals.add(tests);
    if args.zabbix {
        totals.add(part("zabbix", || zabbix::run_all(workspace, args.install)));
    }
    if !args.vm.is_empty() {
        let machines = vm::VmArgs::new(args.vm.clone(), args.install);
        let tests = || vm::tests(workspace, &machines, &args.vm_briefly);
        totals.add(part("virtual machines", tests));
    }
    let code = totals.finish();
    // The checks around the tests do not stand for them.
    if tests.passed == 0 {
        eprintln!("xtask: no test ran; the reasons are above");
        return Ok(ExitCode::FAILURE);
    }
    Ok(code)
}

/// Counts as a failure what keeps a part from being tried at all.
fn part(name: &str, run: impl FnOnce() -> Result<TestTotals>) -> TestTotals {
    eprintln!("== {name}");
    let mut totals = TestTotals::default();
    match run() {
        Ok(found) => totals = found,
        Err(error) => totals.check::<()>(name, || Err(error)),
    }
    eprintln!("== {name}: {totals}");
    totals
}

/// Builds the object and compares it with the kept one.
fn compare(workspace: &Workspace, toolchain: &Toolchain) -> Result<Outcome> {
    let record = Record::read_valid(&workspace.root)?;
    let built = digest(&object::build(workspace, toolchain)?);
    if built == record.object {
        return Ok(().into());
    }
    let compiler = toolchain.compiler.describe();
    ensure!(
        compiler != record.compiler,
        "{OBJECT} is not what its sources make (kept {}, built {built}); \
         `cargo xtask build` updates it",
        record.object
    );
    Ok(Outcome::Skipped(format!(
        "it builds, but by {compiler}; the kept one is by {}, so their bytes may differ",
        record.compiler
    )))
}

fn cargo_test(workspace: &Workspace) -> Result<TestTotals> {
    let threads = std::env::var("RUST_TEST_THREADS").unwrap_or_else(|_| TEST_THREADS.to_owned());
    let step = workspace
        .cargo("test --locked --no-fail-fast -- --color never")
        // What is skipped for want of a privilege or a program is counted below.
        .env("TCP_STATUS_ALLOW_SKIPS", "1")
        .env("RUST_TEST_THREADS", threads);
    let mut child = step
        .command()
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{step}`"))?;
    let mut counter = Counter::default();
    for line in BufReader::new(child.stdout.take().context("no stdout")?).split(b'\n') {
        let line = line.with_context(|| format!("cannot read from `{step}`"))?;
        let line = String::from_utf8_lossy(&line);
        counter.add(&line);
        eprintln!("{line}");
    }
    let status = child.wait()?;
    let mut totals = counter.totals;
    if !status.success() && totals.failed == 0 {
        // It did not come to testing, or a test binary died.
        eprintln!("`{step}` failed ({status})");
        totals.failed += 1;
    }
    Ok(totals)
}

/// Counts what `cargo test` prints.
#[derive(Debug, Default)]
struct Counter {
    totals: TestTotals,
    /// Tests of the running binary that printed a skip.
    skipped: u64,
}

impl Counter {
    fn add(&mut self, line: &str) {
        if line.starts_with(SKIPPED) {
            self.skipped += 1;
        } else if let Some(binary) = result(line) {
            let skipped = std::mem::take(&mut self.skipped).min(binary.passed);
            self.totals.add(TestTotals {
                passed: binary.passed - skipped,
                failed: binary.failed,
                skipped: binary.skipped + skipped,
                ..binary
            });
        }
    }
}

/// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s`
fn result(line: &str) -> Option<TestTotals> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        let mut counts = counts.split("; ");
        counts.find_map(|count| count.strip_suffix(what)?.trim_end().parse().ok())
    };
    Some(TestTotals {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored")?,
        ..TestTotals::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_counted_over_all_binaries_and_a_skip_is_no_success() {
        let result = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; \
                      0 filtered out; finished in 0.01s";
        let failed = "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; ";
        let mut counter = Counter::default();
        for line in [
            "running 4 tests",
            "test a ... ",
            "SKIPPED: no BTF",
            "ok",
            result,
        ] {
            counter.add(line);
        }
        counter.add(result);
        counter.add("SKIPPED: half of it");
        counter.add(failed);
        assert_eq!(counter.totals.to_string(), "5 passed, 1 failed, 3 skipped");
    }
}
