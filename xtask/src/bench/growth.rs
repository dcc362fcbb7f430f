//! Parts `growth` and `cpus`: what grows with sockets, listeners, network namespaces, and with CPUs, in
//! virtual machines, since this one has what it has.

use std::{net::TcpListener, thread::sleep, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tcp_status_testkit::bulk::Bulk;

use super::{
    Bench, Inside, OtherNetns,
    cost::{self, Spread},
    in_machine,
    kernel::{maps, memory},
    possible_cpus,
    report::{Plot, Report, Table, float},
    tracker::{GET, SHOW, Tracker},
};

/// Of the tables, and of [`Figures`] after the first, which the machines measure only.
const COLUMNS: &str = "count | `get`, CPU us | `show`, CPU us | CPU at rest, ms each minute | \
                       resident, KiB | maps, KiB";

/// CPU of the start in milliseconds, then as in [`COLUMNS`].
type Figures = [f64; 6];

const SHOW_ALL: &str = r#"{"v":1,"do":"show","all_netns":true}"#;

/// Possible processors of the machines that are measured in; QEMU has no more.
const POSSIBLE: [u32; 5] = [2, 8, 32, 128, 255];

pub(super) fn measure(bench: &Bench<'_>) -> Result<Report> {
    let mut report = Report::new("growth", "What grows, and with what");
    let own = |request| move || figures(bench, &[], request, rest(bench));
    series(
        &mut report,
        "By sockets",
        "sockets",
        &bench.sizes(),
        own(SHOW),
        |size| Ok(Bulk::new(bench.traffic, size / 4, size / 4)?),
    )?;
    let counts = [1, 10, 100, bench.pick(1_000, 500)];
    series(
        &mut report,
        "By listeners",
        "listeners",
        &counts,
        own(SHOW),
        |count| {
            let listeners = (0..count).map(|_| Ok(TcpListener::bind("127.0.0.1:0")?));
            listeners.collect::<Result<Vec<_>>>()
        },
    )?;
    let counts = [1, 10, 100, bench.pick(500, 200)];
    let all = || figures(bench, &["--netns", "all"], SHOW_ALL, rest(bench));
    let title = "By network namespaces, with `--netns all`";
    series(&mut report, title, "namespaces", &counts, all, |count| {
        (0..count)
            .map(|_| OtherNetns::new())
            .collect::<Result<Vec<_>>>()
    })?;
    report.note(
        "Listeners are in the tracker's own namespace. Each namespace has one listener and one \
         process; `show` is of all of them.",
    );
    Ok(report)
}

/// One table and one plot: the same figures at each count of something, which `hold` makes.
fn series<T>(
    report: &mut Report,
    title: &str,
    name: &'static str,
    counts: &[u64],
    measure: impl Fn() -> Result<Figures>,
    hold: impl Fn(u64) -> Result<T>,
) -> Result<()> {
    let mut table = Table::new(title, COLUMNS);
    let mut plot = Plot::new(name, "CPU time of one answer", name, "microseconds");
    for &count in counts {
        progress!("{count} {name}");
        let _held = hold(count)?;
        let figures = measure()?;
        table.row(&[&count, &&figures[1..]]);
        draw(count, &figures, &mut plot);
    }
    report.tables.push(table);
    report.plots.push(plot);
    Ok(())
}

fn draw(count: u64, figures: &Figures, plot: &mut Plot) {
    plot.add("get", count, figures[1]);
    plot.add("show", count, figures[2]);
}

/// Possible CPUs, one of which runs: what lies in the kernel for each is kept and read for all that
/// are possible.
pub(super) fn by_cpus(bench: &Bench<'_>) -> Result<Report> {
    let mut report = Report::new("cpus", "What grows with possible CPUs");
    let mut table = Table::new(
        "In virtual machines",
        "count | `get`, CPU us | times | `show`, CPU us | times | CPU of the start, ms | times | \
         CPU at rest, ms each minute | resident, KiB | maps, KiB",
    );
    let title = "CPU time of one answer, emulated";
    let mut plot = Plot::new("answer", title, "possible CPUs", "microseconds");
    let mut first: Option<Figures> = None;
    for possible in POSSIBLE {
        progress!("{possible} possible CPUs");
        let found = in_machine(bench, Inside::Growth, possible)?;
        let (seen, figures): (u64, Figures) =
            serde_json::from_value(found).context("a machine measured something else")?;
        let first = first.get_or_insert(figures);
        let relative = [1, 2, 0].map(|index| [figures[index], figures[index] / first[index]]);
        // As the machine sees it.
        table.row(&[&seen, &relative.as_flattened(), &&figures[3..]]);
        draw(possible.into(), &figures, &mut plot);
    }
    report.tables.push(table);
    report.plots.push(plot);
    report.note(format!(
        "CPUs are those of {}. Its times are no times of a real one: only their ratios mean \
         something.",
        bench.guest()?.describe()?
    ));
    Ok(report)
}

/// Measures in the machine that this runs in, where waiting takes no time.
pub(super) fn inside(bench: &Bench<'_>) -> Result<Value> {
    let figures = figures(bench, &[], SHOW, [60, 60])?;
    Ok(json!([possible_cpus()?, figures]))
}

/// For how many seconds a tracker is left alone after its start, and for how many it is then watched.
fn rest(bench: &Bench<'_>) -> [u64; 2] {
    bench.pick([5, 10], [2, 3])
}

fn figures(bench: &Bench<'_>, options: &[&str], show: &str, rest: [u64; 2]) -> Result<Figures> {
    let tracker = Tracker::start(bench, options)?;
    let pid = [tracker.pid()];
    let start = 1e3 * cost::cpu_of(&pid)?.as_secs_f64();
    let [before, span] = rest.map(Duration::from_secs);
    sleep(before);
    let before = cost::cpu_of(&pid)?;
    sleep(span);
    let idle = (cost::cpu_of(&pid)? - before).as_secs_f64();
    // In rounds: an audit may fall into one.
    let micros = |request, turns| -> Result<f64> {
        let round = || cost::turns(turns, &pid, || tracker.query(request).map(drop));
        let rounds = bench.rounds(5, 5, round)?;
        Ok(Spread::micros(&rounds, |cost| cost.cpu)?.median)
    };
    Ok([
        start,
        micros(GET, 40)?,
        micros(show, 4)?,
        60.0 * 1e3 * idle / span.as_secs_f64(),
        float(cost::status(pid[0], "VmRSS")?),
        float(memory(&maps(pid[0])?) >> 10),
    ])
}
