//! `cargo xtask vm`: the same tests on several kernels, each in a virtual machine: a kernel from
//! Debian's packages, a small initramfs, QEMU. The result is read from what the machine prints.

mod accel;
mod binaries;
mod cpio;
pub(crate) mod guest;
mod initramfs;
mod kernels;
mod lines;
mod matrix;
mod plan;
mod qemu;
mod report;
mod table;
pub(crate) mod trial;
mod verdict;

use std::{
    collections::BTreeSet,
    env, fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

pub(crate) use self::kernels::Version;

use self::{
    initramfs::Content,
    kernels::Kernel,
    matrix::{Job, Matrix, Run},
    plan::{Machine, plan},
    qemu::Accel,
};
use crate::{
    apt::{self, Apt},
    step::Step,
    tally::Tally,
    toolchain,
    workspace::Workspace,
};

/// Programs beside Debian's own, and the packages that bring them.
const PROGRAMS: [(&str, &str); 2] = [(qemu::PROGRAM, "qemu-system-x86"), ("xz", "xz-utils")];

/// An emulated machine keeps one processor of the host busy. More would be faster where there are
/// more, and disturb tests that wait for something to happen in time.
const MOST_JOBS: usize = 2;

/// Of the random numbers of the tests.
const SEED: &str = "TCP_STATUS_SEED";

/// How much churn a test makes that has more of it on demand.
const CHURN: &str = "TCP_STATUS_CHURN";

/// What is proved on every kernel: first that the kit makes the sockets it says, which is what
/// the others are judged by. Tests of the socket server and of the command line see the same
/// kernel as natively, and stay there.
const TESTS: [&str; 4] = ["hold", "sources", "live", "machine"];

/// How long each of them may take.
const TEST_LIMIT: Duration = Duration::from_mins(35);

/// Arguments of `vm`.
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
    /// Machines at a time [default: as many as processors, and at most 2]
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// Let interrupts come between any two instructions: several times slower
    #[arg(long)]
    fine_interrupts: bool,
    /// Leave each machine's initramfs, and say how to boot it again
    #[arg(long)]
    keep: bool,
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
    let tally = tests(workspace, args, &[])?;
    println!("{tally}");
    Ok(tally.exit_code())
}

/// Runs the tests, and says how each came out; on the kernels in `briefly`, only a few.
pub(crate) fn tests(workspace: &Workspace, args: &VmArgs, briefly: &[Version]) -> Result<Tally> {
    let task = Task {
        tests: &TESTS,
        machines: plan(&args.versions()?, args.filter.as_deref(), briefly),
        environment: Vec::new(),
        files: Vec::new(),
        limit: TEST_LIMIT,
        aloud: false,
    };
    run_machines(workspace, args, task)
}

/// The soak on these kernels. `environment` is for the test.
pub(crate) fn soak(
    workspace: &Workspace,
    args: &VmArgs,
    environment: Vec<(&'static str, String)>,
    limit: Duration,
) -> Result<Tally> {
    let machine = |version: &Version| Machine {
        arguments: ["--test-threads=1", "--nocapture"]
            .map(str::to_owned)
            .into(),
        ..Machine::new(version, "", &[])
    };
    let task = Task {
        tests: &["soak"],
        machines: args.versions()?.iter().map(machine).collect(),
        environment,
        files: vec![program(workspace)],
        limit,
        aloud: true,
    };
    run_machines(workspace, args, task)
}

/// Builds the static tests for machines, and with them the program.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    binaries::build(workspace, &TESTS).map(drop)
}

/// The static `tcp-status` that [`build`] builds.
pub(crate) fn program(workspace: &Workspace) -> PathBuf {
    binaries::beside(workspace, "tcp-status")
}

/// What the machines do.
struct Task {
    /// Test binaries.
    tests: &'static [&'static str],
    machines: Vec<Machine>,
    environment: Vec<(&'static str, String)>,
    /// What they look for where it lies on this machine.
    files: Vec<PathBuf>,
    /// How long a test binary may take.
    limit: Duration,
    /// Show what they say.
    aloud: bool,
}

fn run_machines(workspace: &Workspace, args: &VmArgs, mut task: Task) -> Result<Tally> {
    provide(&PROGRAMS, args.install, "vm")?;
    let folder = workspace.target.join("vm");
    let runs_folder = folder.join("runs");
    fs::create_dir_all(&runs_folder)
        .with_context(|| format!("cannot make {}", runs_folder.display()))?;
    let apt = Apt::new(folder.join("apt"), &kernels::SUITES)?;
    let versions: BTreeSet<_> = task
        .machines
        .iter()
        .map(|one| one.version.clone())
        .collect();
    let versions: Vec<_> = versions.into_iter().collect();
    let kernels = kernels::get(&apt, &folder.join("kernels"), &versions)?;
    let busybox = busybox(&apt, &folder.join("busybox"))?;
    let tests = binaries::build(workspace, task.tests)?;
    for name in [SEED, CHURN] {
        if let Ok(number) = env::var(name) {
            let number: u64 = number
                .parse()
                .with_context(|| format!("{name} is no number"))?;
            task.environment.push((name, number.to_string()));
        }
    }
    let content = Content {
        busybox: &busybox,
        tests: &tests,
        arguments: &[],
        environment: &task.environment,
        files: &task.files,
        limit: task.limit,
    };
    let job = |machine| job(machine, &kernels, content);
    let jobs = task.machines.iter().map(job).collect::<Result<Vec<_>>>()?;
    let first = kernels.first().context("no kernel")?;
    let accel = if args.fine_interrupts {
        Accel::Fine
    } else {
        accel::best(&folder, first, &content)?
    };
    let matrix = Matrix {
        folder: &runs_folder,
        accel,
        keep: args.keep,
        aloud: task.aloud,
    };
    let runs = matrix.run(&jobs, at_a_time(args.jobs))?;
    Ok(report(&matrix, &runs))
}

fn job<'a>(machine: &'a Machine, kernels: &'a [Kernel], content: Content<'a>) -> Result<Job<'a>> {
    let kernel = kernels
        .iter()
        .find(|kernel| kernel.version == machine.version);
    Ok(Job {
        name: machine.name.clone(),
        kernel: kernel.context("no kernel")?,
        cpus: machine.cpus,
        content: Content {
            arguments: &machine.arguments,
            ..content
        },
    })
}

/// Prints how the machines' tests came out, and counts them.
fn report(matrix: &Matrix<'_>, runs: &[Run]) -> Tally {
    for run in runs {
        show_failures(run, &matrix.log(&run.name));
        if let Some(crash) = &run.earlier_crash {
            let log = matrix.crash_log(&run.name);
            eprintln!(
                "{}: crashed in its first run: {crash}; see {}",
                run.name,
                log.display()
            );
        }
    }
    println!("{}", table::tests(runs));
    if let Some(figures) = table::figures(runs) {
        println!("{figures}");
    }
    let mut tally = Tally::default();
    for run in runs {
        tally.add(run.counts());
    }
    tally
}

fn parse_filter(text: &str) -> Result<String, &'static str> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "_:".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("not a part of a test's name")
    }
}

fn at_a_time(given: Option<NonZeroUsize>) -> usize {
    given.map_or_else(
        || {
            let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
            processors.min(MOST_JOBS)
        },
        NonZeroUsize::get,
    )
}

/// Makes sure of everything that is not brought by this program itself, which `command` of it
/// needs.
fn provide(programs: &[(&str, &str)], install: bool, command: &str) -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "virtual machines run on x86-64 only: tests and kernels are for the machine they run on"
    );
    for program in ["apt-get", "apt-cache", "dpkg-deb"] {
        ensure!(
            exists(program),
            "no {program}: kernels come as Debian packages; run this on Debian or in its container"
        );
    }
    let missing: Vec<_> = programs
        .iter()
        .filter(|(program, _)| !exists(program))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing
        .iter()
        .map(|(_, package)| (*package).to_owned())
        .collect();
    if install {
        return toolchain::apt_install(&packages);
    }
    let names: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    bail!(
        "missing: {}; `apt-get install --no-install-recommends {}` as root brings it, and so does \
         `cargo xtask {command} --install`",
        names.join(", "),
        packages.join(" ")
    )
}

fn exists(program: &str) -> bool {
    Step::new(program).arg("--version").ask().is_some()
}

/// A static busybox, from its package: the host's own may be missing or not static.
fn busybox(apt: &Apt, folder: &Path) -> Result<PathBuf> {
    const PACKAGE: &str = "busybox-static";
    let path = folder.join("busybox");
    if path.is_file() {
        return Ok(path);
    }
    let tree = folder.join("tree");
    fs::create_dir_all(&tree).with_context(|| format!("cannot make {}", tree.display()))?;
    let versions = apt.versions(PACKAGE)?;
    let version = versions.first().context("no package busybox-static")?;
    let deb = apt.download(PACKAGE, version, folder)?;
    apt::unpack(&deb, &tree)?;
    // In /bin or, since Debian 13, in /usr/bin.
    let unpacked = ["usr/bin/busybox", "bin/busybox"]
        .map(|place| tree.join(place))
        .into_iter()
        .find(|path| path.is_file())
        .context("busybox-static holds no busybox")?;
    fs::rename(&unpacked, &path).with_context(|| format!("cannot make {}", path.display()))?;
    fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    fs::remove_file(&deb).with_context(|| format!("cannot remove {}", deb.display()))?;
    Ok(path)
}

/// What went wrong on a kernel, with the words of the tests or of the console.
fn show_failures(run: &Run, log: &Path) {
    for binary in &run.report.binaries {
        for (test, output) in &binary.failures {
            eprintln!("---- {} on {} ----", test, run.name);
            eprintln!("{}", output.trim_end());
        }
    }
    if run.problems.is_empty() {
        return;
    }
    eprintln!("---- the end of what {} said ----", run.name);
    for line in &run.tail {
        eprintln!("{line}");
    }
    for problem in &run.problems {
        eprintln!("{}: {problem}", run.name);
    }
    eprintln!(
        "{}: everything that it said is in {}",
        run.name,
        log.display()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_parts_of_names() {
        assert_eq!(parse_filter("churn::a_1"), Ok("churn::a_1".to_owned()));
        for text in ["", "a b", "a;b", "$(a)", "'"] {
            parse_filter(text).unwrap_err();
        }
    }

    #[test]
    fn at_least_one_machine_runs() {
        assert!((1..=MOST_JOBS).contains(&at_a_time(None)));
        assert_eq!(at_a_time(NonZeroUsize::new(7)), 7);
    }
}
