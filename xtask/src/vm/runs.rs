//! One machine from its boot to its result.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    host::{Host, INIT, REST},
    jobs::{Job, Task},
    machine::{Accel, Machine, Tree},
    report::{Outcome, Report},
};
use crate::{files, test_totals::TestTotals};

/// What came out of one machine.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) name: String,
    /// Version of the kernel's package.
    pub(super) package: String,
    pub(super) cpus: u32,
    pub(super) accel: Accel,
    /// From start to end, with the boot.
    pub(super) time: Duration,
    pub(super) report: Report,
    pub(super) problems: Vec<String>,
    /// Of this run and of the one before, which was repeated for it.
    pub(super) crashes: usize,
    /// The last lines of both ports.
    pub(super) tail: VecDeque<String>,
}

impl Run {
    pub(super) fn counts(&self) -> TestTotals {
        self.report.counts(&self.problems)
    }
}

/// Runs a machine, and once more if it crashes: a crash concerns the kernel or the emulator first,
/// and shows nothing about the tests that it cut off.
pub(super) fn boot(
    host: &Host,
    task: &Task,
    job: &Job,
    binaries: &BTreeMap<String, PathBuf>,
    accel: Accel,
    keep: bool,
) -> Result<Run> {
    let Job { name, cpus, .. } = job;
    let kernel = host.kernel(&job.version)?;
    let folder = host.folder.join("runs");
    let (initramfs, log) = (
        folder.join(format!("{name}.initramfs")),
        folder.join(format!("{name}.log")),
    );
    let tree = Tree::new(&host.busybox, kernel, INIT)?;
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
    tree.write("plan", &plan)?;
    for (name, path) in binaries {
        tree.copy(path, &format!("tests/{name}"))?;
    }
    for file in &task.files {
        tree.copy(
            file,
            file.to_str()
                .context("a path is not text")?
                .trim_start_matches('/'),
        )?;
    }
    tree.pack(&initramfs)?;
    let machine = Machine {
        cpus: *cpus,
        accel,
        limit: task.limit + REST,
        ..host.machine(kernel, &initramfs, &log)
    };
    let mut crashes = 0;
    let run = loop {
        let package = &kernel.package;
        eprintln!(
            "{name}: booting {package} with {cpus} processors, {}",
            accel.name()
        );
        let mut report = Report::default();
        let start = Instant::now();
        let ended = machine.run(|line, now| {
            if task.aloud {
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
        if ended.crash.is_some() {
            crashes += 1;
            if crashes == 1 {
                let kept = log.with_extension("crash.log");
                files::rename(&log, &kept)?;
                eprintln!("{name}: crashed, see {}; starting it again", kept.display());
                continue;
            }
        }
        break Run {
            name: name.clone(),
            package: package.clone(),
            cpus: *cpus,
            accel,
            time,
            problems: report.problems(&ended, task.tests),
            report,
            crashes,
            tail: ended.tail,
        };
    };
    if keep {
        eprintln!("{name}: to boot it again: {}", machine.step());
    } else {
        files::remove(&initramfs)?;
    }
    eprintln!(
        "{name}: {} in {:.0} s",
        run.counts(),
        run.time.as_secs_f64()
    );
    Ok(run)
}

/// What went wrong on a kernel, with the output of the tests and of the console.
pub(super) fn show_failures(run: &Run) {
    let name = &run.name;
    for (test, failed) in run.report.tests() {
        if failed.outcome == Outcome::Failed {
            eprintln!("---- {test} on {name} ----\n{}", failed.output.trim_end());
        }
    }
    if run.problems.is_empty() {
        return;
    }
    eprintln!("---- the last lines of {name} ----");
    for line in run.tail.iter().chain(&run.problems) {
        eprintln!("{line}");
    }
    eprintln!("everything that it printed is in target/vm/runs/{name}.log");
}
