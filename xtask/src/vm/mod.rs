//! `cargo xtask vm`: the same tests on several kernels, each in a virtual machine: a kernel from
//! Debian's packages, a small initramfs, QEMU. The result is read from what the machine prints.

pub(crate) mod guest;
mod kernels;
mod machine;
mod report;
pub(crate) mod trial;

use std::{
    collections::{BTreeMap, VecDeque},
    env, fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use self::{
    kernels::{Kernel, SUITES},
    machine::{Accel, Machine, Tree},
    report::{Outcome, Report},
};
use crate::{
    apt::{self, Apt},
    build::{static_flags, static_path, static_triple},
    files,
    step::Step,
    tally::Tally,
    toolchain::{apt_install, exists},
    workspace::Workspace,
};

pub(crate) use self::kernels::Version;

/// Programs beside Debian's own, and the packages that contain them.
const PROGRAMS: [(&str, &str); 2] = [(machine::PROGRAM, "qemu-system-x86"), ("xz", "xz-utils")];

/// An emulated machine keeps one processor of the host busy. More would be faster where there are
/// more, and disturb tests that wait for something to happen in time.
const MOST_JOBS: usize = 2;

/// Variables for the tests: the seed of random numbers, and how much churn one makes that has more
/// of it on demand.
const VARIABLES: [&str; 2] = ["TCP_STATUS_SEED", "TCP_STATUS_CHURN"];

/// What is proved on every kernel: first that the kit makes the sockets it says, which is what
/// the others are judged by. Tests of the socket server and of the command line see the same
/// kernel as natively, and stay there.
const TESTS: [&str; 4] = ["hold", "sources", "live", "machine"];

/// How long each of them may take.
const TEST_LIMIT: Duration = Duration::from_mins(35);

/// Tests report only when they end. Emulated, on a host that is idle, the longest takes a minute.
const SILENCE: Duration = Duration::from_mins(5);

/// What a machine may take beside its longest test binary, which is killed when its time is over.
const REST: Duration = Duration::from_mins(5);

/// In the names of tests that show nothing of a kernel, and run natively only unless a filter
/// selects them: when the tracker audits and walks, by its own clock, and what lasts for a minute
/// or half of one.
const NATIVE: [&str; 3] = ["pacing::", "split::", "a_minute"];

/// In the name of the test that suspends its machine.
const SUSPENSION: &str = "suspension";

/// In the names of the tests that show that a kernel takes the programs, and that they count right
/// from the start.
const BRIEF: &str = "seeding";

/// Of a machine that is suspended: QEMU 10.0 does not wake an emulated one that has more, whose
/// processors leave the firmware's code on their way.
const SUSPENDED_PROCESSORS: u32 = 1;

/// Of all other machines: so interrupts and processes are truly at the same time.
const PROCESSORS: u32 = 2;

const INIT: &str = include_str!("init.sh");

/// A machine with KVM that works needs two seconds.
const KVM_LIMIT: Duration = Duration::from_secs(20);

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
    /// Keep each machine's initramfs, and print how to boot it again
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

/// One machine of a run, and which tests it runs.
#[derive(Debug)]
struct Job {
    version: Version,
    /// Unlike that of any other, and part of a file's name.
    name: String,
    /// Of each test binary. None has a space or a quote.
    arguments: String,
    cpus: u32,
}

impl Job {
    fn new(version: &Version, suffix: &str, arguments: &str, cpus: u32) -> Self {
        let fixed = "--test-threads=1 --show-output -Z unstable-options --format json";
        Self {
            version: version.clone(),
            name: format!("{version}{suffix}"),
            arguments: format!("{fixed} {arguments}"),
            cpus,
        }
    }
}

/// What the machines do.
struct Task {
    /// Test binaries.
    tests: &'static [&'static str],
    jobs: Vec<Job>,
    environment: Vec<(&'static str, String)>,
    /// What they look for where it lies on this machine.
    files: Vec<PathBuf>,
    /// How long a test binary may take.
    limit: Duration,
    /// Show everything that they print.
    aloud: bool,
}

/// What came out of one machine.
#[derive(Debug)]
struct Run {
    name: String,
    /// Version of the kernel's package.
    package: String,
    cpus: u32,
    accel: Accel,
    /// From start to end, with the boot.
    time: Duration,
    report: Report,
    problems: Vec<String>,
    /// Of this run and of the one before, which was repeated for it.
    crashes: usize,
    /// The last lines of both ports.
    tail: VecDeque<String>,
}

impl Run {
    fn counts(&self) -> Tally {
        self.report.counts(&self.problems)
    }
}

pub(crate) fn run(workspace: &Workspace, args: &VmArgs) -> Result<ExitCode> {
    let tally = tests(workspace, args, &[])?;
    println!("{tally}");
    Ok(tally.exit_code())
}

/// Runs the tests, and shows how each came out; on the kernels in `briefly`, only a few.
pub(crate) fn tests(workspace: &Workspace, args: &VmArgs, briefly: &[Version]) -> Result<Tally> {
    let task = Task {
        tests: &TESTS,
        jobs: jobs(&args.versions()?, args.filter.as_deref(), briefly),
        environment: Vec::new(),
        files: Vec::new(),
        limit: TEST_LIMIT,
        aloud: false,
    };
    run_jobs(workspace, args, task)
}

/// The soak on these kernels. `environment` is for the test.
pub(crate) fn soak(
    workspace: &Workspace,
    args: &VmArgs,
    environment: Vec<(&'static str, String)>,
    limit: Duration,
) -> Result<Tally> {
    let job = |version: &Version| Job::new(version, "", "--nocapture", PROCESSORS);
    let task = Task {
        tests: &["soak"],
        jobs: args.versions()?.iter().map(job).collect(),
        environment,
        files: vec![program(workspace)],
        limit,
        aloud: true,
    };
    run_jobs(workspace, args, task)
}

/// The machines, the longest first, so that none of them is alone at the end.
fn jobs(versions: &[Version], filter: Option<&str>, briefly: &[Version]) -> Vec<Job> {
    let is_suspension = filter.is_some_and(|filter| SUSPENSION.contains(filter));
    let native = NATIVE.iter().filter(|_| filter.is_none());
    let skipped = native
        .chain([&SUSPENSION])
        .map(|name| format!("--skip {name}"));
    let most: Vec<_> = skipped.chain(filter.map(str::to_owned)).collect();
    let most = most.join(" ");
    let mut jobs = Vec::new();
    for version in versions.iter().filter(|_| !is_suspension) {
        jobs.push(Job::new(version, "", &most, PROCESSORS));
    }
    for version in versions
        .iter()
        .filter(|_| is_suspension || filter.is_none())
    {
        jobs.push(Job::new(
            version,
            "-suspended",
            SUSPENSION,
            SUSPENDED_PROCESSORS,
        ));
    }
    for version in briefly {
        jobs.push(Job::new(version, "-briefly", BRIEF, PROCESSORS));
    }
    jobs
}

/// What every machine is made of.
struct Host {
    /// For everything that is kept and logged.
    folder: PathBuf,
    kernels: Vec<Kernel>,
    busybox: PathBuf,
}

impl Host {
    /// Gets the kernels, and what else `command` needs, unless it is there already.
    fn new(workspace: &Workspace, versions: &[Version], install: bool) -> Result<Self> {
        provide(&PROGRAMS, install)?;
        let folder = workspace.target.join("vm");
        files::create_folder(folder.join("runs"))?;
        let apt = Apt::new(folder.join("apt"), &SUITES)?;
        Ok(Self {
            kernels: kernels::get(&apt, &folder.join("kernels"), versions)?,
            busybox: busybox(&apt, &folder.join("busybox"))?,
            folder,
        })
    }

    fn kernel(&self, version: &Version) -> Result<&Kernel> {
        let mut kernels = self.kernels.iter();
        let found = kernels.find(|kernel| kernel.version == *version);
        found.with_context(|| format!("no kernel {version}"))
    }

    /// KVM if a machine boots with it, because on some hosts it is there, and hangs. The answer
    /// serves until the host boots again.
    fn accel(&self) -> Result<Accel> {
        if fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            return Ok(Accel::Tcg);
        }
        let answer = self.folder.join("kvm");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let known = fs::read_to_string(&answer).unwrap_or_default();
        let works = match known.strip_prefix(&boot) {
            Some(known) => known == "works",
            None => {
                eprintln!("trying KVM, for at most {} s", KVM_LIMIT.as_secs());
                let kernel = self.kernels.first().context("no kernel")?;
                let initramfs = self.folder.join("kvm.initramfs");
                let tree = Tree::new(&self.busybox, kernel, INIT)?;
                tree.write("plan", "NAME=kvm TESTS=")?;
                tree.pack(&initramfs)?;
                let mut report = Report::default();
                let log = self.folder.join("kvm.log");
                Machine {
                    accel: Accel::Kvm,
                    silence: KVM_LIMIT,
                    limit: KVM_LIMIT,
                    ..self.machine(kernel, &initramfs, &log)
                }
                .run(|line, now| {
                    report.line(line, now);
                    report.done
                })?;
                files::remove(&initramfs)?;
                let word = if report.done { "works" } else { "hangs" };
                eprintln!("KVM {word}");
                files::write(&answer, format!("{boot}{word}"))?;
                report.done
            }
        };
        Ok(if works { Accel::Kvm } else { Accel::Tcg })
    }

    fn machine<'a>(&self, kernel: &'a Kernel, initramfs: &'a Path, log: &'a Path) -> Machine<'a> {
        Machine {
            kernel,
            initramfs,
            log,
            cpus: PROCESSORS,
            room: 0,
            memory: machine::MEMORY,
            accel: Accel::Tcg,
            silence: SILENCE,
            limit: TEST_LIMIT + REST,
        }
    }
}

fn run_jobs(workspace: &Workspace, args: &VmArgs, mut task: Task) -> Result<Tally> {
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
    let runs = Mutex::new(BTreeMap::new());
    let work = || -> Result<()> {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = task.jobs.get(place) else {
                return Ok(());
            };
            let run = boot(&host, &task, job, &binaries, accel, args.keep)
                .with_context(|| format!("cannot run kernel {}", job.name))?;
            let mut runs = runs.lock().map_err(|_| anyhow::anyhow!("a run panicked"))?;
            runs.insert(place, run);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_a_time(args.jobs))
            .map(|_| scope.spawn(work))
            .collect();
        let ends = workers.into_iter().map(|worker| match worker.join() {
            Ok(end) => end,
            Err(payload) => std::panic::resume_unwind(payload),
        });
        ends.collect::<Result<()>>()
    })?;
    let runs: Vec<_> = runs.into_inner()?.into_values().collect();
    for run in &runs {
        show_failures(run);
    }
    println!("{}", report::tables(&runs));
    let mut tally = Tally::default();
    for run in &runs {
        tally.add(run.counts());
    }
    Ok(tally)
}

/// Runs a machine, and once more if it crashes: a crash concerns the kernel or the emulator first,
/// and shows nothing about the tests that it cut off.
fn boot(
    host: &Host,
    task: &Task,
    job: &Job,
    binaries: &BTreeMap<String, PathBuf>,
    accel: Accel,
    keep: bool,
) -> Result<Run> {
    let Job { name, cpus, .. } = job;
    let kernel = host.kernel(&job.version)?;
    let folder = host.folder.join("runs");
    let (initramfs, log) = (
        folder.join(format!("{name}.initramfs")),
        folder.join(format!("{name}.log")),
    );
    let tree = Tree::new(&host.busybox, kernel, INIT)?;
    let mut plan = format!(
        "NAME='linux-{}'\nTESTS='{}'\nARGUMENTS='{}'\nLIMIT='{}'\n",
        kernel.version,
        task.tests.join(" "),
        job.arguments,
        task.limit.as_secs()
    );
    for (name, value) in &task.environment {
        plan += &format!("export {name}='{value}'\n");
    }
    tree.write("plan", &plan)?;
    for (name, path) in binaries {
        tree.copy(path, &format!("tests/{name}"))?;
    }
    for file in &task.files {
        tree.copy(
            file,
            file.to_str()
                .context("a path is not text")?
                .trim_start_matches('/'),
        )?;
    }
    tree.pack(&initramfs)?;
    let machine = Machine {
        cpus: *cpus,
        accel,
        limit: task.limit + REST,
        ..host.machine(kernel, &initramfs, &log)
    };
    let mut crashes = 0;
    let run = loop {
        let package = &kernel.package;
        eprintln!(
            "{name}: booting {package} with {cpus} processors, {}",
            accel.name()
        );
        let mut report = Report::default();
        let start = Instant::now();
        let ended = machine.run(|line, now| {
            if task.aloud {
                eprintln!("{line}");
            }
            if let Some(news) = report.line(line, now) {
                eprintln!("{name}: {news}");
            }
            report.done
        })?;
        let time = start.elapsed();
        if !report.done {
            report.stop(time);
        }
        if ended.crash.is_some() {
            crashes += 1;
            if crashes == 1 {
                let kept = log.with_extension("crash.log");
                files::rename(&log, &kept)?;
                eprintln!("{name}: crashed, see {}; starting it again", kept.display());
                continue;
            }
        }
        break Run {
            name: name.clone(),
            package: package.clone(),
            cpus: *cpus,
            accel,
            time,
            problems: report.problems(&ended, task.tests),
            report,
            crashes,
            tail: ended.tail,
        };
    };
    if keep {
        eprintln!("{name}: to boot it again: {}", machine.step());
    } else {
        files::remove(&initramfs)?;
    }
    eprintln!(
        "{name}: {} in {:.0} s",
        run.counts(),
        run.time.as_secs_f64()
    );
    Ok(run)
}

/// What went wrong on a kernel, with the output of the tests and of the console.
fn show_failures(run: &Run) {
    let name = &run.name;
    for (test, failed) in run.report.tests() {
        if failed.outcome == Outcome::Failed {
            eprintln!("---- {test} on {name} ----\n{}", failed.output.trim_end());
        }
    }
    if run.problems.is_empty() {
        return;
    }
    eprintln!("---- the last lines of {name} ----");
    for line in run.tail.iter().chain(&run.problems) {
        eprintln!("{line}");
    }
    eprintln!("everything that it printed is in target/vm/runs/{name}.log");
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
    let processors = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    given.map_or_else(|| processors().min(MOST_JOBS), NonZeroUsize::get)
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
    let step = Step::cargo()
        .args([
            "test",
            "--locked",
            "--no-run",
            "--message-format",
            "json-render-diagnostics",
        ])
        .args(["--package", "tcp-status", "--package", "tcp-status-testkit"])
        .args(tests.iter().flat_map(|test| ["--test", test]))
        .args(["--profile", "vm", "--target", &static_triple(workspace)])
        .env("CARGO_ENCODED_RUSTFLAGS", static_flags());
    let messages = workspace.at_root(step).read()?;
    let mut built = BTreeMap::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line).context("cargo did not print JSON")?;
        let (name, path) = (
            message["target"]["name"].as_str(),
            message["executable"].as_str(),
        );
        if let (Some(name), Some(path), "test") = (
            name,
            path,
            message["target"]["kind"][0].as_str().unwrap_or_default(),
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

/// Makes sure of the programs that are needed.
fn provide(programs: &[(&str, &str)], install: bool) -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "virtual machines run on x86-64 only: tests and kernels are for the machine they run on"
    );
    for program in ["apt-get", "apt-cache", "dpkg-deb"] {
        ensure!(
            exists(program),
            "cannot get kernels: no {program}; run this on Debian or in its container"
        );
    }
    let missing = programs.iter().filter(|(program, _)| !exists(program));
    let packages: Vec<_> = missing.map(|&(_, package)| package).collect();
    if !install && !packages.is_empty() {
        let packages = packages.join(" ");
        bail!(
            "cannot find programs of {packages}; add --install, or run: apt-get install {packages}"
        );
    }
    apt_install(&packages)
}

/// A static busybox, from its package: the host's own may be missing or not static.
fn busybox(apt: &Apt, folder: &Path) -> Result<PathBuf> {
    const PACKAGE: &str = "busybox-static";
    let path = folder.join("busybox");
    if path.is_file() {
        return Ok(path);
    }
    let tree = folder.join("tree");
    files::create_folder(&tree)?;
    let versions = apt.versions(PACKAGE)?;
    let version = versions.first().context("no package busybox-static")?;
    let deb = apt.download(PACKAGE, version, folder)?;
    apt::unpack(&deb, &tree)?;
    // In /bin or, since Debian 13, in /usr/bin.
    let unpacked = ["usr/bin/busybox", "bin/busybox"].map(|place| tree.join(place));
    let unpacked = unpacked.iter().find(|path| path.is_file());
    files::rename(unpacked.context("busybox-static holds no busybox")?, &path)?;
    files::remove(&tree)?;
    files::remove(&deb)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(versions: &[&str], filter: Option<&str>, briefly: &[&str]) -> Vec<String> {
        let parse = |versions: &[&str]| -> Vec<Version> {
            versions.iter().map(|text| text.parse().unwrap()).collect()
        };
        let jobs = jobs(&parse(versions), filter, &parse(briefly));
        jobs.into_iter().map(|job| job.name).collect()
    }

    #[test]
    fn a_suspended_machine_has_only_its_own_test() {
        let all = names(&["6.1", "7.2"], None, &["5.10"]);
        assert_eq!(
            all,
            [
                "6.1",
                "7.2",
                "6.1-suspended",
                "7.2-suspended",
                "5.10-briefly"
            ]
        );
        assert_eq!(names(&["6.1"], Some("seed"), &[]), ["6.1"]);
        assert_eq!(names(&["6.1"], Some("suspension"), &[]), ["6.1-suspended"]);
    }

    #[test]
    fn a_filter_cannot_leave_the_shell_word() {
        assert!(parse_filter("live::seed").is_ok());
        assert!(parse_filter("a'b").is_err() && parse_filter("").is_err());
    }
}
