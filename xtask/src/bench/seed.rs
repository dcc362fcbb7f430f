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
    kernel::EmptyWalk,
    report::{Plot, Report, Table, float},
    tracker::{SHOW, Tracker},
};

pub(super) fn measure(bench: &Bench<'_>) -> Result<Report> {
    let mut report = Report::new("seed", "What a start and an audit cost");
    let mut table = Table::new(
        "By sockets",
        "sockets | start, ms | CPU of the start, ms | most resident, KiB | audits | CPU of an audit, ms | CPU of an empty walk, ms | drift at the end",
    );
    let mut plot = Plot::new(
        "time",
        "Start and audit by sockets",
        "sockets",
        "milliseconds",
    );
    for size in bench.sizes() {
        progress!("{size} sockets");
        let _held = Bulk::new(bench.traffic, size / 4, size / 4)?;
        let starts = bench.rounds(5, 3, || start(bench))?;
        let median = |of: fn(&Start) -> f64| Spread::of(starts.iter().map(of)).map(|it| it.median);
        let (wall, cpu) = (median(|start| start.wall), median(|start| start.cpu));
        let peak = starts.iter().map(|start| start.peak).max();
        let Audits { count, each, drift } = Audits::measure(bench)?;
        let empty = EmptyWalk::new()?;
        let walks = bench.rounds(9, 5, || cost::turns(1, &[], || empty.run()))?;
        let walk = Spread::of(walks.iter().map(|walk| 1e3 * walk.cpu.as_secs_f64()));
        let walk = walk.map(|it| it.median);
        table.row(&[&size, &wall, &cpu, &peak, &count, &each, &walk, &drift]);
        for (name, y) in [
            ("start, wall time", wall),
            ("start, CPU time", cpu),
            ("audit, CPU time", each),
            ("empty walk, CPU time", walk),
        ] {
            y.into_iter().for_each(|y| plot.add(name, size, y));
        }
    }
    report.tables.push(table);
    report.plots.push(plot);
    report.note(
        "Start is until the first answer. Audits are made to follow each other by a connection \
         now and then and an allowance of half a core; what the tracker takes in this time \
         without connections is taken off.",
    );
    Ok(report)
}

struct Start {
    wall: f64,
    cpu: f64,
    peak: u64,
}

fn start(bench: &Bench<'_>) -> Result<Start> {
    let tracker = Tracker::start(bench, &[])?;
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
        let tracker = Tracker::start(bench, &options)?;
        let pid = [tracker.pid()];
        let span = Duration::from_secs(bench.pick(10, 4));
        // What was going on at the start.
        sleep(Duration::from_secs(bench.pick(5, 3)));
        let ((first, _), before) = (audits(&tracker)?, cost::cpu_of(&pid)?);
        sleep(span);
        let rest = cost::cpu_of(&pid)? - before;
        let (quiet, _) = audits(&tracker)?;
        let (start, before) = (Instant::now(), cost::cpu_of(&pid)?);
        while start.elapsed() < span {
            connect(1)?;
            sleep(Duration::from_millis(50));
        }
        let busy = cost::cpu_of(&pid)? - before;
        let (after, drift) = audits(&tracker)?;
        let count = after - quiet;
        let disturbed = quiet - first;
        // Audits in the time that should have been quiet would be taken off.
        let more = count.checked_sub(disturbed).filter(|&more| more > 0);
        let spent = 1e3 * busy.saturating_sub(rest).as_secs_f64();
        Ok(Self {
            count,
            each: more.map(|more| spent / float(more)),
            drift,
        })
    }
}

/// Audits and corrections so far.
fn audits(tracker: &Tracker) -> Result<(u64, u64)> {
    let answer: Value = serde_json::from_str(&tracker.query(SHOW)?)?;
    let drift = &answer["snapshots"][0]["drift"];
    let audits = drift["audits"].as_u64().context("no number of audits")?;
    Ok((audits, drift["corrections"].as_u64().unwrap_or(0)))
}
