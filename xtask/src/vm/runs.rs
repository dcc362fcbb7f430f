//! Which machines a run has, what each does, and what came out of them.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    host::{Host, INIT, PROCESSORS, REST, SUSPENDED_PROCESSORS},
    kernels::Version,
    machine::Accel,
    report::{COUNTS, Outcome, Report, Test},
};
use crate::{files, test_totals::TestTotals};

/// In the names of tests that show nothing of a kernel, and run natively only unless a filter
/// selects them: when the tracker audits and walks, by its own clock, what lasts for a minute
/// or half of one, and all faults but those of namespaces.
const NATIVE: [&str; 12] = [
    "pacing::",
    "split::",
    "a_minute",
    "audits::",
    "calls::",
    "clock::",
    "kernel::",
    "kill::",
    "limits::",
    "neighbours::",
    "socket_paths::",
    "waiting::",
];

/// In the name of the test that suspends its machine.
const SUSPENSION: &str = "suspension";

/// In the names of the tests that show that a kernel takes the programs, and that they count right
/// from the start.
const BRIEF: &str = "seeding";

/// One machine of a run, and which tests it runs.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) version: Version,
    /// Unlike that of any other, and part of a file's name.
    pub(super) name: String,
    /// Of each test binary. None has a space or a quote.
    arguments: String,
    cpus: u32,
}

impl Job {
    pub(super) fn new(version: &Version, suffix: &str, arguments: &str, cpus: u32) -> Self {
        let fixed = "--test-threads=1 --show-output -Z unstable-options --format json";
        Self {
            version: version.clone(),
            name: format!("{version}{suffix}"),
            arguments: format!("{fixed} {arguments}"),
            cpus,
        }
    }
}

/// What the machines do.
pub(super) struct Task {
    /// Test binaries.
    pub(super) tests: &'static [&'static str],
    pub(super) jobs: Vec<Job>,
    pub(super) environment: Vec<(&'static str, String)>,
    /// What they look for where it lies on this machine.
    pub(super) files: Vec<PathBuf>,
    /// How long a test binary may take.
    pub(super) limit: Duration,
    /// Show everything that they print.
    pub(super) verbose: bool,
}

/// The machines, the longest first, so that none of them is alone at the end.
pub(super) fn jobs(versions: &[Version], filter: Option<&str>, briefly: &[Version]) -> Vec<Job> {
    let is_suspension = filter.is_some_and(|filter| SUSPENSION.contains(filter));
    let native = NATIVE
        .iter()
        .filter(|_| filter.is_none())
        .chain([&SUSPENSION]);
    let skipped = native.map(|name| format!("--skip {name} "));
    let most = skipped.collect::<String>() + filter.unwrap_or_default();
    let mut jobs = Vec::new();
    if !is_suspension {
        jobs.extend(
            versions
                .iter()
                .map(|version| Job::new(version, "", &most, PROCESSORS)),
        );
    }
    if is_suspension || filter.is_none() {
        let job = |version| Job::new(version, "-suspended", SUSPENSION, SUSPENDED_PROCESSORS);
        jobs.extend(versions.iter().map(job));
    }
    let brief = briefly.iter();
    jobs.extend(brief.map(|version| Job::new(version, "-briefly", BRIEF, PROCESSORS)));
    jobs
}

/// What came out of one machine.
#[derive(Debug)]
pub(super) struct Run {
    name: String,
    /// Version of the kernel's package.
    package: String,
    cpus: u32,
    accel: Accel,
    /// From start to end, with the boot.
    time: Duration,
    report: Report,
    problems: Vec<String>,
    /// Of this run and of the one before, which was repeated for it.
    crashes: usize,
    /// The last lines of both ports.
    tail: VecDeque<String>,
}

impl Run {
    pub(super) fn counts(&self) -> TestTotals {
        self.report.counts(&self.problems)
    }

    /// What went wrong, with the output of the tests and of the console.
    pub(super) fn show_failures(&self) {
        let name = &self.name;
        for Test {
            name: test,
            outcome,
            output,
            ..
        } in &self.report.tests
        {
            if *outcome == Outcome::Failed {
                eprintln!("---- {test} on {name} ----\n{}", output.trim_end());
            }
        }
        if !self.problems.is_empty() {
            eprintln!("---- the last lines of {name} ----");
            for line in self.tail.iter().chain(&self.problems) {
                eprintln!("{line}");
            }
            eprintln!("everything that it printed is in target/vm/runs/{name}.log");
        }
    }
}

/// Runs a machine, and once more if it crashes: a crash shows nothing about the tests that it cut off.
/// It stays a failure.
pub(super) fn boot(
    host: &Host,
    task: &Task,
    job: &Job,
    binaries: &BTreeMap<String, PathBuf>,
    accel: Accel,
) -> Result<Run> {
    let Job { name, cpus, .. } = job;
    let kernel = host.kernel(&job.version)?;
    let mut machine = host.machine(kernel, &format!("runs/{name}"), INIT)?;
    (machine.cpus, machine.accel) = (*cpus, accel);
    machine.limit = task.limit + REST;
    let mut plan = format!(
        "NAME='linux-{}'\nTESTS='{}'\nARGUMENTS='{}'\nLIMIT='{}'\n",
        kernel.version,
        task.tests.join(" "),
        job.arguments,
        task.limit.as_secs()
    );
    for (name, value) in &task.environment {
        plan += &format!("export {name}='{value}'\n");
    }
    machine.write("plan", &plan)?;
    for (name, path) in binaries {
        machine.copy(path, &format!("tests/{name}"))?;
    }
    machine.copy_all(&task.files)?;
    machine.pack()?;
    let (package, emulation) = (&kernel.package, accel.name());
    let mut crash_before = None;
    let run = loop {
        eprintln!("{name}: booting {package} with {cpus} processors, {emulation}");
        let mut report = Report::default();
        let start = Instant::now();
        let ended = machine.run(|line, now| {
            if task.verbose {
                eprintln!("{line}");
            }
            if let Some(news) = report.line(line, now) {
                eprintln!("{name}: {news}");
            }
            report.done
        })?;
        let time = start.elapsed();
        if !report.done {
            report.stop(time);
        }
        if let (Some(crash), None) = (&ended.crash, &crash_before) {
            let kept = machine.log.with_extension("crash.log");
            files::rename(&machine.log, &kept)?;
            eprintln!("{name}: crashed, see {}; starting it again", kept.display());
            crash_before = Some(format!("{crash}; see {}", kept.display()));
            continue;
        }
        break Run {
            name: name.clone(),
            package: package.clone(),
            cpus: *cpus,
            accel,
            time,
            crashes: [&crash_before, &ended.crash].into_iter().flatten().count(),
            problems: report.problems(&ended, crash_before, task.tests),
            report,
            tail: ended.tail,
        };
    };
    eprintln!(
        "{name}: {} in {:.0} s",
        run.counts(),
        run.time.as_secs_f64()
    );
    Ok(run)
}

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
    let mut names: Vec<&String> = Vec::new();
    for Test { name, .. } in runs.iter().flat_map(|run| &run.report.tests) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        row(name, &|run| {
            let test = run.report.tests.iter().find(|test| test.name == *name);
            test.map_or("-".to_owned(), |test| {
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

    let mut rows = vec![[&["kernel", "figures"], &COUNTS[..]].concat().join("\t")];
    for run in runs {
        let all = &run.report.figures;
        let sum = all.iter().fold([0; 4], |sum, (_, values)| {
            std::array::from_fn(|index| sum[index] + values[index])
        });
        let sum = (format!("all {}", all.len()), sum);
        let notable = all
            .iter()
            .filter(|(_, [_, _, missed, corrections])| missed + corrections > 0);
        for (name, values) in [&sum]
            .into_iter()
            .filter(|_| !all.is_empty())
            .chain(notable)
        {
            let values = values.map(|value| value.to_string()).join("\t");
            rows.push(format!("{}\t{name}\t{values}", run.name));
        }
    }
    if rows.len() > 1 {
        let cells = |row: &String| row.split('\t').map(str::to_owned).collect();
        let rows: Vec<_> = rows.iter().map(cells).collect();
        tables += &format!("\n{}", aligned(&rows));
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(versions: &[&str], filter: Option<&str>, briefly: &[&str]) -> Vec<String> {
        let parse = |versions: &[&str]| -> Vec<Version> {
            versions.iter().map(|text| text.parse().unwrap()).collect()
        };
        let jobs = jobs(&parse(versions), filter, &parse(briefly));
        jobs.into_iter().map(|job| job.name).collect()
    }

    #[test]
    fn a_suspended_machine_has_only_its_own_test() {
        let all = names(&["6.1", "7.2"], None, &["5.10"]);
        assert_eq!(
            all,
            [
                "6.1",
                "7.2",
                "6.1-suspended",
                "7.2-suspended",
                "5.10-briefly"
            ]
        );
        assert_eq!(names(&["6.1"], Some("seed"), &[]), ["6.1"]);
        assert_eq!(names(&["6.1"], Some("suspension"), &[]), ["6.1-suspended"]);
    }
}
