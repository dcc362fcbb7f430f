//! `cargo xtask bench`: what counting and asking cost, beside what users would pick instead. One
//! file for each part. Figures are for comparison within one run; nothing here is a test.

/// Prints what a part is at.
macro_rules! progress {
    ($($what:tt)+) => { eprintln!("-- {}", format_args!($($what)+)) };
}

mod cost;
mod dump;
mod event;
mod footprint;
mod full;
mod growth;
mod kernel;
mod peers;
mod query;
mod report;
mod seed;
mod tracker;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::{Args, ValueEnum};
use nix::{
    sys::{sysinfo::sysinfo, utsname::uname},
    unistd::Uid,
};
use serde_json::Value;
use tcp_status_testkit::{netns::Netns, raise_fd_limit};

use crate::{
    build::static_binary,
    process::Process,
    step::step,
    vm::guest::{FIGURES, Guest},
    workspace::Workspace,
};
use report::Report;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure [default: everything]
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Fewer rounds and at most 100,000 sockets, to see that it works; results go below target
    #[arg(long)]
    quick: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What an answer costs, beside other programs
    Query,
    /// What a state change costs
    Event,
    /// What a start and an audit cost
    Seed,
    /// What the tracker takes at rest
    Footprint,
    /// What grows with sockets, listeners and namespaces
    Growth,
    /// What grows with possible CPUs, in virtual machines
    Cpus,
}

impl Part {
    fn measure(self, bench: &Bench<'_>) -> Result<Report> {
        match self {
            Self::Query => query::measure(bench),
            Self::Event => event::measure(bench),
            Self::Seed => seed::measure(bench),
            Self::Footprint => footprint::measure(bench),
            Self::Growth => growth::measure(bench),
            Self::Cpus => growth::by_cpus(bench),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct GuestArgs {
    part: Inside,
    /// The release binary
    binary: PathBuf,
    /// `tcp-traffic`
    traffic: PathBuf,
    #[arg(long)]
    quick: bool,
}

/// What is measured in a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Inside {
    Event,
    Growth,
}

/// Runs one part of another bench in a machine of its own: what it found.
fn in_machine(bench: &Bench<'_>, part: Inside, possible: u32) -> Result<Value> {
    let part = part.to_possible_value().context("a part has no name")?;
    let (part, quick) = (part.get_name(), bench.pick("", "--quick"));
    let [binary, traffic] = [bench.binary, bench.traffic].map(Path::display);
    let arguments = format!("guest {part} {binary} {traffic} {quick}");
    bench.guest()?.run(&arguments, possible)
}

/// `xtask guest`: measures, and prints what it found for [`in_machine`].
pub(crate) fn inside(args: &GuestArgs) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder for sockets and logs")?;
    raise_fd_limit()?;
    let bench = Bench {
        binary: &args.binary,
        traffic: &args.traffic,
        folder: folder.path(),
        quick: args.quick,
        guest: Err(anyhow!("this is one")),
    };
    let found = match args.part {
        Inside::Event => full::inside(&bench)?,
        Inside::Growth => growth::inside(&bench)?,
    };
    println!("{FIGURES}{found}");
    Ok(())
}

/// What all parts need.
struct Bench<'a> {
    /// The release binary.
    binary: &'a Path,
    /// `tcp-traffic`, which holds connections.
    traffic: &'a Path,
    /// For sockets and logs; goes at the end.
    folder: &'a Path,
    quick: bool,
    /// A machine to measure in, with both programs.
    guest: Result<Guest>,
}

impl Bench<'_> {
    fn guest(&self) -> Result<&Guest> {
        let guest = self.guest.as_ref();
        guest.map_err(|error| anyhow!("no virtual machine: {error:#}"))
    }

    fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Numbers of sockets.
    fn sizes(&self) -> Vec<u64> {
        let sizes = [100, 10_000, 100_000, 1_000_000];
        sizes[..self.pick(4, 3)].to_vec()
    }

    /// Measures several times.
    fn rounds<T>(&self, full: u32, quick: u32, round: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
        let mut round = round;
        (0..self.pick(full, quick)).map(|_| round()).collect()
    }
}

pub(crate) fn run(workspace: &Workspace, args: &BenchArgs) -> Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "a benchmark loads eBPF programs and makes network namespaces; run it as root"
    );
    let binary = static_binary(workspace, "tcp-status", "tcp-status", "release")?;
    let traffic = static_binary(workspace, "tcp-status-testkit", "tcp-traffic", "release")?;
    let folder = tempfile::tempdir().context("cannot make a folder for sockets and logs")?;
    let machine = describe_machine(&workspace.root)?;
    println!("{machine}\n");
    let out = if args.quick {
        workspace.target.join("benchmarks")
    } else {
        workspace.root.join("docs/benchmarks")
    };
    let all = Part::value_variants();
    let parts = if args.parts.is_empty() {
        all
    } else {
        &args.parts
    };
    // Before the network is out of reach.
    let guest = if parts.contains(&Part::Event) || parts.contains(&Part::Cpus) {
        Guest::new(workspace, vec![binary.clone(), traffic.clone()])
    } else {
        Err(anyhow!("not needed"))
    };
    // Before there is a second thread, so that whatever is started is inside as well.
    raise_fd_limit()?;
    Netns::new()?.enter()?;
    let bench = Bench {
        binary: &binary,
        traffic: &traffic,
        folder: folder.path(),
        quick: args.quick,
        guest,
    };
    for part in parts {
        eprintln!("== {part:?}");
        part.measure(&bench)?.write(&out, &machine)?;
    }
    eprintln!("written to {}", out.display());
    Ok(())
}

/// Machine, kernel, load, and the last commit that changed what is measured: without them, no
/// figure means anything.
fn describe_machine(root: &Path) -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let mut models = models.filter(|(name, _)| name.starts_with("model name"));
    let info = sysinfo()?;
    let commit = step!("git log -1 --abbrev=12 --format=%h -- tcp-status tcp-status-ebpf")
        .with("tcp-status-common")
        .folder(root)
        .try_read();
    Ok(format!(
        "Commit {}; Linux {}; {} CPUs ({}), {} possible; {} GiB of memory; load {:.1} at the start.",
        commit.as_deref().unwrap_or("unknown"),
        uname()?.release().display(),
        thread::available_parallelism()?,
        models.next().map_or("unknown", |(_, name)| name.trim()),
        possible_cpus()?,
        info.ram_total() >> 30,
        info.load_average().0,
    ))
}

/// How many CPUs per-CPU maps are made for.
fn possible_cpus() -> Result<u64> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().unwrap_or_default();
    Ok(last.parse::<u64>()? + 1)
}

/// Another network namespace, with a listener, and with a process, by which it is found.
struct OtherNetns {
    _process: Process,
    _listener: TcpListener,
    netns: Netns,
}

impl OtherNetns {
    fn new() -> Result<Self> {
        let netns = Netns::new()?;
        let (process, listener) = netns.run(|| -> Result<_> {
            let process = Process::start(&mut step!("sleep 600").command())?;
            Ok((process, TcpListener::bind("127.0.0.1:0")?))
        })??;
        Ok(Self {
            _process: process,
            _listener: listener,
            netns,
        })
    }
}
