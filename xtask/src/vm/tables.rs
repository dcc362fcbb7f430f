//! The results of all machines, as tables.

use super::{report::COUNTS, runs::Run};

/// Rows of cells of equal width; the first column to the left, the others to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("{cell:<0$}", width(0)),
            _ => format!("  {cell:>0$}", width(column)),
        });
        cells.collect::<String>() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A row for each test, a column for each kernel; then what the tests counted, in sum, and for
/// each test in which something was missed or corrected.
pub(super) fn tables(runs: &[Run]) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |first: &str, cell: &dyn Fn(&Run) -> String| {
        let cells = runs.iter().map(cell);
        rows.push([first.to_owned()].into_iter().chain(cells).collect());
    };
    row("kernel", &|run| run.name.clone());
    row("package", &|run| run.package.clone());
    row("processors", &|run| {
        format!("{} {}", run.cpus, run.accel.name())
    });
    let mut names: Vec<String> = Vec::new();
    for (name, _) in runs.iter().flat_map(|run| run.report.tests()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in &names {
        row(name, &|run| {
            let test = run.report.tests().find(|(other, _)| other == name);
            test.map_or("-".to_owned(), |(_, test)| {
                format!("{} {:.1}", test.outcome.name(), test.time.as_secs_f64())
            })
        });
    }
    row("passed", &|run| run.counts().passed.to_string());
    row("failed", &|run| run.counts().failed.to_string());
    row("skipped", &|run| run.counts().skipped.to_string());
    row("crashes", &|run| run.crashes.to_string());
    row("seconds", &|run| format!("{:.0}", run.time.as_secs_f64()));
    let mut tables = aligned(&rows);

    let mut rows = vec![[&["kernel", "figures"], &COUNTS[..]].concat()];
    let mut rows: Vec<Vec<String>> = rows
        .drain(..)
        .map(|row| row.into_iter().map(str::to_owned).collect())
        .collect();
    for run in runs.iter().filter(|run| !run.report.figures.is_empty()) {
        let all = &run.report.figures;
        let sum = all.iter().fold([0; 4], |sum, (_, values)| {
            std::array::from_fn(|index| sum[index] + values[index])
        });
        let sum = (format!("all {}", all.len()), sum);
        let notable = all
            .iter()
            .filter(|(_, values)| values[2] > 0 || values[3] > 0);
        for (name, values) in [&sum].into_iter().chain(notable) {
            let head = [run.name.clone(), name.clone()];
            rows.push(
                head.into_iter()
                    .chain(values.map(|value| value.to_string()))
                    .collect(),
            );
        }
    }
    if rows.len() > 1 {
        tables += &format!("\n{}", aligned(&rows));
    }
    tables
}
