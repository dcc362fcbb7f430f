//! Part `growth`: what grows with listeners and with network namespaces. With connections, see
//! the parts `query` and `seed`; with CPUs grow the maps that `footprint` lists.

use std::{
    io,
    net::TcpListener,
    process::{Child, Command},
    thread::sleep,
    time::Duration,
};

use anyhow::Result;
use tcp_status_testkit::netns::Netns;

use super::{
    Bench, cost,
    footprint::memory,
    kernel::maps,
    plot::Lines,
    query::as_float,
    report::{Plot, Report},
    table::{Table, number},
    tracker::{GET, Tracker},
};

const COLUMNS: [&str; 6] = [
    "count",
    "`get`, CPU us",
    "`show`, CPU us",
    "CPU at rest, ms each minute",
    "resident, KiB",
    "maps, KiB",
];

pub(super) fn measure(bench: &Bench<'_>) -> Result<Report> {
    let mut report = Report::new("growth", "What grows, and with what");
    let mut listeners = Table::new("By listeners", &COLUMNS);
    let mut namespaces = Table::new("By network namespaces, with `--netns all`", &COLUMNS);
    let mut lines = Lines::new();
    for count in [1, 10, 100, bench.pick(1_000, 500)] {
        bench.say(&format!("{count} listeners"));
        let _held = (0..count)
            .map(|_| Ok(TcpListener::bind("127.0.0.1:0")?))
            .collect::<Result<Vec<_>>>()?;
        let figures = Figures::measure(bench, &[], r#"{"v":1,"do":"show"}"#)?;
        figures.enter("listeners", count, &mut listeners, &mut lines);
    }
    for count in [1, 10, 100, bench.pick(500, 200)] {
        bench.say(&format!("{count} namespaces"));
        let held = (0..count)
            .map(|_| Held::new())
            .collect::<Result<Vec<_>>>()?;
        let all = r#"{"v":1,"do":"show","all_netns":true}"#;
        let figures = Figures::measure(bench, &["--netns", "all"], all)?;
        figures.enter("namespaces", count, &mut namespaces, &mut lines);
        drop(held);
    }
    report.tables.extend([listeners, namespaces]);
    report.plots.push(Plot {
        name: "cpu",
        title: "CPU time of one answer",
        x: "listeners or namespaces",
        y: "microseconds",
        lines,
    });
    report.notes.push(
        "Listeners are in the tracker's own namespace. Each namespace has one listener and one process; `show` is \
         of all of them."
            .into(),
    );
    Ok(report)
}

/// A namespace with a listener, and with a process, by which it is found.
struct Held {
    process: Child,
    _listener: TcpListener,
}

impl Held {
    fn new() -> Result<Self> {
        let (process, listener) = Netns::new()?.run(|| {
            let process = Command::new("sleep").arg("600").spawn()?;
            Ok::<_, io::Error>((process, TcpListener::bind("127.0.0.1:0")?))
        })??;
        Ok(Self {
            process,
            _listener: listener,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Fails only when it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Figures {
    get: f64,
    show: f64,
    rest: f64,
    resident: u64,
    maps: u64,
}

impl Figures {
    fn measure(bench: &Bench<'_>, options: &[&str], show: &str) -> Result<Self> {
        let tracker = Tracker::start(bench.binary, bench.folder, options)?;
        let pid = [tracker.pid()];
        sleep(Duration::from_secs(bench.pick(5, 2)));
        let before = cost::cpu_of(&pid)?;
        let span = Duration::from_secs(bench.pick(10, 3));
        sleep(span);
        let rest = (cost::cpu_of(&pid)? - before).as_secs_f64();
        let micros = |request, turns| -> Result<f64> {
            let one = cost::turns(turns, &pid, || tracker.ask(request).map(drop))?;
            Ok(1e6 * one.cpu.as_secs_f64())
        };
        Ok(Self {
            get: micros(GET, 200)?,
            show: micros(show, 20)?,
            rest: 60.0 * 1e3 * rest / span.as_secs_f64(),
            resident: cost::status(pid[0], "VmRSS")?,
            maps: memory(maps(pid[0])?.values()) >> 10,
        })
    }

    fn enter(&self, of: &str, count: u32, table: &mut Table, lines: &mut Lines) {
        table.row([
            count.to_string(),
            number(self.get),
            number(self.show),
            number(self.rest),
            self.resident.to_string(),
            self.maps.to_string(),
        ]);
        for (name, y) in [("get", self.get), ("show", self.show)] {
            let line = lines.entry(format!("{name}, by {of}")).or_default();
            line.push((as_float(count.into()), y));
        }
    }
}
