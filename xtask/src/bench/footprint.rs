//! Part `footprint`: what the tracker takes while nothing happens, by the options that it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    Bench, cost,
    kernel::{maps, programs},
    peers::METRICS,
    possible_cpus,
    report::{Report, Table, number},
    tracker::Tracker,
};

/// Options of `run`, by name.
const SETUPS: [(&str, &[&str]); 6] = [
    ("default", &[]),
    ("--max-ports 16", &["--max-ports", "16"]),
    ("--max-ports 4096", &["--max-ports", "4096"]),
    ("--netns all", &["--netns", "all"]),
    ("--sample-interval 1s", &["--sample-interval", "1s"]),
    ("--metrics", &["--metrics", METRICS]),
];

pub(super) fn measure(bench: &Bench<'_>) -> Result<Report> {
    let mut report = Report::new("footprint", "What the tracker takes");
    let mut table = Table::new(
        "At rest, by options",
        "options | start, ms | resident, KiB | of it private, KiB | maps, KiB | programs, KiB | CPU, ms each minute | wakeups each second | threads",
    );
    let mut by_name = None;
    for (name, options) in SETUPS {
        bench.say(name);
        let tracker = Tracker::start(bench.binary, bench.folder, options)?;
        table.row(at_rest(bench, name, &tracker)?);
        if by_name.is_none() {
            by_name = Some(map_table(&tracker)?);
        }
    }
    report.tables.push(table);
    report.tables.extend(by_name);
    report.notes.push(format!(
        "The binary has {} KiB. Maps for each CPU are made for {} possible CPUs.",
        fs::metadata(bench.binary)?.len() >> 10,
        possible_cpus()?,
    ));
    report.notes.push(
        "Resident memory has pages of the binary that are in the page cache in any case; private \
         is what nothing else has. Start is until the first answer, with no sockets to seed from."
            .into(),
    );
    Ok(report)
}

fn at_rest(bench: &Bench<'_>, name: &str, tracker: &Tracker) -> Result<Vec<String>> {
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
    let wakeups = f64::from(u32::try_from(wakeups)?);
    Ok(vec![
        name.to_owned(),
        number(1e3 * tracker.start.as_secs_f64()),
        cost::status(pid, "VmRSS")?.to_string(),
        cost::status(pid, "RssAnon")?.to_string(),
        (memory(maps(pid)?.values()) >> 10).to_string(),
        (memory(programs(pid)?.values()) >> 10).to_string(),
        number(60.0 * 1e3 * cpu.as_secs_f64() / seconds),
        number(wakeups / seconds),
        cost::status(pid, "Threads")?.to_string(),
    ])
}

pub(super) fn memory<'a>(objects: impl Iterator<Item = &'a super::kernel::Object>) -> u64 {
    objects.map(|object| object.figure("memlock")).sum()
}

fn map_table(tracker: &Tracker) -> Result<Table> {
    let mut table = Table::new(
        "Maps in the default setup",
        "map | entries | bytes of a value | KiB",
    );
    let maps: BTreeMap<_, _> = maps(tracker.pid())?
        .into_values()
        .map(|map| ((u64::MAX - map.figure("memlock"), map.name.clone()), map))
        .collect();
    let mut seen = BTreeSet::new();
    for map in maps.values().filter(|map| seen.insert(&map.name)) {
        table.row([
            map.name.clone(),
            map.figure("max_entries").to_string(),
            map.figure("value_size").to_string(),
            map.figure("memlock").div_ceil(1024).to_string(),
        ]);
    }
    Ok(table)
}
