//! Part `seed`: what a start and an audit cost, by the number of sockets that there are.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tcp_status_testkit::bulk::Bulk;

use super::{
    Bench,
    cost::{self, Spread},
    event::connect,
    query::as_float,
    report::{Lines, Plot, Report, Table, number},
    tracker::{SHOW, Tracker},
};

pub(super) fn measure(bench: &Bench<'_>) -> Result<Report> {
    let mut report = Report::new("seed", "What a start and an audit cost");
    let mut table = Table::new(
        "By sockets",
        "sockets | start, ms | CPU of the start, ms | most resident, KiB | audits | CPU of an audit, ms | drift at the end",
    );
    let mut lines = Lines::new();
    for size in bench.sizes() {
        bench.say(&format!("{size} sockets"));
        let _held = Bulk::new(bench.traffic, size / 4, size / 4)?;
        let starts = (0..bench.pick(5, 3))
            .map(|_| start(bench))
            .collect::<Result<Vec<_>>>()?;
        let wall = Spread::of(starts.iter().map(|start| start.wall)).context("no start")?;
        let cpu = Spread::of(starts.iter().map(|start| start.cpu)).context("no start")?;
        let audits = Audits::measure(bench)?;
        table.row([
            size.to_string(),
            number(wall.median),
            number(cpu.median),
            starts
                .iter()
                .map(|start| start.peak)
                .max()
                .unwrap_or(0)
                .to_string(),
            audits.count.to_string(),
            audits.each.map_or_else(String::new, number),
            audits.drift.to_string(),
        ]);
        let mut point = |name: &str, y| {
            let line: &mut Vec<_> = lines.entry(name.to_owned()).or_default();
            line.push((as_float(size), y));
        };
        point("start, wall time", wall.median);
        point("start, CPU time", cpu.median);
        if let Some(each) = audits.each {
            point("audit, CPU time", each);
        }
    }
    report.tables.push(table);
    report.plots.push(Plot {
        name: "time",
        title: "Start and audit by sockets",
        x: "sockets",
        y: "milliseconds",
        lines,
    });
    report.notes.push(
        "Start is until the first answer. Audits are made to follow each other by a connection \
         now and then and an allowance of half a core; what the tracker takes in this time \
         without connections is taken off."
            .into(),
    );
    Ok(report)
}

struct Start {
    wall: f64,
    cpu: f64,
    peak: u64,
}

fn start(bench: &Bench<'_>) -> Result<Start> {
    let tracker = Tracker::start::<&str>(bench.binary, bench.folder, &[])?;
    let pid = tracker.pid();
    Ok(Start {
        wall: 1e3 * tracker.start.as_secs_f64(),
        cpu: 1e3 * cost::cpu_of(&[pid])?.as_secs_f64(),
        peak: cost::status(pid, "VmHWM")?,
    })
}

struct Audits {
    count: u64,
    /// Milliseconds of CPU time, unless there was none.
    each: Option<f64>,
    drift: u64,
}

impl Audits {
    fn measure(bench: &Bench<'_>) -> Result<Self> {
        let options = ["--audit-share", "50", "--audit-interval", "500ms"];
        let tracker = Tracker::start(bench.binary, bench.folder, &options)?;
        let pid = [tracker.pid()];
        let span = Duration::from_secs(bench.pick(10, 4));
        // What was going on at the start.
        sleep(Duration::from_secs(bench.pick(5, 3)));
        let (first, before) = (told(&tracker)?, cost::cpu_of(&pid)?);
        sleep(span);
        let rest = cost::cpu_of(&pid)? - before;
        let quiet = told(&tracker)?;
        let (start, before) = (Instant::now(), cost::cpu_of(&pid)?);
        while start.elapsed() < span {
            connect(1)?;
            sleep(Duration::from_millis(50));
        }
        let busy = cost::cpu_of(&pid)? - before;
        let after = told(&tracker)?;
        let count = after.count - quiet.count;
        let disturbed = quiet.count - first.count;
        // Audits in the time that should have been quiet would be taken off.
        let audits = count.checked_sub(disturbed).filter(|&more| more > 0);
        let spent = 1e3 * busy.saturating_sub(rest).as_secs_f64();
        Ok(Self {
            count,
            each: audits.map(|more| spent / as_float(more)),
            drift: after.drift,
        })
    }
}

struct Told {
    count: u64,
    drift: u64,
}

fn told(tracker: &Tracker) -> Result<Told> {
    let answer: Value = serde_json::from_str(&tracker.ask(SHOW)?)?;
    let drift = &answer["snapshots"][0]["drift"];
    Ok(Told {
        count: drift["audits"].as_u64().context("no number of audits")?,
        drift: drift["corrections"].as_u64().unwrap_or(0),
    })
}
