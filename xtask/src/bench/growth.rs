//! Part `growth`: what grows with sockets, listeners, network namespaces and CPUs; the last in
//! virtual machines, since this one has what it has.

use std::{net::TcpListener, thread::sleep, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tcp_status_testkit::bulk::Bulk;

use super::{
    Bench, Inside,
    cost::{self, Spread},
    elsewhere::Elsewhere,
    footprint::memory,
    guest, in_machine,
    kernel::maps,
    machine::possible_cpus,
    plot::Lines,
    query::as_float,
    report::{Plot, Report},
    table::{Table, number},
    tracker::{GET, SHOW, Tracker},
};
use crate::{vm::guest::Guest, workspace::Workspace};

const COLUMNS: [&str; 6] = [
    "count",
    "`get`, CPU us",
    "`show`, CPU us",
    "CPU at rest, ms each minute",
    "resident, KiB",
    "maps, KiB",
];

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
        series.enter(size, &Figures::measure(bench, &[], SHOW, rest(bench))?);
    }
    series.finish("sockets", "sockets", report);
    Ok(())
}

fn by_listeners(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let mut series = Series::new("By listeners");
    for count in [1, 10, 100, bench.pick(1_000, 500)] {
        bench.say(&format!("{count} listeners"));
        let _held = (0..count)
            .map(|_| Ok(TcpListener::bind("127.0.0.1:0")?))
            .collect::<Result<Vec<_>>>()?;
        series.enter(count, &Figures::measure(bench, &[], SHOW, rest(bench))?);
    }
    series.finish("listeners", "listeners", report);
    Ok(())
}

fn by_namespaces(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let mut series = Series::new("By network namespaces, with `--netns all`");
    for count in [1, 10, 100, bench.pick(500, 200)] {
        bench.say(&format!("{count} namespaces"));
        let held = (0..count)
            .map(|_| Elsewhere::new())
            .collect::<Result<Vec<_>>>()?;
        let all = r#"{"v":1,"do":"show","all_netns":true}"#;
        series.enter(
            count,
            &Figures::measure(bench, &["--netns", "all"], all, rest(bench))?,
        );
        drop(held);
    }
    series.finish("namespaces", "namespaces", report);
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
            table: Table::new(title, &COLUMNS),
            lines: Lines::new(),
        }
    }

    fn enter(&mut self, count: u64, figures: &Figures) {
        self.table.row([
            count.to_string(),
            number(figures.get),
            number(figures.show),
            number(figures.rest),
            figures.resident.to_string(),
            figures.maps.to_string(),
        ]);
        figures.draw(count, &mut self.lines);
    }

    fn finish(self, name: &'static str, x: &'static str, report: &mut Report) {
        report.tables.push(self.table);
        report.plots.push(Plot {
            name,
            title: "CPU time of one answer",
            x,
            y: "microseconds",
            lines: self.lines,
        });
    }
}

/// Possible CPUs, one of which runs: what lies in the kernel for each is kept and read for all that
/// are possible.
fn by_cpus(bench: &Bench<'_>, guest: &Guest, report: &mut Report) -> Result<()> {
    let mut table = Table::new(
        "By possible CPUs, in virtual machines",
        &[
            "count",
            "`get`, CPU us",
            "times",
            "`show`, CPU us",
            "times",
            "CPU of the start, ms",
            "times",
            "CPU at rest, ms each minute",
            "resident, KiB",
            "maps, KiB",
        ],
    );
    let mut lines = Lines::new();
    let mut first: Option<Figures> = None;
    for possible in POSSIBLE {
        bench.say(&format!("{possible} possible CPUs"));
        let found = in_machine(bench, guest, Inside::Growth, possible)?;
        let figures = Figures::from_json(&found).context("a machine measured something else")?;
        let first = first.get_or_insert(figures);
        let both = |of: fn(&Figures) -> f64| {
            let value = of(&figures);
            [number(value), number(value / of(first))]
        };
        // As the machine sees it.
        let mut row = vec![found["possible"].to_string()];
        row.extend(both(|figures| figures.get));
        row.extend(both(|figures| figures.show));
        row.extend(both(|figures| figures.start));
        row.push(number(figures.rest));
        row.extend([figures.resident.to_string(), figures.maps.to_string()]);
        table.row(row);
        figures.draw(possible.into(), &mut lines);
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
    let mut found = Figures::measure(bench, &[], SHOW, LONG)?.to_json();
    found["possible"] = possible_cpus().into();
    Ok(found)
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

#[derive(Clone, Copy)]
struct Figures {
    /// Milliseconds of CPU.
    start: f64,
    /// Microseconds of CPU.
    get: f64,
    show: f64,
    /// Milliseconds of CPU each minute.
    rest: f64,
    resident: u64,
    maps: u64,
}

impl Figures {
    fn measure(bench: &Bench<'_>, options: &[&str], show: &str, rest: Rest) -> Result<Self> {
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
        Ok(Self {
            start,
            get: micros(GET, 40)?,
            show: micros(show, 4)?,
            rest: 60.0 * 1e3 * idle / rest.span.as_secs_f64(),
            resident: cost::status(pid[0], "VmRSS")?,
            maps: memory(maps(pid[0])?.values()) >> 10,
        })
    }

    fn draw(&self, count: u64, lines: &mut Lines) {
        for (name, y) in [("get", self.get), ("show", self.show)] {
            let line = lines.entry(name.to_owned()).or_default();
            line.push((as_float(count), y));
        }
    }

    fn to_json(self) -> Value {
        json!({
            "start": self.start,
            "get": self.get,
            "show": self.show,
            "rest": self.rest,
            "resident": self.resident,
            "maps": self.maps,
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        Some(Self {
            start: value["start"].as_f64()?,
            get: value["get"].as_f64()?,
            show: value["show"].as_f64()?,
            rest: value["rest"].as_f64()?,
            resident: value["resident"].as_u64()?,
            maps: value["maps"].as_u64()?,
        })
    }
}
