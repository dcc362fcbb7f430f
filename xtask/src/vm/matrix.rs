//! Boots the machines, a few at a time, shows what happens in them, and keeps what came out.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    initramfs::{self, Content},
    kernels::Kernel,
    lines::Lines,
    qemu::{Accel, MEMORY, Machine, Next, Port},
    report::{Outcome, Reader, Report, Test},
    verdict::{self, Evidence},
};
use crate::tally::Tally;

/// Tests report only when they end. Emulated, on a host that is idle, the longest takes a minute.
const SILENCE: Duration = Duration::from_mins(5);

/// What a machine may take beside its longest test binary, which is killed when its time is over,
/// so that the next one has its turn. A machine that takes longer hangs somewhere.
const REST: Duration = Duration::from_mins(5);

/// How many lines of the console are shown when something went wrong.
const TAIL: usize = 40;

/// What all machines have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    /// For initramfs and logs.
    pub(super) folder: &'a Path,
    pub(super) accel: Accel,
    /// Leave the initramfs, and say how to boot it.
    pub(super) keep: bool,
    /// Show all that the tests say, as they say it.
    pub(super) aloud: bool,
}

/// One machine of the matrix.
#[derive(Debug)]
pub(super) struct Job<'a> {
    /// Unlike that of any other, and part of a file's name.
    pub(super) name: String,
    pub(super) kernel: &'a Kernel,
    pub(super) cpus: u32,
    pub(super) content: Content<'a>,
}

/// What came out of one machine.
#[derive(Debug)]
pub(super) struct Run {
    /// Of the machine.
    pub(super) name: String,
    /// Version of the kernel's package.
    pub(super) package: String,
    pub(super) cpus: u32,
    pub(super) accel: Accel,
    /// From start to end, with the boot.
    pub(super) time: Duration,
    pub(super) report: Report,
    pub(super) problems: Vec<String>,
    /// The kernel's first message about a crash.
    pub(super) crash: Option<String>,
    /// That of the run before, which was repeated for it.
    pub(super) earlier_crash: Option<String>,
    /// The last lines of both ports.
    pub(super) tail: Vec<String>,
}

impl Run {
    /// The tests with their full names.
    pub(super) fn tests(&self) -> impl Iterator<Item = (String, &Test)> {
        self.report.binaries.iter().flat_map(|binary| {
            let named = |test: &Test| format!("{}::{}", binary.name, test.name);
            binary.tests.iter().map(move |test| (named(test), test))
        })
    }

    /// The tests, and the problems as failures.
    pub(super) fn counts(&self) -> Tally {
        let mut counts = verdict::counts(&self.report);
        let unfinished = self
            .tests()
            .any(|(_, test)| test.outcome == Outcome::Unfinished);
        let problems = u64::try_from(self.problems.len()).unwrap_or(u64::MAX);
        // What ended the run early is told by the test that did not end as well.
        counts.failed += problems.saturating_sub(u64::from(unfinished));
        counts
    }
}

impl Matrix<'_> {
    /// Runs the machines, `at_a_time` beside each other; results in their order.
    pub(super) fn run(&self, jobs: &[Job<'_>], at_a_time: usize) -> Result<Vec<Run>> {
        let queue: Mutex<VecDeque<_>> = Mutex::new(jobs.iter().enumerate().collect());
        let work = || {
            let mut done = Vec::new();
            loop {
                let next = queue
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop_front();
                let Some((place, job)) = next else {
                    return done;
                };
                let run = self
                    .boot(job)
                    .with_context(|| format!("cannot run kernel {}", job.name));
                done.push((place, run));
            }
        };
        let mut runs: Vec<(usize, Result<Run>)> = thread::scope(|scope| {
            let workers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .flat_map(|worker| {
                    worker
                        .join()
                        .unwrap_or_else(|payload| std::panic::resume_unwind(payload))
                })
                .collect()
        });
        runs.sort_by_key(|&(place, _)| place);
        runs.into_iter().map(|(_, run)| run).collect()
    }

    /// Runs a machine, and once more if it crashes.
    fn boot(&self, job: &Job<'_>) -> Result<Run> {
        repeat_crashed(self.boot_once(job)?, |run| {
            let (log, kept) = (self.log(&run.name), self.crash_log(&run.name));
            fs::rename(&log, &kept).with_context(|| format!("cannot rename {}", log.display()))?;
            eprintln!(
                "{}: crashed, see {}; starting it again",
                run.name,
                kept.display()
            );
            self.boot_once(job)
        })
    }

    fn boot_once(&self, job: &Job<'_>) -> Result<Run> {
        let Job {
            name,
            kernel,
            content,
            ..
        } = job;
        let initramfs = self.folder.join(format!("{name}.initramfs"));
        initramfs::write(&initramfs, kernel, content)?;
        let machine = Machine {
            kernel: &kernel.image,
            initramfs: &initramfs,
            cpus: job.cpus,
            room: 0,
            memory: MEMORY,
            accel: self.accel,
            silence: SILENCE,
            limit: content.limit + REST,
        };
        eprintln!(
            "{name}: booting {} with {} processors, {}",
            kernel.package,
            machine.cpus,
            self.accel.name()
        );
        let mut watch = Watch::new(name, &self.log(name), self.aloud)?;
        let start = Instant::now();
        let end = machine.run(|port, bytes, now| watch.said(port, bytes, now))?;
        let time = start.elapsed();
        let Watch {
            reader,
            crash,
            mut tail,
            console,
            ..
        } = watch;
        let report = reader.finish(time);
        if !console.rest().is_empty() {
            tail.push_back(console.rest());
        }
        let binaries: Vec<_> = content
            .tests
            .iter()
            .map(|test| test.name.as_str())
            .collect();
        let problems = verdict::problems(&Evidence {
            report: &report,
            end,
            crash: crash.as_deref(),
            binaries: &binaries,
            silence: SILENCE,
            limit: machine.limit,
        });
        if self.keep {
            eprintln!("{name}: to boot it again: {}", machine.step());
        } else {
            fs::remove_file(&initramfs)
                .with_context(|| format!("cannot remove {}", initramfs.display()))?;
        }
        let run = Run {
            name: name.clone(),
            package: kernel.package.clone(),
            cpus: machine.cpus,
            accel: self.accel,
            time,
            report,
            problems,
            crash,
            earlier_crash: None,
            tail: tail.into(),
        };
        eprintln!("{name}: {} in {:.0} s", run.counts(), time.as_secs_f64());
        Ok(run)
    }

    /// The log of a machine that crashed and was started again.
    pub(super) fn crash_log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.crash.log"))
    }

    /// Everything that a machine said, as it came.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }
}

/// Runs a crashed machine once more: a crash concerns the kernel or the emulator first, and says nothing of
/// the tests that it cut off.
fn repeat_crashed(run: Run, again: impl FnOnce(&Run) -> Result<Run>) -> Result<Run> {
    if run.crash.is_none() {
        return Ok(run);
    }
    let second = again(&run)?;
    Ok(Run {
        earlier_crash: run.crash,
        ..second
    })
}

/// Listens to one machine.
struct Watch<'a> {
    name: &'a str,
    log: File,
    aloud: bool,
    reader: Reader,
    console: Lines,
    crash: Option<String>,
    tail: VecDeque<String>,
}

impl<'a> Watch<'a> {
    fn new(name: &'a str, log: &Path, aloud: bool) -> Result<Self> {
        Ok(Self {
            name,
            log: File::create(log).with_context(|| format!("cannot write {}", log.display()))?,
            aloud,
            reader: Reader::default(),
            console: Lines::default(),
            crash: None,
            tail: VecDeque::new(),
        })
    }

    fn said(&mut self, port: Port, bytes: &[u8], now: Duration) -> Next {
        let lines = match port {
            Port::Report => self.reader.take(bytes, now),
            Port::Console => self.console.take(bytes),
        };
        for line in lines {
            if port == Port::Console && self.crash.is_none() && verdict::is_crash(&line) {
                eprintln!("{}: {line}", self.name);
                self.crash = Some(line.clone());
            }
            if self.aloud && port == Port::Report {
                eprintln!("{line}");
            }
            // The log is a help; without it the run is what it is.
            let _ = writeln!(self.log, "{line}");
            if self.tail.len() == TAIL {
                self.tail.pop_front();
            }
            self.tail.push_back(line);
        }
        for news in self.reader.news() {
            eprintln!("{}: {news}", self.name);
        }
        if self.reader.is_done() {
            Next::Finish
        } else {
            Next::Continue
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(crash: Option<&str>) -> Run {
        Run {
            name: "7.2".to_owned(),
            package: "7.2.13-1".into(),
            cpus: 2,
            accel: Accel::Tcg,
            time: Duration::ZERO,
            report: Report::default(),
            problems: Vec::new(),
            crash: crash.map(str::to_owned),
            earlier_crash: None,
            tail: Vec::new(),
        }
    }

    #[test]
    fn a_crashed_machine_is_run_once_more_and_the_crash_is_kept() {
        let fine = repeat_crashed(run(None), |_| panic!("repeated without a crash")).unwrap();
        assert_eq!((fine.crash, fine.earlier_crash), (None, None));
        let mended = repeat_crashed(run(Some("Oops: int3")), |_| Ok(run(None))).unwrap();
        assert_eq!(
            (mended.crash, mended.earlier_crash.as_deref()),
            (None, Some("Oops: int3"))
        );
        let twice = repeat_crashed(run(Some("Oops")), |_| Ok(run(Some("BUG")))).unwrap();
        assert_eq!(
            (twice.crash.as_deref(), twice.earlier_crash.as_deref()),
            (Some("BUG"), Some("Oops"))
        );
    }
}
