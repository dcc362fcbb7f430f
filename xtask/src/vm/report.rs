//! What a machine reports on its second serial port: marks of the first process, and the JSON of
//! the test harness. Whether the run is good.

use std::time::Duration;

use serde::Deserialize;

use super::machine::{End, Ended};
use crate::test_totals::{SKIPPED, TestTotals};

const MARK: &str = "##vm ";

/// What a line of figures counts: `FIGURES NAME: connections=N events=N missed=N corrections=N`.
pub(super) const COUNTS: [&str; 4] = ["connections", "events", "missed", "corrections"];

/// Everything that a machine reported.
#[derive(Debug, Default)]
pub(super) struct Report {
    binaries: Vec<Binary>,
    pub(super) tests: Vec<Test>,
    /// By name; the values of [`COUNTS`].
    pub(super) figures: Vec<(String, [u64; 4])>,
    /// What the first process could not do.
    problems: Vec<String>,
    /// It came to its end.
    pub(super) done: bool,
}

/// One test binary.
#[derive(Debug, Default)]
struct Binary {
    name: String,
    /// The harness's own count of tests; without it, the binary died.
    count: Option<usize>,
    exit_status: Option<u8>,
}

/// One test.
#[derive(Debug, Default)]
pub(super) struct Test {
    /// With that of its binary.
    pub(super) name: String,
    pub(super) outcome: Outcome,
    /// Why it was skipped.
    reason: Option<String>,
    /// From its start to its end; its start while it runs.
    pub(super) time: Duration,
    /// What it printed.
    pub(super) output: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    Skipped,
    /// It began and did not end.
    #[default]
    Unfinished,
}

impl Outcome {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
            Self::Unfinished => "UNFINISHED",
        }
    }
}

/// An event of the test harness.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    event: String,
    name: String,
    stdout: String,
    passed: Option<usize>,
    failed: usize,
    ignored: usize,
}

impl Report {
    /// Takes a line that arrived at `now`; returns what is worth showing of it.
    pub(super) fn line(&mut self, line: &str, now: Duration) -> Option<String> {
        if let Some(mark) = line.strip_prefix(MARK) {
            return self.mark(mark, now);
        }
        if let Ok(event) = serde_json::from_str(line) {
            return self.event(&event, now);
        }
        self.text(line);
        None
    }

    fn mark(&mut self, mark: &str, now: Duration) -> Option<String> {
        let (word, rest) = mark.split_once(' ').unwrap_or((mark, ""));
        match word {
            "kernel" => return Some(format!("is up: {rest}")),
            "begin" => self.binaries.push(Binary {
                name: rest.to_owned(),
                ..Binary::default()
            }),
            "end" => {
                self.stop(now);
                let status = rest.rsplit(' ').next()?.parse().ok();
                self.binaries.last_mut()?.exit_status = status;
            }
            "done" => self.done = true,
            _ => self.problems.push(mark.to_owned()),
        }
        None
    }

    fn event(&mut self, event: &Event, now: Duration) -> Option<String> {
        let binary = self.binaries.last_mut()?;
        if event.kind == "suite" {
            binary.count = event
                .passed
                .map(|passed| passed + event.failed + event.ignored);
            return None;
        }
        let name = format!("{}::{}", binary.name, event.name);
        let outcome = match event.event.as_str() {
            "started" => {
                self.tests.push(Test {
                    name,
                    time: now,
                    ..Test::default()
                });
                return None;
            }
            "ok" => Outcome::Passed,
            "ignored" => Outcome::Skipped,
            "failed" => Outcome::Failed,
            _ => return None,
        };
        event.stdout.lines().for_each(|line| self.text(line));
        let test = self.tests.last_mut().filter(|test| test.name == name)?;
        let is_skip = outcome == Outcome::Passed && test.reason.is_some();
        test.outcome = if is_skip { Outcome::Skipped } else { outcome };
        test.time = now.saturating_sub(test.time);
        let (seconds, reason) = (
            test.time.as_secs_f64(),
            test.reason.as_deref().unwrap_or(""),
        );
        let outcome = test.outcome.name();
        Some(format!("{name} ... {outcome} ({seconds:.1} s) {reason}"))
    }

    /// A line that a test printed.
    fn text(&mut self, line: &str) {
        self.figures.extend(figures(line));
        let Some(test) = self.running() else { return };
        if let Some(reason) = line.strip_prefix(SKIPPED) {
            test.reason = Some(reason.to_owned());
        }
        test.output += line;
        test.output.push('\n');
    }

    fn running(&mut self) -> Option<&mut Test> {
        let last = self.tests.last_mut();
        last.filter(|test| test.outcome == Outcome::Unfinished)
    }

    /// Nothing more can come of the running test.
    pub(super) fn stop(&mut self, now: Duration) {
        if let Some(test) = self.running() {
            test.time = now.saturating_sub(test.time);
        }
    }

    /// The tests, counted one by one, and the problems as failures.
    pub(super) fn counts(&self, problems: &[String]) -> TestTotals {
        let count = |outcome| {
            let tests = self.tests.iter().filter(|test| test.outcome == outcome);
            tests.count() as u64
        };
        let (unfinished, problems) = (count(Outcome::Unfinished), problems.len() as u64);
        TestTotals {
            passed: count(Outcome::Passed),
            // What ended the run early is counted by the test that did not end as well.
            failed: count(Outcome::Failed) + problems.max(unfinished),
            skipped: count(Outcome::Skipped),
            ..TestTotals::default()
        }
    }

    /// Everything that is wrong beside failed tests; empty for a good run of these binaries.
    /// `crash_before` ended the run that this one repeats.
    pub(super) fn problems(
        &self,
        ended: &Ended,
        crash_before: Option<String>,
        binaries: &[&str],
    ) -> Vec<String> {
        let mut problems = self.problems.clone();
        problems.extend(crash_before.map(|crash| format!("the kernel crashed at first: {crash}")));
        if let Some(crash) = &ended.crash {
            problems.push(format!("the kernel crashed: {crash}"));
        } else if !self.done {
            problems.push(self.early_end(ended.end));
        }
        for &name in binaries.iter().filter(|_| self.done) {
            match self.binaries.iter().find(|binary| binary.name == name) {
                Some(binary) => problems.extend(self.problem(binary)),
                None => problems.push(format!("{name} did not run")),
            }
        }
        let counts = self.counts(&problems);
        if counts.passed == 0 && counts.failed == 0 {
            problems.push(match counts.skipped {
                0 => "no test ran; does the filter fit any?".to_owned(),
                skipped => format!("all {skipped} tests skipped themselves"),
            });
        }
        problems
    }

    fn early_end(&self, end: End) -> String {
        let what = match end {
            End::Silent => "it printed nothing for too long".to_owned(),
            End::Overtime => "it took too long".to_owned(),
            End::Exited(status) => format!("QEMU ended before the tests did ({status})"),
            End::Stopped => "it was stopped before the tests ended".to_owned(),
        };
        match self.tests.last() {
            None => format!("{what}, before the first test"),
            Some(Test { name, outcome, .. }) if *outcome == Outcome::Unfinished => {
                format!("{what}, in {name}")
            }
            Some(Test { name, .. }) => format!("{what}, after {name}"),
        }
    }

    /// What is wrong with a binary that ran, beside its failed tests.
    fn problem(&self, binary: &Binary) -> Option<String> {
        let Binary {
            name,
            exit_status: status,
            ..
        } = binary;
        let prefix = format!("{name}::");
        let tests = self
            .tests
            .iter()
            .filter(|test| test.name.starts_with(&prefix));
        let tests: Vec<_> = tests.collect();
        let failed = tests.iter().any(|test| test.outcome == Outcome::Failed);
        let seen = tests.len();
        match binary.count {
            None => Some(format!("{name} died (exit status {status:?})")),
            Some(count) if count != seen => {
                Some(format!("{name} counts {count} tests, but {seen} were seen"))
            }
            Some(_) if failed == (*status == Some(0)) => Some(format!(
                "{name} ends with status {status:?}, unlike its tests"
            )),
            Some(_) => None,
        }
    }
}

fn figures(line: &str) -> Option<(String, [u64; 4])> {
    let (name, pairs) = line.strip_prefix("FIGURES ")?.rsplit_once(": ")?;
    let value = |wanted: &str| {
        let mut pairs = pairs.split_whitespace();
        pairs.find_map(|pair| pair.strip_prefix(wanted)?.strip_prefix('=')?.parse().ok())
    };
    let values: Option<Vec<_>> = COUNTS.into_iter().map(value).collect();
    Some((name.to_owned(), values?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, os::unix::process::ExitStatusExt as _, process::ExitStatus};

    use super::*;

    const GOOD: &str = r#"##vm kernel 6.1
##vm begin live
{ "type": "suite", "event": "started", "test_count": 2 }
{ "type": "test", "event": "started", "name": "a" }
{ "type": "test", "name": "a", "event": "ok", "stdout": "FIGURES a: connections=5 events=40 missed=1 corrections=2\n" }
{ "type": "test", "event": "started", "name": "b" }
SKIPPED: no BTF
{ "type": "test", "name": "b", "event": "ok" }
{ "type": "suite", "event": "ok", "passed": 2, "failed": 0, "ignored": 0 }
##vm end live 0
##vm done
"#;

    fn judge(output: &str, end: End, crash: Option<&str>) -> (String, Vec<String>) {
        judge_after(None, output, end, crash)
    }

    fn judge_after(
        crash_before: Option<&str>,
        output: &str,
        end: End,
        crash: Option<&str>,
    ) -> (String, Vec<String>) {
        let mut report = Report::default();
        for line in output.lines() {
            report.line(line, Duration::ZERO);
        }
        let ended = Ended {
            end,
            crash: crash.map(str::to_owned),
            tail: VecDeque::new(),
        };
        let problems = report.problems(&ended, crash_before.map(str::to_owned), &["live"]);
        (report.counts(&problems).to_string(), problems)
    }

    #[test]
    fn a_good_run_has_no_problems_and_a_skip_is_no_success() {
        let (counts, problems) = judge(GOOD, End::Stopped, None);
        assert_eq!(counts, "1 passed, 0 failed, 1 skipped");
        assert_eq!(problems, [""; 0]);
        let failed = GOOD
            .replace(r#""a", "event": "ok""#, r#""a", "event": "failed""#)
            .replace("live 0", "live 101");
        let (counts, problems) = judge(&failed, End::Stopped, None);
        assert_eq!(
            (counts.as_str(), problems.len()),
            ("0 passed, 1 failed, 1 skipped", 0)
        );
    }

    #[test]
    fn what_ended_a_run_early_is_one_failure() {
        let half = &GOOD[..GOOD.find("SKIPPED").unwrap()];
        let exited = End::Exited(ExitStatus::from_raw(0));
        let (counts, problems) = judge(half, exited, Some("Kernel panic"));
        assert_eq!(counts, "1 passed, 1 failed, 0 skipped");
        assert_eq!(problems, ["the kernel crashed: Kernel panic"]);
        let problem = judge(half, End::Silent, None).1;
        assert_eq!(problem, ["it printed nothing for too long, in live::b"]);
        let problem = judge("", exited, None).1;
        assert!(
            problem[0].ends_with(", before the first test"),
            "{problem:?}"
        );
        // Even after the end.
        assert_eq!(judge(GOOD, exited, Some("Oops: 0000")).1.len(), 1);
    }

    #[test]
    fn a_crash_is_a_failure_however_the_second_run_ends() {
        let crash = Some("[ 2.1] Oops: int3; see 7.2.crash.log");
        let (counts, problems) = judge_after(crash, GOOD, End::Stopped, None);
        assert_eq!(counts, "1 passed, 1 failed, 1 skipped");
        let first = "the kernel crashed at first: [ 2.1] Oops: int3; see 7.2.crash.log";
        assert_eq!(problems, [first]);
        let problems = judge_after(crash, GOOD, End::Stopped, Some("Kernel panic")).1;
        assert_eq!(problems, [first, "the kernel crashed: Kernel panic"]);
    }

    #[test]
    fn binaries_that_die_or_contradict_themselves_are_problems() {
        let lines = |without: &str| {
            let kept = GOOD.lines().filter(|line| !line.contains(without));
            kept.map(|line| format!("{line}\n")).collect::<String>()
        };
        for (output, problem) in [
            (
                lines(r#""ignored""#).replace("live 0", "live 137"),
                "live died",
            ),
            (GOOD.replace("live", "other"), "live did not run"),
            (
                lines(r#""name": "a""#),
                "live counts 2 tests, but 1 were seen",
            ),
            (
                GOOD.replace("live 0", "live 1"),
                "live ends with status Some(1)",
            ),
            (lines(r#""test""#).replace(": 2,", ": 0,"), "no test ran"),
            (
                lines(r#""name": "a""#).replace(": 2,", ": 1,"),
                "all 1 tests skipped themselves",
            ),
        ] {
            let problems = judge(&output, End::Stopped, None).1;
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with(problem), "{problems:?}");
        }
    }

    #[test]
    fn figures_are_read() {
        let mut report = Report::default();
        for line in GOOD.lines() {
            report.line(line, Duration::ZERO);
        }
        assert_eq!(report.figures, [("a".to_owned(), [5, 40, 1, 2])]);
    }
}
