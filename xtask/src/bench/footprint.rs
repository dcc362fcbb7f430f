//! Part `footprint`: what the tracker takes while nothing happens, by the options that it has.

use std::{
    collections::BTreeSet,
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    Bench, cost,
    kernel::{maps, memory, programs},
    peers::METRICS,
    possible_cpus,
    report::{Report, Table, float},
    tracker::Tracker,
};

/// Options of `run`.
const SETUPS: [&[&str]; 6] = [
    &[],
    &["--max-ports", "16"],
    &["--max-ports", "4096"],
    &["--netns", "all"],
    &["--sample-interval", "1s"],
    &["--metrics", METRICS],
];

pub(super) fn measure(bench: &Bench<'_>) -> Result<Report> {
    let mut report = Report::new("footprint", "What the tracker takes");
    let mut table = Table::new(
        "At rest, by options",
        "options | start, ms | resident, KiB | of it private, KiB | maps, KiB | programs, KiB | CPU, ms each minute | wakeups each second | threads",
    );
    let mut by_name = None;
    for options in SETUPS {
        let name = if options.is_empty() {
            "default".to_owned()
        } else {
            options.join(" ")
        };
        progress!("{name}");
        let tracker = Tracker::start(bench, options)?;
        at_rest(bench, &name, &tracker, &mut table)?;
        if by_name.is_none() {
            by_name = Some(map_table(&tracker)?);
        }
    }
    report.tables.push(table);
    report.tables.extend(by_name);
    report.note(format!(
        "The binary has {} KiB. Maps for each CPU are made for {} possible CPUs.",
        fs::metadata(bench.binary)?.len() >> 10,
        possible_cpus()?,
    ));
    report.note(
        "Resident memory has pages of the binary that are in the page cache in any case; private \
         is what nothing else has. Start is until the first answer, with no sockets to seed from.",
    );
    Ok(report)
}

fn at_rest(bench: &Bench<'_>, name: &str, tracker: &Tracker, table: &mut Table) -> Result<()> {
    let pid = tracker.pid();
    // What follows the start: the first audits, threads that end.
    sleep(Duration::from_secs(bench.pick(15, 3)));
    let before = (cost::cpu_of(&[pid])?, cost::wakeups(pid)?);
    let start = Instant::now();
    sleep(Duration::from_secs(bench.pick(20, 5)));
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cost::cpu_of(&[pid])? - before.0;
    // A thread that ends takes its figure with it.
    let wakeups = cost::wakeups(pid)?.saturating_sub(before.1);
    table.row(&[
        &name,
        &(1e3 * tracker.start.as_secs_f64()),
        &cost::status(pid, "VmRSS")?,
        &cost::status(pid, "RssAnon")?,
        &(memory(&maps(pid)?) >> 10),
        &(memory(&programs(pid)?) >> 10),
        &(60.0 * 1e3 * cpu.as_secs_f64() / seconds),
        &(float(wakeups) / seconds),
        &cost::status(pid, "Threads")?,
    ]);
    Ok(())
}

fn map_table(tracker: &Tracker) -> Result<Table> {
    let mut table = Table::new(
        "Maps in the default setup",
        "map | entries | bytes of a value | KiB",
    );
    let mut maps: Vec<_> = maps(tracker.pid())?.into_values().collect();
    maps.sort_by_key(|map| (u64::MAX - map.figure("memlock"), map.name.clone()));
    let mut seen = BTreeSet::new();
    for map in maps.iter().filter(|map| seen.insert(&map.name)) {
        let [entries, size] = ["max_entries", "value_size"].map(|name| map.figure(name));
        let memory = map.figure("memlock").div_ceil(1024);
        table.row(&[&map.name, &entries, &size, &memory]);
    }
    Ok(table)
}
