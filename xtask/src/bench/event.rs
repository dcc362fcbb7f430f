//! Part `event`: what one state change costs the kernel, and what a connection costs more with
//! a tracker than without.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};
use tcp_status_testkit::netns::set_sysctl;

use super::{
    Bench, OtherNetns,
    cost::{self, Cost, Spread},
    full::full_tier,
    guest,
    kernel::{Empty, Object, programs},
    report::{Report, Table, number, ratio},
    tracker::Tracker,
};
use crate::workspace::Workspace;

/// Options of `run`, by name, and where the state changes happen.
const SETUPS: [(&str, &[&str], Place); 6] = [
    ("default", &[], Place::Own),
    ("ports: 16", &["--max-ports", "16"], Place::Own),
    ("all namespaces", ALL, Place::Own),
    ("all namespaces, in another one", ALL, Place::Other),
    ("all namespaces, in one made later", ALL, Place::Later),
    ("default, in another one, not counted", &[], Place::Other),
];

const ALL: &[&str] = &["--netns", "all"];

/// In which namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In that of the tracker.
    Own,
    /// In another, which is there before the tracker, so that it is seeded.
    Other,
    /// In another, which the programs meet before the tracker knows it.
    Later,
}

pub(super) fn measure(bench: &Bench<'_>, workspace: &Workspace) -> Result<Report> {
    few_minisockets()?;
    let mut report = Report::new("event", "What a state change costs");
    report.tables.push(handlers(bench)?);
    report.tables.push(connections(bench)?);
    let full = guest(bench, workspace).and_then(|guest| full_tier(bench, &guest, &mut report));
    if let Err(error) = full {
        report.skipped("the full tier", &format!("{error:#}"));
    }
    report.notes.push(
        "Net is what both copies of the handler take together, less what two programs take that do \
         nothing, in their place and in the same round: the kernel's statistics cost time \
         themselves, and so does calling any program."
            .into(),
    );
    report.notes.push(
        "Connections are made by one thread on loopback, both ends, with the ends of handshake \
         and close: its CPU time has what the kernel does for them. Pairs of rounds, with and \
         without, in changing order. Two empty programs are what no tool that sees each state \
         change twice can be below."
            .into(),
    );
    Ok(report)
}

/// Nanoseconds for each program, by setup.
fn handlers(bench: &Bench<'_>) -> Result<Table> {
    let mut table = Table::new(
        "Nanoseconds for each state change",
        "setup | events | two empty programs | first copy | second copy | net, both | lowest | highest",
    );
    let _statistics =
        enable_stats(Stats::RunTime).context("cannot have statistics of eBPF programs")?;
    for (name, options, place) in SETUPS {
        bench.say(&format!("handler, {name}"));
        let rounds = (0..bench.pick(9, 3))
            .map(|_| Round::measure(bench, options, place))
            .collect::<Result<Vec<_>>>()?;
        let figure = |of: fn(&Round) -> f64| {
            let spread = Spread::of(rounds.iter().map(of));
            number(spread.map_or(0.0, |spread| spread.median))
        };
        let net = Spread::of(rounds.iter().map(Round::net)).context("no round")?;
        table.row([
            name.to_owned(),
            rounds
                .iter()
                .map(|round| round.events)
                .sum::<u64>()
                .to_string(),
            figure(|round| round.empty),
            figure(|round| round.first),
            figure(|round| round.second),
            number(net.median),
            number(net.low),
            number(net.high),
        ]);
    }
    Ok(table)
}

struct Round {
    events: u64,
    /// Two programs that do nothing, in the place of the two copies.
    empty: f64,
    first: f64,
    second: f64,
}

impl Round {
    fn measure(bench: &Bench<'_>, options: &[&str], place: Place) -> Result<Self> {
        let connections = bench.pick(10_000, 2_000);
        let another = || -> Result<OtherNetns> {
            let other = OtherNetns::new()?;
            other.netns.run(few_minisockets)??;
            Ok(other)
        };
        let mut other = (place != Place::Own).then(another).transpose()?;
        let connect = |other: &Option<OtherNetns>, count| match other {
            None => connect(count),
            Some(other) => other.netns.run(|| connect(count))?,
        };
        let empty = {
            let programs = [Empty::attach()?, Empty::attach()?];
            // Caches, and the branches of the loop.
            connect(&other, connections / 4)?;
            let runs = || -> Result<Vec<_>> { programs.iter().map(Empty::runs).collect() };
            let before = runs()?;
            connect(&other, connections)?;
            let each = |(before, after): (&(u64, u64), &(u64, u64))| {
                ratio(after.1 - before.1, after.0 - before.0)
            };
            before.iter().zip(&runs()?).map(each).sum()
        };
        let tracker = Tracker::start(bench.binary, bench.folder, options)?;
        if place == Place::Later {
            other = Some(another()?);
        }
        connect(&other, connections / 4)?;
        let before = programs(tracker.pid())?;
        connect(&other, connections)?;
        let after = programs(tracker.pid())?;
        let grown = |name: &str, figure: &str| {
            let find = |object: &&Object| object.name == name;
            let (before, after) = (before.values().find(find), after.values().find(find));
            let (before, after) = before
                .zip(after)
                .with_context(|| format!("no program {name}"))?;
            Ok::<_, anyhow::Error>(after.figure(figure) - before.figure(figure))
        };
        let each = |name| -> Result<f64> {
            Ok(ratio(grown(name, "run_time_ns")?, grown(name, "run_cnt")?))
        };
        // The kernel keeps 15 characters of a name.
        Ok(Self {
            events: grown("set_state_first", "run_cnt")?,
            empty,
            first: each("set_state_first")?,
            second: each("set_state_secon")?,
        })
    }

    fn net(&self) -> f64 {
        self.first + self.second - self.empty
    }
}

/// Else the minisockets use up the ports of the loop within seconds.
fn few_minisockets() -> Result<()> {
    Ok(set_sysctl("ipv4/tcp_max_tw_buckets", "1000")?)
}

/// Connections with and without something attached, in pairs.
fn connections(bench: &Bench<'_>) -> Result<Table> {
    let count = bench.pick(8_000, 1_000);
    let mut empty = Vec::new();
    let mut tracked = Vec::new();
    for round in 0..bench.pick(24, 4) {
        bench.say(&format!("connections, pair {round}"));
        let with_empty = || {
            let _programs = [Empty::attach()?, Empty::attach()?];
            loop_cost(count)
        };
        let with_tracker = || {
            let _tracker = Tracker::start::<&str>(bench.binary, bench.folder, &[])?;
            // What follows the start: its first audits.
            sleep(Duration::from_secs(2));
            loop_cost(count)
        };
        let without = || loop_cost(count);
        // In changing order.
        if round % 2 == 0 {
            empty.push((without()?, with_empty()?));
            tracked.push((without()?, with_tracker()?));
        } else {
            let with = with_tracker()?;
            tracked.push((without()?, with));
            let with = with_empty()?;
            empty.push((without()?, with));
        }
    }
    let mut table = Table::new(
        "Connections with something attached, relative to without",
        "figure | attached | without, us | with, us | rate with / without | lowest | highest",
    );
    for (name, of) in [
        (
            "CPU time for each connection",
            (|cost| cost.cpu.as_secs_f64()) as fn(&Cost) -> f64,
        ),
        ("wall time for each connection", |cost| {
            cost.wall.as_secs_f64()
        }),
    ] {
        for (what, pairs) in [("two empty programs", &empty), ("the tracker", &tracked)] {
            let median = |side: fn(&(Cost, Cost)) -> &Cost| {
                let spread = Spread::of(pairs.iter().map(|pair| 1e6 * of(side(pair))));
                number(spread.map_or(0.0, |spread| spread.median))
            };
            let rates = pairs.iter().map(|(without, with)| of(without) / of(with));
            let rate = Spread::of(rates).context("no round")?;
            table.row([
                name.to_owned(),
                what.to_owned(),
                median(|pair| &pair.0),
                median(|pair| &pair.1),
                format!("{:.3}", rate.median),
                format!("{:.3}", rate.low),
                format!("{:.3}", rate.high),
            ]);
        }
    }
    Ok(table)
}

/// The cost of one connection; the first ones are not counted.
fn loop_cost(count: u32) -> Result<Cost> {
    connect(count / 4)?;
    let (start, before) = (Instant::now(), cost::cpu_of_thread()?);
    connect(count)?;
    Ok(Cost {
        wall: start.elapsed() / count,
        cpu: (cost::cpu_of_thread()? - before) / count,
        peak: None,
    })
}

/// Opens and closes connections, one by one, the client first.
pub(super) fn connect(count: u32) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    for _ in 0..count {
        let client = TcpStream::connect(address)?;
        let (server, _) = listener.accept()?;
        drop(client);
        drop(server);
    }
    Ok(())
}
