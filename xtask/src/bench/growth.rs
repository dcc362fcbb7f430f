//! Part `growth`: what grows with sockets, listeners, network namespaces and CPUs; the last in
//! virtual machines, since this one has what it has.

use std::{net::TcpListener, thread::sleep, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tcp_status_testkit::bulk::Bulk;

use super::{
    Bench, Inside, OtherNetns,
    cost::{self, Spread},
    footprint::memory,
    guest, in_machine,
    kernel::maps,
    possible_cpus,
    query::as_float,
    report::{Lines, Plot, Report, Table, number},
    tracker::{GET, SHOW, Tracker},
};
use crate::{vm::guest::Guest, workspace::Workspace};

/// Of the tables, and of [`Figures`] after the first, which the machines measure only.
const COLUMNS: &str = "count | `get`, CPU us | `show`, CPU us | CPU at rest, ms each minute | \
                       resident, KiB | maps, KiB";

/// CPU of the start in milliseconds, then as in [`COLUMNS`].
type Figures = [f64; 6];

/// Possible processors of the machines that are measured in; QEMU has no more.
const POSSIBLE: [u32; 5] = [2, 8, 32, 128, 255];

pub(super) fn measure(bench: &Bench<'_>, workspace: &Workspace) -> Result<Report> {
    let mut report = Report::new("growth", "What grows, and with what");
    by_sockets(bench, &mut report)?;
    by_listeners(bench, &mut report)?;
    by_namespaces(bench, &mut report)?;
    report.notes.push(
        "Listeners are in the tracker's own namespace. Each namespace has one listener and one \
         process; `show` is of all of them."
            .into(),
    );
    let cpus = guest(bench, workspace).and_then(|guest| by_cpus(bench, &guest, &mut report));
    if let Err(error) = cpus {
        report.skipped("growth with CPUs", &format!("{error:#}"));
    }
    Ok(report)
}

fn by_sockets(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let mut series = Series::new("By sockets");
    for size in bench.sizes() {
        bench.say(&format!("{size} sockets"));
        let _held = Bulk::new(bench.traffic, size / 4, size / 4)?;
        series.enter(size, &figures(bench, &[], SHOW, rest(bench))?);
    }
    series.finish("sockets", report);
    Ok(())
}

fn by_listeners(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let mut series = Series::new("By listeners");
    for count in [1, 10, 100, bench.pick(1_000, 500)] {
        bench.say(&format!("{count} listeners"));
        let _held = (0..count)
            .map(|_| Ok(TcpListener::bind("127.0.0.1:0")?))
            .collect::<Result<Vec<_>>>()?;
        series.enter(count, &figures(bench, &[], SHOW, rest(bench))?);
    }
    series.finish("listeners", report);
    Ok(())
}

fn by_namespaces(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let mut series = Series::new("By network namespaces, with `--netns all`");
    for count in [1, 10, 100, bench.pick(500, 200)] {
        bench.say(&format!("{count} namespaces"));
        let held = (0..count)
            .map(|_| OtherNetns::new())
            .collect::<Result<Vec<_>>>()?;
        let all = r#"{"v":1,"do":"show","all_netns":true}"#;
        series.enter(
            count,
            &figures(bench, &["--netns", "all"], all, rest(bench))?,
        );
        drop(held);
    }
    series.finish("namespaces", report);
    Ok(())
}

/// One table and one plot: the same figures at each count of something.
struct Series {
    table: Table,
    lines: Lines,
}

impl Series {
    fn new(title: &str) -> Self {
        Self {
            table: Table::new(title, COLUMNS),
            lines: Lines::new(),
        }
    }

    fn enter(&mut self, count: u64, figures: &Figures) {
        let cells = figures[1..].iter().map(|&figure| number(figure));
        self.table.row([count.to_string()].into_iter().chain(cells));
        draw(count, figures, &mut self.lines);
    }

    fn finish(self, name: &'static str, report: &mut Report) {
        report.tables.push(self.table);
        report.plots.push(Plot {
            name,
            title: "CPU time of one answer",
            x: name,
            y: "microseconds",
            lines: self.lines,
        });
    }
}

fn draw(count: u64, figures: &Figures, lines: &mut Lines) {
    for (name, y) in [("get", figures[1]), ("show", figures[2])] {
        let line = lines.entry(name.to_owned()).or_default();
        line.push((as_float(count), y));
    }
}

/// Possible CPUs, one of which runs: what lies in the kernel for each is kept and read for all that
/// are possible.
fn by_cpus(bench: &Bench<'_>, guest: &Guest, report: &mut Report) -> Result<()> {
    let mut table = Table::new(
        "By possible CPUs, in virtual machines",
        "count | `get`, CPU us | times | `show`, CPU us | times | CPU of the start, ms | times | \
         CPU at rest, ms each minute | resident, KiB | maps, KiB",
    );
    let mut lines = Lines::new();
    let mut first: Option<Figures> = None;
    for possible in POSSIBLE {
        bench.say(&format!("{possible} possible CPUs"));
        let found = in_machine(bench, guest, Inside::Growth, possible)?;
        let (seen, figures): (u64, Figures) =
            serde_json::from_value(found).context("a machine measured something else")?;
        let first = first.get_or_insert(figures);
        // As the machine sees it.
        let mut row = vec![seen.to_string()];
        for index in [1, 2, 0] {
            let value = figures[index];
            row.extend([number(value), number(value / first[index])]);
        }
        row.extend(figures[3..].iter().map(|&figure| number(figure)));
        table.row(row);
        draw(possible.into(), &figures, &mut lines);
    }
    report.tables.push(table);
    report.plots.push(Plot {
        name: "cpus",
        title: "CPU time of one answer, emulated",
        x: "possible CPUs",
        y: "microseconds",
        lines,
    });
    report.notes.push(format!(
        "CPUs are those of {}. Its times are no times of a real one: only their ratios mean \
         something.",
        guest.describe()
    ));
    Ok(())
}

/// Measures in the machine that this runs in.
pub(super) fn inside(bench: &Bench<'_>) -> Result<Value> {
    Ok(json!([possible_cpus()?, figures(bench, &[], SHOW, LONG)?]))
}

/// How long a tracker is left alone after its start, and how long it is then watched.
#[derive(Clone, Copy)]
struct Rest {
    before: Duration,
    span: Duration,
}

/// In a machine, where waiting takes no time.
const LONG: Rest = Rest {
    before: Duration::from_mins(1),
    span: Duration::from_mins(1),
};

fn rest(bench: &Bench<'_>) -> Rest {
    Rest {
        before: Duration::from_secs(bench.pick(5, 2)),
        span: Duration::from_secs(bench.pick(10, 3)),
    }
}

fn figures(bench: &Bench<'_>, options: &[&str], show: &str, rest: Rest) -> Result<Figures> {
    let tracker = Tracker::start(bench.binary, bench.folder, options)?;
    let pid = [tracker.pid()];
    let start = 1e3 * cost::cpu_of(&pid)?.as_secs_f64();
    sleep(rest.before);
    let before = cost::cpu_of(&pid)?;
    sleep(rest.span);
    let idle = (cost::cpu_of(&pid)? - before).as_secs_f64();
    // In rounds: an audit may fall into one.
    let micros = |request, turns| -> Result<f64> {
        let round = || cost::turns(turns, &pid, || tracker.ask(request).map(drop));
        let rounds: Result<Vec<_>> = (0..5).map(|_| round()).collect();
        let micros = rounds?.into_iter().map(|one| 1e6 * one.cpu.as_secs_f64());
        Ok(Spread::of(micros).context("no round")?.median)
    };
    Ok([
        start,
        micros(GET, 40)?,
        micros(show, 4)?,
        60.0 * 1e3 * idle / rest.span.as_secs_f64(),
        as_float(cost::status(pid[0], "VmRSS")?),
        as_float(memory(maps(pid[0])?.values()) >> 10),
    ])
}
