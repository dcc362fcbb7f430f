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
    kernels::{Kernel, Version},
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
    pub(super) content: Content<'a>,
    /// Processors of a machine.
    pub(super) cpus: u32,
    /// Leave the initramfs, and say how to boot it.
    pub(super) keep: bool,
    /// Show all that the tests say, as they say it.
    pub(super) aloud: bool,
}

/// What came out of one machine.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) version: Version,
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
    /// Runs the tests on every kernel, `jobs` at a time; results in the order of `kernels`.
    pub(super) fn run(&self, kernels: &[Kernel], jobs: usize) -> Result<Vec<Run>> {
        let queue: Mutex<VecDeque<_>> = Mutex::new(kernels.iter().enumerate().collect());
        let work = || {
            let mut done = Vec::new();
            loop {
                let next = queue
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop_front();
                let Some((place, kernel)) = next else {
                    return done;
                };
                let run = self
                    .boot(kernel)
                    .with_context(|| format!("cannot run kernel {}", kernel.version));
                done.push((place, run));
            }
        };
        let mut runs: Vec<(usize, Result<Run>)> = thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
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

    /// Runs the tests on a kernel, and once more if it crashes.
    fn boot(&self, kernel: &Kernel) -> Result<Run> {
        repeat_crashed(self.boot_once(kernel)?, |run| {
            let (log, kept) = (self.log(&run.version), self.crash_log(&run.version));
            fs::rename(&log, &kept).with_context(|| format!("cannot rename {}", log.display()))?;
            eprintln!(
                "{}: crashed, see {}; starting it again",
                run.version,
                kept.display()
            );
            self.boot_once(kernel)
        })
    }

    fn boot_once(&self, kernel: &Kernel) -> Result<Run> {
        let version = &kernel.version;
        let initramfs = self.folder.join(format!("{version}.initramfs"));
        initramfs::write(&initramfs, kernel, &self.content)?;
        let machine = Machine {
            kernel: &kernel.image,
            initramfs: &initramfs,
            cpus: self.cpus,
            room: 0,
            memory: MEMORY,
            accel: self.accel,
            silence: SILENCE,
            limit: self.content.limit + REST,
        };
        eprintln!(
            "{version}: booting {} with {} processors, {}",
            kernel.package,
            machine.cpus,
            self.accel.name()
        );
        let mut watch = Watch::new(version, &self.log(version), self.aloud)?;
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
        let names: Vec<_> = self
            .content
            .tests
            .iter()
            .map(|test| test.name.as_str())
            .collect();
        let problems = verdict::problems(&Evidence {
            report: &report,
            end,
            crash: crash.as_deref(),
            binaries: &names,
            silence: SILENCE,
            limit: machine.limit,
        });
        if self.keep {
            eprintln!("{version}: to boot it again: {}", machine.step());
        } else {
            fs::remove_file(&initramfs)
                .with_context(|| format!("cannot remove {}", initramfs.display()))?;
        }
        let run = Run {
            version: version.clone(),
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
        eprintln!("{version}: {} in {:.0} s", run.counts(), time.as_secs_f64());
        Ok(run)
    }

    /// The log of a machine that crashed and was started again.
    pub(super) fn crash_log(&self, version: &Version) -> PathBuf {
        self.folder.join(format!("{version}.crash.log"))
    }

    /// Everything that a machine said, as it came.
    pub(super) fn log(&self, version: &Version) -> PathBuf {
        self.folder.join(format!("{version}.log"))
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
    version: &'a Version,
    log: File,
    aloud: bool,
    reader: Reader,
    console: Lines,
    crash: Option<String>,
    tail: VecDeque<String>,
}

impl<'a> Watch<'a> {
    fn new(version: &'a Version, log: &Path, aloud: bool) -> Result<Self> {
        Ok(Self {
            version,
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
                eprintln!("{}: {line}", self.version);
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
            eprintln!("{}: {news}", self.version);
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
            version: "7.2".parse().unwrap(),
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
