//! The results as text: a table of tests by kernel, and one of what the tests counted. Pure.

use super::{
    matrix::Run,
    report::{Figures, Outcome},
};

/// Rows of cells of equal width; the first column to the left, the others to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line.push_str(&match column {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn header(first: &str, runs: &[Run]) -> Vec<String> {
    let names = runs.iter().map(|run| run.name.clone());
    std::iter::once(first.to_owned()).chain(names).collect()
}

/// A row for each test, a column for each kernel.
pub(super) fn tests(runs: &[Run]) -> String {
    let mut names: Vec<String> = Vec::new();
    for run in runs {
        for (name, _) in run.tests() {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let mut rows = vec![header("kernel", runs)];
    let mut row = |first: &str, cell: &dyn Fn(&Run) -> String| {
        let cells = runs.iter().map(cell);
        rows.push(std::iter::once(first.to_owned()).chain(cells).collect());
    };
    row("package", &|run| run.package.clone());
    row("processors", &|run| {
        format!("{} {}", run.cpus, run.accel.name())
    });
    for name in &names {
        row(name, &|run| cell(run, name));
    }
    row("passed", &|run| run.counts().passed.to_string());
    row("failed", &|run| run.counts().failed.to_string());
    row("skipped", &|run| run.counts().skipped.to_string());
    row("crashes", &|run| {
        let crashes = [&run.earlier_crash, &run.crash];
        crashes.into_iter().flatten().count().to_string()
    });
    row("seconds", &|run| format!("{:.0}", run.time.as_secs_f64()));
    aligned(&rows)
}

fn cell(run: &Run, name: &str) -> String {
    let found = run.tests().find(|(candidate, _)| candidate == name);
    let Some((_, test)) = found else {
        return "-".to_owned();
    };
    let outcome = match test.outcome {
        Outcome::Passed => "ok",
        Outcome::Failed => "FAILED",
        Outcome::Skipped => "skipped",
        Outcome::Unfinished => "UNFINISHED",
    };
    format!("{outcome} {:.1}", test.time.as_secs_f64())
}

/// What the tests counted, over all of them by kernel, and for each test in which something was
/// missed or corrected. Nothing if no test counted.
pub(super) fn figures(runs: &[Run]) -> Option<String> {
    let titles = [
        "kernel",
        "figures",
        "connections",
        "events",
        "missed",
        "corrections",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for run in runs {
        let all = &run.report.figures;
        if all.is_empty() {
            continue;
        }
        let name = &run.name;
        let mut sum = Figures {
            name: format!("all {}", all.len()),
            ..Figures::default()
        };
        for figures in all {
            sum.connections += figures.connections;
            sum.events += figures.events;
            sum.missed += figures.missed;
            sum.corrections += figures.corrections;
        }
        let notable = all
            .iter()
            .filter(|figures| figures.missed > 0 || figures.corrections > 0);
        for figures in std::iter::once(&sum).chain(notable) {
            let mut row = vec![name.clone(), figures.name.clone()];
            let counts = [
                figures.connections,
                figures.events,
                figures.missed,
                figures.corrections,
            ];
            row.extend(counts.map(|count| count.to_string()));
            rows.push(row);
        }
    }
    (rows.len() > 1).then(|| aligned(&rows))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::vm::{qemu::Accel, report::Reader};

    fn run(version: &str, cpus: u32, output: &str) -> Run {
        let mut reader = Reader::default();
        reader.take(output.as_bytes(), Duration::ZERO);
        Run {
            name: version.to_owned(),
            package: format!("{version}.9-1"),
            cpus,
            accel: Accel::Tcg,
            time: Duration::from_secs(12),
            report: reader.finish(Duration::from_millis(1500)),
            problems: Vec::new(),
            crash: None,
            earlier_crash: None,
            tail: Vec::new(),
        }
    }

    #[test]
    fn tests_stand_in_rows_and_kernels_in_columns() {
        let runs = [
            run("5.10", 2, "##vm begin live\ntest a ... ok\ntest b ... \n"),
            run(
                "6.12",
                1,
                "##vm begin live\ntest a ... FAILED\ntest c ... ignored\n",
            ),
        ];
        let expected = "\
kernel                 5.10        6.12
package            5.10.9-1    6.12.9-1
processors            2 tcg       1 tcg
live::a              ok 0.0  FAILED 0.0
live::b      UNFINISHED 1.5           -
live::c                   -  skipped 0.0
passed                    1           0
failed                    1           1
skipped                   0           1
crashes                   0           0
seconds                  12          12
";
        let squeeze = |text: &str| {
            let lines = text.lines();
            let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
            words.collect::<Vec<_>>()
        };
        let table = super::tests(&runs);
        assert_eq!(squeeze(&table), squeeze(expected));
        let widths: Vec<_> = table.lines().map(str::len).collect();
        assert!(widths.iter().all(|&width| width == widths[0]), "{table}");
    }

    #[test]
    fn figures_are_summed_and_the_notable_ones_told() {
        let output = "##vm begin live\n\
                      FIGURES quiet: connections=10 events=80 missed=0 corrections=0\n\
                      FIGURES loud: connections=5 events=40 missed=1 corrections=2\n";
        let table = figures(&[run("6.1", 2, output), run("7.2", 2, "")]).unwrap();
        assert_eq!(
            table,
            "\
kernel  figures  connections  events  missed  corrections
6.1       all 2           15     120       1            2
6.1        loud            5      40       1            2
"
        );
        assert_eq!(figures(&[run("7.2", 2, "")]), None);
    }
}
