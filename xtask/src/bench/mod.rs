//! `cargo xtask bench`: what counting and asking cost, beside what users would pick instead. One
//! file for each part. Figures are for comparison within one run; nothing here is a test.

mod cost;
mod dump;
mod elsewhere;
mod event;
mod footprint;
mod full;
mod growth;
mod kernel;
mod machine;
mod peers;
mod plot;
mod query;
mod report;
mod seed;
mod table;
mod tracker;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use nix::unistd::Uid;
use serde_json::Value;
use tcp_status_testkit::{netns::Netns, raise_fd_limit};

use crate::{
    build::static_binary,
    vm::guest::{FIGURES, Guest},
    workspace::Workspace,
};
use report::Report;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure [default: everything]
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Fewer rounds and at most 100,000 sockets: a minute or two, to see that it works
    #[arg(long)]
    quick: bool,
    /// Where tables and plots go [default: docs/benchmarks; with --quick, below target]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
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
    /// What grows with sockets, listeners, namespaces and CPUs
    Growth,
}

impl Part {
    fn measure(self, bench: &Bench<'_>, workspace: &Workspace) -> Result<Report> {
        match self {
            Self::Query => query::measure(bench),
            Self::Event => event::measure(bench, workspace),
            Self::Seed => seed::measure(bench),
            Self::Footprint => footprint::measure(bench),
            Self::Growth => growth::measure(bench, workspace),
        }
    }
}

/// Arguments of `guest`.
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

/// A machine to measure in.
fn guest(bench: &Bench<'_>, workspace: &Workspace) -> Result<Guest> {
    let files = [bench.binary, bench.traffic].map(Path::to_owned);
    Guest::new(workspace, files.into())
}

/// Runs one part of another bench in a machine of its own: what it found.
fn in_machine(bench: &Bench<'_>, guest: &Guest, part: Inside, possible: u32) -> Result<Value> {
    let name = part.to_possible_value().context("a part has no name")?;
    let mut words = vec!["guest".to_owned(), name.get_name().to_owned()];
    for path in [bench.binary, bench.traffic] {
        words.push(path.to_str().context("a path is no text")?.to_owned());
    }
    words.extend(bench.quick.then(|| "--quick".to_owned()));
    guest.run(&words, possible)
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
}

impl Bench<'_> {
    fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Numbers of sockets.
    fn sizes(&self) -> Vec<u64> {
        self.pick(
            vec![100, 10_000, 100_000, 1_000_000],
            vec![100, 10_000, 100_000],
        )
    }

    #[expect(clippy::unused_self, reason = "progress belongs to a run")]
    fn say(&self, what: &str) {
        eprintln!("-- {what}");
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
    let machine = machine::describe(&workspace.root);
    println!("{machine}\n");
    let out = args.out.clone().unwrap_or_else(|| {
        if args.quick {
            workspace.target.join("benchmarks")
        } else {
            workspace.root.join("docs/benchmarks")
        }
    });
    // Before there is a second thread, so that whatever is started is inside as well.
    raise_fd_limit()?;
    Netns::new()?.enter()?;
    let bench = Bench {
        binary: &binary,
        traffic: &traffic,
        folder: folder.path(),
        quick: args.quick,
    };
    let all = Part::value_variants();
    let parts = if args.parts.is_empty() {
        all
    } else {
        &args.parts
    };
    for part in parts {
        eprintln!("== {part:?}");
        part.measure(&bench, workspace)?.write(&out, &machine)?;
    }
    eprintln!("written to {}", out.display());
    Ok(())
}
