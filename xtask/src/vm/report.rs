//! What a machine reports on its second serial port: marks of the first process, and the JSON of
//! the test harness. Whether the run is good.

use std::time::Duration;

use serde_json::Value;

use super::machine::{End, Ended};
use crate::test_totals::{SKIPPED, TestTotals};

const MARK: &str = "##vm ";

/// What a line of figures counts: `FIGURES NAME: connections=N events=N missed=N corrections=N`.
pub(super) const COUNTS: [&str; 4] = ["connections", "events", "missed", "corrections"];

/// Everything that a machine reported.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) binaries: Vec<Binary>,
    /// By name; the values of [`COUNTS`].
    pub(super) figures: Vec<(String, [u64; 4])>,
    /// What the first process could not do.
    problems: Vec<String>,
    /// It came to its end.
    pub(super) done: bool,
}

/// One test binary.
#[derive(Debug, Default)]
pub(super) struct Binary {
    name: String,
    pub(super) tests: Vec<Test>,
    /// The harness's own count of tests; without it, the binary died.
    count: Option<u64>,
    exit_status: Option<u8>,
}

/// One test.
#[derive(Debug, Default)]
pub(super) struct Test {
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

impl Report {
    /// Takes a line that arrived at `now`; returns what is worth showing of it.
    pub(super) fn line(&mut self, line: &str, now: Duration) -> Option<String> {
        if let Some(mark) = line.strip_prefix(MARK) {
            return self.mark(mark, now);
        }
        match serde_json::from_str::<Value>(line) {
            Ok(event) if event.is_object() => self.event(&event, now),
            _ => {
                self.text(line);
                None
            }
        }
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
                if let Some(binary) = self.binaries.last_mut() {
                    binary.exit_status = rest.rsplit(' ').next()?.parse().ok();
                }
            }
            "done" => self.done = true,
            _ => self.problems.push(mark.to_owned()),
        }
        None
    }

    /// An event of the harness.
    fn event(&mut self, event: &Value, now: Duration) -> Option<String> {
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        let binary = self.binaries.last_mut()?;
        if text("type") == "suite" {
            let counts = ["passed", "failed", "ignored"].map(|name| event[name].as_u64());
            binary.count = counts.into_iter().sum();
            return None;
        }
        let name = text("name");
        let outcome = match text("event") {
            "started" => {
                binary.tests.push(Test {
                    name: name.to_owned(),
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
        for line in text("stdout").lines() {
            self.text(line);
        }
        let binary = self.binaries.last_mut()?;
        let test = binary.tests.last_mut().filter(|test| test.name == name)?;
        let is_skip = outcome == Outcome::Passed && test.reason.is_some();
        test.outcome = if is_skip { Outcome::Skipped } else { outcome };
        test.time = now.saturating_sub(test.time);
        let (seconds, reason) = (
            test.time.as_secs_f64(),
            test.reason.as_deref().unwrap_or(""),
        );
        let (of, outcome) = (&binary.name, test.outcome.name());
        Some(format!(
            "{of}::{name} ... {outcome} ({seconds:.1} s) {reason}"
        ))
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
        let test = self.binaries.last_mut()?.tests.last_mut()?;
        (test.outcome == Outcome::Unfinished).then_some(test)
    }

    /// Nothing more can come of the running test.
    pub(super) fn stop(&mut self, now: Duration) {
        if let Some(test) = self.running() {
            test.time = now.saturating_sub(test.time);
        }
    }

    /// The tests with their full names.
    pub(super) fn tests(&self) -> impl Iterator<Item = (String, &Test)> {
        self.binaries.iter().flat_map(|binary| {
            let named = |test: &Test| format!("{}::{}", binary.name, test.name);
            binary.tests.iter().map(move |test| (named(test), test))
        })
    }

    /// The tests, counted one by one, and the problems as failures.
    pub(super) fn counts(&self, problems: &[String]) -> TestTotals {
        let count = |outcome| {
            let tests = self.tests().filter(|(_, test)| test.outcome == outcome);
            u64::try_from(tests.count()).unwrap_or(u64::MAX)
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
    pub(super) fn problems(&self, ended: &Ended, binaries: &[&str]) -> Vec<String> {
        let mut problems = self.problems.clone();
        if let Some(crash) = &ended.crash {
            problems.push(format!("the kernel crashed: {crash}"));
        } else if !self.done {
            problems.push(self.early_end(ended.end));
        }
        for &name in binaries.iter().filter(|_| self.done) {
            match self.binaries.iter().find(|binary| binary.name == name) {
                Some(binary) => problems.extend(binary.problem()),
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
        match self.tests().last() {
            None => format!("{what}, before the first test"),
            Some((name, test)) if test.outcome == Outcome::Unfinished => {
                format!("{what}, in {name}")
            }
            Some((name, _)) => format!("{what}, after {name}"),
        }
    }
}

impl Binary {
    /// What is wrong with a binary that ran, beside its failed tests.
    fn problem(&self) -> Option<String> {
        let Self {
            name,
            tests,
            count,
            exit_status,
        } = self;
        let failed = tests.iter().any(|test| test.outcome == Outcome::Failed);
        match (count, exit_status) {
            (None, status) => Some(format!("{name} died (exit status {status:?})")),
            (Some(count), _) if *count != tests.len() as u64 => Some(format!(
                "{name} counts {count} tests, but {} were seen",
                tests.len()
            )),
            (_, status) if failed == (*status == Some(0)) => Some(format!(
                "{name} ends with status {status:?}, unlike its tests"
            )),
            _ => None,
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
        let mut report = Report::default();
        for line in output.lines() {
            report.line(line, Duration::ZERO);
        }
        let ended = Ended {
            end,
            crash: crash.map(str::to_owned),
            tail: VecDeque::new(),
        };
        let problems = report.problems(&ended, &["live"]);
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
