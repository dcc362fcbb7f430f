//! What the hooks of the full tier cost beside those of the reduced one, in a virtual machine:
//! where a bench is run, the kernel may refuse them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Bench, Inside,
    cost::Spread,
    in_machine,
    kernel::{Empty, Object, programs},
    report::{Report, Table, ratio},
    tracker::{SHOW, Tracker},
};

/// How long the kernel keeps a minisocket, and a little more.
const TIME_WAIT: Duration = Duration::from_secs(63);

/// How long the server may take to acknowledge the end of what it is sent, and a little more.
const ACKNOWLEDGED: Duration = Duration::from_millis(60);

/// How the names of the programs at the tracepoint begin; these are all that the reduced tier has.
const REDUCED: &str = "set_state";

/// One program of one round.
#[derive(Serialize, Deserialize)]
struct Figure {
    /// For each connection.
    runs: f64,
    /// Times what an empty program takes in the same kind of place.
    relative: f64,
    /// Nanoseconds for each connection, net of an empty program.
    net: f64,
}

/// By the program's name.
type Round = BTreeMap<String, Figure>;

pub(super) fn full_tier(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    progress!("the full tier, in a machine");
    let found = in_machine(bench, Inside::Event, 2)?;
    let rounds: Vec<Round> =
        serde_json::from_value(found).context("a machine measured something else")?;
    let reduced = |round: &Round| -> f64 {
        let both = round.iter().filter(|(name, _)| name.starts_with(REDUCED));
        both.map(|(_, figure)| figure.net).sum()
    };
    let median = |of: &dyn Fn(&Round) -> Option<f64>| {
        Spread::of(rounds.iter().filter_map(of)).map(|spread| spread.median)
    };
    let mut table = Table::new(
        "The full tier, in a virtual machine",
        "program | runs for each connection | times an empty one | net for each connection, relative to the reduced tier",
    );
    let names: BTreeSet<_> = rounds.iter().flat_map(BTreeMap::keys).collect();
    for name in names {
        let runs = median(&|round| Some(round.get(name)?.runs));
        let relative = median(&|round| Some(round.get(name)?.relative));
        let net = median(&|round| Some(round.get(name)?.net / reduced(round)));
        table.row(&[name, &runs, &relative, &net]);
    }
    let sum = |round: &Round, of: fn(&Figure) -> f64| -> f64 { round.values().map(of).sum() };
    let runs = median(&|round| Some(sum(round, |figure| figure.runs)));
    let net = median(&|round| Some(sum(round, |figure| figure.net) / reduced(round)));
    table.row(&[&"all", &runs, &"", &net]);
    report.tables.push(table);
    report.note(format!(
        "The full tier was measured in {}. Times are those of an emulated CPU, so only ratios are \
         given: {REDUCED} is all that the reduced tier has. The kernel keeps 15 letters of a name.",
        bench.guest()?.describe()?
    ));
    Ok(())
}

/// Measures in the machine that this runs in.
pub(super) fn inside(bench: &Bench<'_>) -> Result<Value> {
    let _statistics =
        enable_stats(Stats::RunTime).context("cannot have statistics of eBPF programs")?;
    Ok(serde_json::to_value(bench.rounds(3, 1, || round(bench))?)?)
}

fn round(bench: &Bench<'_>) -> Result<Round> {
    let connections = 1_000;
    let (tracepoint, function) = {
        // The kernel meets this one once for each connection, when the minisocket ends.
        let empty = (Empty::attach()?, Empty::at_function("inet_twsk_kill")?);
        connect(connections)?;
        sleep(TIME_WAIT);
        let each = |empty: &Empty| empty.runs().map(|(count, time)| ratio(time, count));
        (each(&empty.0)?, each(&empty.1)?)
    };
    let tracker = Tracker::start(bench, &[])?;
    // What follows the start: the hooks are attached, and the first audits.
    sleep(TIME_WAIT);
    let shown = tracker.query(SHOW)?;
    let is_full = shown.contains(r#""tier":"full""#);
    ensure!(is_full, "the tier is not full in the machine: {shown}");
    let before = programs(tracker.pid())?;
    connect(connections)?;
    sleep(TIME_WAIT);
    let after = programs(tracker.pid())?;
    let figure = |(id, after): (&u64, &Object)| {
        let before = before.get(id)?;
        let grown = |name| after.figure(name) - before.figure(name);
        let (count, time) = (grown("run_cnt"), grown("run_time_ns"));
        // Those that walk have run, and not for a connection.
        if count <= u64::from(connections) / 2 || after.name.starts_with("walk") {
            return None;
        }
        let is_reduced = after.name.starts_with(REDUCED);
        let empty = if is_reduced { tracepoint } else { function };
        let (runs, each) = (ratio(count, connections.into()), ratio(time, count));
        let figure = Figure {
            runs,
            relative: each / empty,
            net: runs * (each - empty),
        };
        Some((after.name.clone(), figure))
    };
    Ok(after.iter().filter_map(figure).collect())
}

/// Opens and closes connections, one by one, so that each has its minisocket in FIN_WAIT2 first, as
/// across a network: a client that closes before it hears from the server skips it.
fn connect(count: u32) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    for _ in 0..count {
        let client = TcpStream::connect(address)?;
        let (server, _) = listener.accept()?;
        client.shutdown(Shutdown::Write)?;
        sleep(ACKNOWLEDGED);
        drop(client);
        drop(server);
    }
    Ok(())
}
