//! Part `query`: what an answer costs, by number of sockets, beside what users would ask instead.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tcp_status_testkit::bulk::Bulk;

use super::{
    Bench,
    cost::{Cost, Spread},
    peers::{self, Method},
    report::{Plot, Report, Table},
    tracker::Tracker,
};

/// A turn that takes less is repeated until a round takes so long.
const ROUND: Duration = Duration::from_millis(300);
/// But not more often than this.
const TURNS: u32 = 300;

pub(super) fn measure(bench: &Bench<'_>) -> Result<Report> {
    let mut report = Report::new("query", "What an answer costs");
    let mut plot = Plot::new("cpu", "CPU time of one answer", "sockets", "microseconds");
    for size in bench.sizes() {
        progress!("{size} sockets");
        let held = Bulk::new(bench.traffic, size / 4, size / 4)?;
        progress!("opened within {:.1?}", held.elapsed());
        let tracker = Tracker::start(bench, &["--metrics", peers::METRICS])?;
        let mut methods = peers::all(bench, &tracker, |what, why| {
            // Once is enough.
            if plot.is_empty() {
                report.skipped(what, why);
            }
        })?;
        let rounds = if size >= 100_000 { 3 } else { bench.pick(7, 3) };
        let measured = measure_all(&mut methods, rounds)?;
        report.tables.push(table(size, &methods, &measured)?);
        for (method, costs) in methods.iter().zip(&measured) {
            let cpu = Spread::micros(costs, |cost| cost.cpu)?;
            plot.add(&method.name, size, cpu.median);
        }
    }
    report.plots.push(plot);
    report.note(
        "CPU time is that of every process that takes part: the one that asks, what it starts, \
         and the one that answers. The ratio is to the CPU time of `show` without a process.",
    );
    report.note(
        "Peak memory is the largest resident set of one process that is started for the answer. \
         The kernel counts what the bench itself had when it started the process, so small ones \
         are known only to be below that.",
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

fn table(size: u64, methods: &[Method<'_>], measured: &[Vec<Cost>]) -> Result<Table> {
    let mut table = Table::new(
        format!("{size} sockets"),
        "method | CPU, us | lowest | highest | wall, us | peak, KiB | CPU ratio",
    );
    let cpu = |costs: &Vec<Cost>| Spread::micros(costs, |cost| cost.cpu);
    let mut both = methods.iter().zip(measured);
    let reference = both.find(|(method, _)| method.name == peers::SHOW_ROUND_TRIP);
    let reference = cpu(reference.context("no round trip to compare with")?.1)?.median;
    let floor = measured.iter().flatten().filter_map(|cost| cost.peak).min();
    for (method, costs) in methods.iter().zip(measured) {
        let cpu = cpu(costs)?;
        let wall = Spread::micros(costs, |cost| cost.wall)?.median;
        let peak = costs.iter().filter_map(|cost| cost.peak).max();
        let peak = peak.map(|kib| above(kib, floor));
        table.row(&[&method.name, &cpu, &wall, &peak, &(cpu.median / reference)]);
    }
    Ok(table)
}

/// A peak that can be distinguished from that of the bench itself.
fn above(peak: u64, floor: Option<u64>) -> String {
    if floor.is_some_and(|floor| peak > floor + floor / 8) {
        peak.to_string()
    } else {
        format!("< {peak}")
    }
}
