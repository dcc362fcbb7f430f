//! Part `event`: what one state change costs the kernel, and what a connection costs more with
//! a tracker than without.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};
use tcp_status_testkit::netns::set_sysctl;

use super::{
    Bench, OtherNetns,
    cost::{self, Cost, Spread},
    full::full_tier,
    kernel::{Empty, Object, programs},
    report::{Report, Table, ratio},
    tracker::Tracker,
};

/// Options of `run`, by name, and where the state changes happen.
const SETUPS: [(&str, &[&str], Location); 6] = [
    ("default", &[], Location::Own),
    ("ports: 16", &["--max-ports", "16"], Location::Own),
    ("all namespaces", ALL, Location::Own),
    ("all namespaces, in another one", ALL, Location::Other),
    ("all namespaces, in one made later", ALL, Location::Later),
    ("default, in another one, not counted", &[], Location::Other),
];

const ALL: &[&str] = &["--netns", "all"];

/// In which namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Location {
    /// In that of the tracker.
    Own,
    /// In another, which is there before the tracker, so that it is seeded.
    Other,
    /// In another, which the programs meet before the tracker knows it.
    Later,
}

pub(super) fn measure(bench: &Bench<'_>) -> Result<Report> {
    few_minisockets()?;
    let mut report = Report::new("event", "What a state change costs");
    report.tables.push(handlers(bench)?);
    report.tables.push(connections(bench)?);
    if let Err(error) = full_tier(bench, &mut report) {
        report.skipped("the full tier", &format!("{error:#}"));
    }
    report.note(
        "Net is what both copies of the handler take together, less what two programs take that do \
         nothing, in their place and in the same round: the kernel's statistics cost time \
         themselves, and so does calling any program.",
    );
    report.note(
        "Connections are made by one thread on loopback, both ends, with the ends of handshake \
         and close: its CPU time has what the kernel does for them. Pairs of rounds, with and \
         without, in changing order. Two empty programs are what no tool that sees each state \
         change twice can be below.",
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
    for (name, options, location) in SETUPS {
        progress!("handler, {name}");
        let rounds = bench.rounds(9, 3, || Round::measure(bench, options, location))?;
        let median = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of)).map(|it| it.median);
        let net = Spread::of(rounds.iter().map(Round::net));
        let events: u64 = rounds.iter().map(|round| round.events).sum();
        let (first, second) = (median(|round| round.first), median(|round| round.second));
        let empty = median(|round| round.empty);
        table.row(&[&name, &events, &empty, &first, &second, &net]);
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
    fn measure(bench: &Bench<'_>, options: &[&str], location: Location) -> Result<Self> {
        let connections = bench.pick(10_000, 2_000);
        let another = || -> Result<OtherNetns> {
            let other = OtherNetns::new()?;
            other.netns.run(few_minisockets)??;
            Ok(other)
        };
        let mut other = (location != Location::Own).then(another).transpose()?;
        let connect = |other: &Option<OtherNetns>, count| match other {
            None => connect(count).map(drop),
            Some(other) => other.netns.run(|| connect(count).map(drop))?,
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
        let tracker = Tracker::start(bench, options)?;
        if location == Location::Later {
            other = Some(another()?);
        }
        connect(&other, connections / 4)?;
        let before = programs(tracker.pid())?;
        connect(&other, connections)?;
        let after = programs(tracker.pid())?;
        // Runs, and nanoseconds for each.
        let grown = |name: &str| -> Result<(u64, f64)> {
            let find = |object: &&Object| object.name == name;
            let both = before.values().find(find).zip(after.values().find(find));
            let (before, after) = both.with_context(|| format!("no program {name}"))?;
            let grown = |figure| after.figure(figure) - before.figure(figure);
            let runs = grown("run_cnt");
            Ok((runs, ratio(grown("run_time_ns"), runs)))
        };
        let (events, first) = grown("set_state_first")?;
        Ok(Self {
            events,
            empty,
            first,
            // The kernel keeps 15 characters of a name.
            second: grown("set_state_secon")?.1,
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
    // The first ones are not counted.
    let without = || {
        connect(count / 4)?;
        connect(count)
    };
    let with_empty = || {
        let _programs = [Empty::attach()?, Empty::attach()?];
        without()
    };
    let with_tracker = || {
        let _tracker = Tracker::start(bench, &[])?;
        // What follows the start: its first audits.
        sleep(Duration::from_secs(2));
        without()
    };
    let (mut empty, mut tracked) = (Vec::new(), Vec::new());
    for round in 0..bench.pick(24, 4) {
        progress!("connections, pair {round}");
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
    let of_cpu: fn(&Cost) -> f64 = |cost| 1e6 * cost.cpu.as_secs_f64();
    let of_wall: fn(&Cost) -> f64 = |cost| 1e6 * cost.wall.as_secs_f64();
    for (name, of) in [("CPU time", of_cpu), ("wall time", of_wall)] {
        let name = format!("{name} for each connection");
        for (what, pairs) in [("two empty programs", &empty), ("the tracker", &tracked)] {
            let without = Spread::of(pairs.iter().map(|(without, _)| of(without)));
            let with = Spread::of(pairs.iter().map(|(_, with)| of(with)));
            let rates = pairs.iter().map(|(without, with)| of(without) / of(with));
            let rate = Spread::of(rates).context("no round")?;
            let rates = [rate.median, rate.low, rate.high].map(|rate| format!("{rate:.3}"));
            let medians = [without, with].map(|spread| spread.map(|spread| spread.median));
            table.row(&[&name, &what, &&medians[..], &&rates[..]]);
        }
    }
    Ok(table)
}

/// Opens and closes connections, one by one, the client first; the cost of one.
pub(super) fn connect(count: u32) -> Result<Cost> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    cost::turns(count, &[], || {
        let client = TcpStream::connect(address)?;
        let (server, _) = listener.accept()?;
        drop(client);
        drop(server);
        Ok(())
    })
}
