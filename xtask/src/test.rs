//! `cargo xtask test`: builds, lints and tests everything, and counts. Changes no file of the
//! repository: an eBPF object that its sources would not make is a failure, not a rebuild.

use std::{
    io::{BufRead as _, BufReader},
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use xtask::object::{OBJECT, Record, digest};

use crate::{
    build::ebpf,
    libtest::Reader,
    lint,
    step::Step,
    tally::{Outcome, Tally},
    toolchain::{self, Facts, Plan, Toolchain},
    vm,
    workspace::Workspace,
    zabbix,
};

/// Programs that tests compare with or run under, and clippy for the BPF target.
const PACKAGES: [&str; 6] = [
    "iproute2",
    "net-tools",
    "prometheus",
    "rust-web-clippy",
    "strace",
    "zabbix-agent",
];

/// Live tests have a network namespace each, but share the kernel: a few trackers beside each
/// other show that they do not disturb each other, many only disturb the timing.
const TEST_THREADS: &str = "2";

/// Arguments of `test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Install what is missing for the tests and for the BPF target (Debian, as root)
    #[arg(long)]
    install: bool,
    /// Then the same as `zabbix`, counted together
    #[arg(long)]
    zabbix: bool,
    /// Then the same as `vm` with these kernels, counted together
    #[arg(long, value_name = "VERSION", num_args = 1..)]
    vm: Vec<vm::Version>,
    /// Beside them, with these kernels, whether they take the programs and count from the start
    #[arg(long, value_name = "VERSION", num_args = 1.., requires = "vm")]
    vm_briefly: Vec<vm::Version>,
}

pub(crate) fn run(workspace: &Workspace, args: &TestArgs) -> Result<ExitCode> {
    let plan = if args.install {
        let toolchain = toolchain::install(workspace)?;
        toolchain::apt_install(&PACKAGES.map(str::to_owned))?;
        Plan::Ready(toolchain)
    } else {
        Plan::from_facts(&Facts::probe(workspace)?)
    };
    let mut tally = Tally::default();
    tally.check("eBPF object", || match &plan {
        Plan::Ready(toolchain) => compare(workspace, toolchain),
        Plan::Missing(cures) => Ok(Outcome::Skipped(toolchain::describe(cures))),
    });
    lint::check(workspace, &plan, &mut tally);
    tally.check("static binary", || {
        // As it is in the machines: a release would build everything that it is made of once more.
        vm::build(workspace)?;
        Step::new(vm::program(workspace)).arg("--version").run()?;
        Ok(Outcome::Passed)
    });

    eprintln!("== tests");
    let tests = cargo_test(workspace)?;
    eprintln!("== tests: {tests}");
    tally.add(tests);
    if args.zabbix {
        tally.add(zabbix_servers(workspace, args));
    }
    if !args.vm.is_empty() {
        tally.add(virtual_machines(workspace, args));
    }
    println!("{tally}");
    // The checks around the tests do not stand for them.
    if tests.passed == 0 {
        eprintln!("xtask: no test ran; what each was skipped for stands above");
        return Ok(ExitCode::FAILURE);
    }
    Ok(tally.exit_code())
}

/// Counts as a failure what keeps the servers from being tried at all.
fn zabbix_servers(workspace: &Workspace, args: &TestArgs) -> Tally {
    eprintln!("== zabbix");
    let steps = zabbix::run_all(workspace, args.install).unwrap_or_else(|error| {
        eprintln!("== zabbix: FAILED: {error:#}");
        Tally {
            failed: 1,
            ..Tally::default()
        }
    });
    eprintln!("== zabbix: {steps}");
    steps
}

/// Counts as a failure what keeps the machines from being run at all.
fn virtual_machines(workspace: &Workspace, args: &TestArgs) -> Tally {
    eprintln!("== virtual machines");
    let machines = vm::VmArgs::new(args.vm.clone(), args.install);
    let tests = vm::tests(workspace, &machines, &args.vm_briefly).unwrap_or_else(|error| {
        eprintln!("== virtual machines: FAILED: {error:#}");
        Tally {
            failed: 1,
            ..Tally::default()
        }
    });
    eprintln!("== virtual machines: {tests}");
    tests
}

/// Builds the object and compares it with the kept one.
fn compare(workspace: &Workspace, toolchain: &Toolchain) -> Result<Outcome> {
    let record = Record::read(&workspace.root)?;
    record.check(&workspace.root)?;
    let built = digest(&ebpf::build(workspace, toolchain)?);
    if built == record.object {
        return Ok(Outcome::Passed);
    }
    let compiler = toolchain.compiler.describe();
    if compiler != record.compiler {
        return Ok(Outcome::Skipped(format!(
            "it builds, but by {compiler}; the kept one is by {}, so their bytes may differ",
            record.compiler
        )));
    }
    bail!(
        "{OBJECT} is not what its sources make (kept {}, built {built}); \
         `cargo xtask build` updates it",
        record.object
    )
}

fn cargo_test(workspace: &Workspace) -> Result<Tally> {
    let step = Step::cargo()
        .args(["test", "--locked", "--no-fail-fast", "--"])
        .args(["--show-output", "--color", "never"])
        // What is skipped for want of a privilege or a program is counted below.
        .env("TCP_STATUS_ALLOW_SKIPS", "1");
    let step = if std::env::var_os("RUST_TEST_THREADS").is_some() {
        step
    } else {
        step.env("RUST_TEST_THREADS", TEST_THREADS)
    };
    let mut child = workspace
        .at_root(step.clone())
        .command()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{step}`"))?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let mut reader = Reader::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.with_context(|| format!("cannot read from `{step}`"))?;
        let line = String::from_utf8_lossy(&line);
        if reader.line(&line) {
            eprintln!("{line}");
        }
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for `{step}`"))?;
    let mut tally = reader.finished();
    if !status.success() && tally.failed == 0 {
        // It did not come to testing, or not to all of it.
        eprintln!("`{step}` failed ({status})");
        tally.failed += 1;
    }
    Ok(tally)
}
