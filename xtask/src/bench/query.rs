//! Part `query`: what an answer costs, by number of sockets, beside what users would ask instead.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tcp_status_testkit::bulk::Bulk;

use super::{
    Bench,
    cost::{Cost, Spread},
    peers::{self, Method},
    report::{Lines, Plot, Report, Table, number},
    tracker::Tracker,
};

/// A turn that takes less is repeated until a round takes so long.
const ROUND: Duration = Duration::from_millis(300);
/// But not more often than this.
const TURNS: u32 = 300;

pub(super) fn measure(bench: &Bench<'_>) -> Result<Report> {
    let mut report = Report::new("query", "What an answer costs");
    let mut plot = Plot {
        name: "cpu",
        title: "CPU time of one answer",
        x: "sockets",
        y: "microseconds",
        lines: Lines::new(),
    };
    for size in bench.sizes() {
        bench.say(&format!("{size} sockets"));
        let held = Bulk::new(bench.traffic, size / 4, size / 4)?;
        bench.say(&format!("opened within {:.1?}", held.elapsed()));
        let tracker = Tracker::start(bench.binary, bench.folder, &["--metrics", peers::METRICS])?;
        let mut methods = peers::all(bench, &tracker, |what, why| {
            // Once is enough.
            if plot.lines.is_empty() {
                report.skipped(what, why);
            }
        })?;
        let rounds = if size >= 100_000 { 3 } else { bench.pick(7, 3) };
        let measured = measure_all(&mut methods, rounds)?;
        report.tables.push(table(size, &methods, &measured));
        for (method, costs) in methods.iter().zip(&measured) {
            let line = plot.lines.entry(method.name.clone()).or_default();
            line.push((as_float(size), micros(costs, |cost| cost.cpu)?.median));
        }
    }
    report.plots.push(plot);
    report.notes.push(
        "CPU time is that of every process that takes part: the one that asks, what it starts, \
         and the one that answers. The ratio is to the CPU time of `show` without a process."
            .into(),
    );
    report.notes.push(
        "Peak memory is the largest resident set of one process that is started for the answer. \
         The kernel counts what the bench itself had when it started the process, so small ones \
         are known only to be below that."
            .into(),
    );
    Ok(report)
}

/// All methods in turn, round by round, so that they meet the same disturbances.
fn measure_all(methods: &mut [Method<'_>], rounds: u32) -> Result<Vec<Vec<Cost>>> {
    let mut turns = Vec::new();
    for method in &mut *methods {
        let first = method.run(1)?.wall.max(Duration::from_micros(1));
        let fitting = ROUND.as_nanos() / first.as_nanos();
        turns.push(u32::try_from(fitting).unwrap_or(TURNS).clamp(1, TURNS));
    }
    let mut measured = vec![Vec::new(); methods.len()];
    for _ in 0..rounds {
        for ((method, turns), costs) in methods.iter_mut().zip(&turns).zip(&mut measured) {
            costs.push(method.run(*turns)?);
        }
    }
    Ok(measured)
}

fn table(size: u64, methods: &[Method<'_>], measured: &[Vec<Cost>]) -> Table {
    let mut table = Table::new(
        format!("{size} sockets"),
        "method | CPU, us | lowest | highest | wall, us | peak, KiB | CPU ratio",
    );
    let median = |costs: &[Cost]| micros(costs, |cost| cost.cpu).map_or(f64::NAN, |us| us.median);
    let reference = methods
        .iter()
        .position(|method| method.name == peers::SHOW_ROUND_TRIP);
    let reference = reference.map_or(f64::NAN, |index| median(&measured[index]));
    let floor = measured.iter().flatten().filter_map(|cost| cost.peak).min();
    for (method, costs) in methods.iter().zip(measured) {
        let (Ok(cpu), Ok(wall)) = (
            micros(costs, |cost| cost.cpu),
            micros(costs, |cost| cost.wall),
        ) else {
            continue;
        };
        let peak = costs.iter().filter_map(|cost| cost.peak).max();
        table.row([
            method.name.clone(),
            number(cpu.median),
            number(cpu.low),
            number(cpu.high),
            number(wall.median),
            peak.map_or_else(String::new, |kib| above(kib, floor)),
            number(cpu.median / reference),
        ]);
    }
    table
}

/// A peak that can be told from that of the bench itself.
fn above(peak: u64, floor: Option<u64>) -> String {
    if floor.is_some_and(|floor| peak > floor + floor / 8) {
        peak.to_string()
    } else {
        format!("< {peak}")
    }
}

fn micros(costs: &[Cost], of: impl Fn(&Cost) -> Duration) -> Result<Spread> {
    Spread::of(costs.iter().map(|cost| 1e6 * of(cost).as_secs_f64())).context("no round")
}

#[expect(clippy::cast_precision_loss, reason = "a place on an axis")]
pub(super) const fn as_float(size: u64) -> f64 {
    size as f64
}
