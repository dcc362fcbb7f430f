//! `cargo xtask bench`: what counting and asking cost, beside what users would pick instead. One
//! file for each part. Figures are for comparison within one run; nothing here is a test.

mod cost;
mod dump;
mod event;
mod footprint;
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
use tcp_status_testkit::{netns::Netns, raise_fd_limit};

use crate::{
    build::binary::{self, Profile},
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
    /// What grows with listeners and namespaces
    Growth,
}

impl Part {
    fn measure(self, bench: &Bench<'_>) -> Result<Report> {
        match self {
            Self::Query => query::measure(bench),
            Self::Event => event::measure(bench),
            Self::Seed => seed::measure(bench),
            Self::Footprint => footprint::measure(bench),
            Self::Growth => growth::measure(bench),
        }
    }
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
    let binary = binary::build(workspace, Profile::Release)?.path;
    let traffic = binary::traffic(workspace)?;
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
        part.measure(&bench)?.write(&out, &machine)?;
    }
    eprintln!("written to {}", out.display());
    Ok(())
}
