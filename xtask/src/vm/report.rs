//! Reads what a machine reports on its second serial port: marks of the first process, and what
//! the test harness prints. Judges nothing: see `verdict`.

use std::{collections::BTreeMap, time::Duration};

use super::lines::Lines;
use crate::{
    libtest::{self, SKIPPED},
    tally::Tally,
};

const MARK: &str = "##vm ";

/// Everything that a machine said.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// `uname -r`.
    pub(super) kernel: Option<String>,
    pub(super) binaries: Vec<Binary>,
    pub(super) figures: Vec<Figures>,
    /// What the first process could not do.
    pub(super) problems: Vec<String>,
    /// It came to its end.
    pub(super) done: bool,
}

/// One test binary.
#[derive(Debug, Default)]
pub(super) struct Binary {
    pub(super) name: String,
    pub(super) tests: Vec<Test>,
    /// The harness's own counts; without them, it died.
    pub(super) counts: Option<Tally>,
    pub(super) exit_status: Option<u8>,
    /// What failed tests printed.
    pub(super) failures: BTreeMap<String, String>,
}

/// One test.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) outcome: Outcome,
    /// Why it was skipped, if it was.
    pub(super) reason: Option<String>,
    pub(super) time: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    Skipped,
    /// It began and did not end.
    Unfinished,
}

/// What a test counted: a line `FIGURES NAME: connections=N events=N missed=N corrections=N`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) name: String,
    pub(super) connections: u64,
    pub(super) events: u64,
    /// In both copies of a program.
    pub(super) missed: u64,
    /// By audits.
    pub(super) corrections: u64,
}

/// Takes the bytes of the port.
#[derive(Debug, Default)]
pub(super) struct Reader {
    report: Report,
    lines: Lines,
    section: Section,
    running: Option<Running>,
    news: Vec<String>,
}

#[derive(Debug, Default)]
enum Section {
    #[default]
    Tests,
    /// The output of tests that passed, with the name of the test.
    Successes(String),
    /// The output of tests that failed, with the name of the test.
    Failures(String),
}

#[derive(Debug)]
struct Running {
    name: String,
    began: Duration,
    /// Why it skips itself, if it does.
    reason: Option<String>,
}

impl Reader {
    /// Takes a piece that arrived at `now`; gives the lines that it completes.
    pub(super) fn take(&mut self, bytes: &[u8], now: Duration) -> Vec<String> {
        let lines = self.lines.take(bytes);
        for line in &lines {
            self.line(line, now);
        }
        // The line of a test stands there half until the test is over.
        let rest = self.lines.rest();
        if let (Section::Tests, Some((name, ""))) = (&self.section, test(&rest)) {
            self.begin(name, now);
        }
        lines
    }

    /// What happened since the last call, for somebody who waits.
    pub(super) fn news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    pub(super) fn is_done(&self) -> bool {
        self.report.done
    }

    /// The report, once nothing more can come.
    pub(super) fn finish(mut self, now: Duration) -> Report {
        self.end_of_binary(now);
        self.report
    }

    fn line(&mut self, line: &str, now: Duration) {
        if let Some(mark) = line.strip_prefix(MARK) {
            self.mark(mark, now);
        } else if !self.report.binaries.is_empty() {
            self.harness(line, now);
        }
    }

    fn mark(&mut self, mark: &str, now: Duration) {
        let (word, rest) = mark.split_once(' ').unwrap_or((mark, ""));
        match word {
            "kernel" => {
                self.report.kernel = Some(rest.to_owned());
                self.news.push(format!("is up: {rest}"));
            }
            "problem" => self.report.problems.push(rest.to_owned()),
            "begin" => {
                self.end_of_binary(now);
                self.report.binaries.push(Binary {
                    name: rest.to_owned(),
                    ..Binary::default()
                });
            }
            "end" => {
                self.end_of_binary(now);
                let status = rest.rsplit(' ').next().and_then(|word| word.parse().ok());
                if let Some(binary) = self.report.binaries.last_mut() {
                    binary.exit_status = status;
                }
            }
            "done" => self.report.done = true,
            _ => self.report.problems.push(format!("unknown mark: {mark}")),
        }
    }

    fn harness(&mut self, line: &str, now: Duration) {
        if let Some(figures) = figures(line) {
            self.report.figures.push(figures);
        }
        if let Some(counts) = libtest::result(line) {
            if let Some(binary) = self.report.binaries.last_mut() {
                binary.counts = Some(counts);
            }
            return;
        }
        match line {
            "successes:" => self.section = Section::Successes(String::new()),
            "failures:" => self.section = Section::Failures(String::new()),
            _ => self.in_section(line, now),
        }
    }

    fn in_section(&mut self, line: &str, now: Duration) {
        match &mut self.section {
            Section::Tests => self.test_line(line, now),
            Section::Successes(name) => {
                if let Some(next) = libtest::output_of(line) {
                    next.clone_into(name);
                } else if let Some(reason) = line.strip_prefix(SKIPPED) {
                    let tests = self
                        .report
                        .binaries
                        .last_mut()
                        .map(|binary| &mut binary.tests);
                    for test in tests.into_iter().flatten() {
                        if test.name == *name && test.outcome == Outcome::Passed {
                            test.outcome = Outcome::Skipped;
                            test.reason = Some(reason.to_owned());
                        }
                    }
                }
            }
            Section::Failures(name) => {
                if let Some(next) = libtest::output_of(line) {
                    next.clone_into(name);
                } else if let (Some(binary), false) =
                    (self.report.binaries.last_mut(), name.is_empty())
                {
                    let output = binary.failures.entry(name.clone()).or_default();
                    output.push_str(line);
                    output.push('\n');
                }
            }
        }
    }

    fn test_line(&mut self, line: &str, now: Duration) {
        let result = match test(line) {
            Some((name, result)) => {
                self.begin(name, now);
                result
            }
            None => line,
        };
        if let Some(reason) = result.strip_prefix(SKIPPED) {
            if let Some(running) = &mut self.running {
                running.reason = Some(reason.to_owned());
            }
            return;
        }
        let outcome = match result.split(',').next() {
            Some("ok") => Outcome::Passed,
            Some("FAILED") => Outcome::Failed,
            Some("ignored") => Outcome::Skipped,
            _ => return,
        };
        self.end(outcome, now);
    }

    fn begin(&mut self, name: &str, now: Duration) {
        if self
            .running
            .as_ref()
            .is_some_and(|running| running.name == name)
        {
            return;
        }
        self.end(Outcome::Unfinished, now);
        self.running = Some(Running {
            name: name.to_owned(),
            began: now,
            reason: None,
        });
    }

    fn end(&mut self, outcome: Outcome, now: Duration) {
        let Some(running) = self.running.take() else {
            return;
        };
        let outcome = match outcome {
            Outcome::Passed if running.reason.is_some() => Outcome::Skipped,
            other => other,
        };
        let Some(binary) = self.report.binaries.last_mut() else {
            return;
        };
        let test = Test {
            name: running.name,
            outcome,
            reason: running.reason.filter(|_| outcome == Outcome::Skipped),
            time: now.saturating_sub(running.began),
        };
        self.news.push(format!("{}::{test}", binary.name));
        binary.tests.push(test);
    }

    fn end_of_binary(&mut self, now: Duration) {
        self.end(Outcome::Unfinished, now);
        self.section = Section::Tests;
    }
}

impl std::fmt::Display for Test {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let outcome = match self.outcome {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
            Outcome::Unfinished => "UNFINISHED",
        };
        let Self {
            name, reason, time, ..
        } = self;
        write!(
            formatter,
            "{name} ... {outcome} ({:.1} s)",
            time.as_secs_f64()
        )?;
        match reason {
            Some(reason) => write!(formatter, ": {reason}"),
            None => Ok(()),
        }
    }
}

/// `test NAME ... RESULT`, where the result may be still to come.
fn test(line: &str) -> Option<(&str, &str)> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    // Harnesses other than the built-in one align the results.
    let name = name.trim_end();
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    (!name.contains(' ')).then_some((name, result))
}

fn figures(line: &str) -> Option<Figures> {
    let (name, pairs) = line.strip_prefix("FIGURES ")?.rsplit_once(": ")?;
    let value = |wanted: &str| {
        let pair = pairs
            .split_whitespace()
            .find_map(|pair| pair.strip_prefix(wanted)?.strip_prefix('='));
        pair.and_then(|value| value.parse().ok())
    };
    Some(Figures {
        name: name.to_owned(),
        connections: value("connections")?,
        events: value("events")?,
        missed: value("missed")?,
        corrections: value("corrections")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
noise before the first mark\r
##vm kernel 6.1.0-50-cloud-amd64\r
##vm problem lo stays down\r
##vm begin live\r
\r
running 4 tests\r
test churn::a ... ok\r
test churn::b ... \r
SKIPPED: no BTF\r
ok\r
test churn::c ... FAILED\r
test churn::d ... ignored, not here\r
\r
successes:\r
\r
---- churn::a stdout ----\r
FIGURES a: quiet: connections=10 events=87 missed=1 corrections=2\r
FIGURES broken: connections=10\r
\r
\r
successes:\r
    churn::a\r
\r
failures:\r
\r
---- churn::c stdout ----\r
SKIPPED: half of it\r
thread 'x' panicked at y\r
\r
\r
failures:\r
    churn::c\r
\r
test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1s\r
\r
##vm end live 101\r
##vm done\r
";

    fn read(output: &str, size: usize) -> Report {
        let mut reader = Reader::default();
        for piece in output.as_bytes().chunks(size) {
            reader.take(piece, Duration::ZERO);
        }
        reader.finish(Duration::ZERO)
    }

    fn outcomes(binary: &Binary) -> Vec<(&str, Outcome)> {
        let pairs = binary.tests.iter();
        pairs
            .map(|test| (test.name.as_str(), test.outcome))
            .collect()
    }

    #[test]
    fn a_whole_run_is_read_in_pieces_of_any_size() {
        for size in [1, 2, 7, 64, OUTPUT.len()] {
            let report = read(OUTPUT, size);
            assert!(report.done);
            assert_eq!(report.kernel.as_deref(), Some("6.1.0-50-cloud-amd64"));
            assert_eq!(report.problems, ["lo stays down"]);
            let [live] = &report.binaries[..] else {
                panic!("{report:?}");
            };
            assert_eq!(live.exit_status, Some(101));
            assert_eq!(live.counts.map(|counts| counts.passed), Some(2));
            assert_eq!(
                outcomes(live),
                [
                    ("churn::a", Outcome::Passed),
                    ("churn::b", Outcome::Skipped),
                    ("churn::c", Outcome::Failed),
                    ("churn::d", Outcome::Skipped),
                ]
            );
            assert!(live.failures["churn::c"].contains("panicked at y"));
            let figures = Figures {
                name: "a: quiet".into(),
                connections: 10,
                events: 87,
                missed: 1,
                corrections: 2,
            };
            assert_eq!(report.figures, [figures]);
        }
    }

    #[test]
    fn a_truncated_run_names_the_test_that_did_not_end() {
        let end = OUTPUT.find("FAILED").unwrap();
        let report = read(&OUTPUT[..end], 5);
        assert!(!report.done);
        let live = &report.binaries[0];
        assert_eq!(outcomes(live)[2], ("churn::c", Outcome::Unfinished));
        assert_eq!((live.counts, live.exit_status), (None, None));
    }

    #[test]
    fn a_binary_that_dies_ends_with_its_test() {
        let report = read("##vm begin live\ntest a ... \n##vm end live 137\n", 3);
        assert_eq!(outcomes(&report.binaries[0]), [("a", Outcome::Unfinished)]);
        assert_eq!(report.binaries[0].exit_status, Some(137));
    }

    #[test]
    fn messages_between_the_lines_of_a_test_do_no_harm() {
        let report = read(
            "##vm begin live\ntest a ... \n[ 1.5] TCP: request_sock_TCP: Possible SYN flooding\n\
             test - no test\nok\ntest b ... ok\n##vm end live 0\n",
            11,
        );
        let expected = [("a", Outcome::Passed), ("b", Outcome::Passed)];
        assert_eq!(outcomes(&report.binaries[0]), expected);
    }

    #[test]
    fn a_captured_skip_counts_for_its_test() {
        let report = read(
            "##vm begin live\ntest a ... ok\ntest b ... ok\n\nsuccesses:\n\n---- b stdout ----\n\
             SKIPPED: no root\n",
            100,
        );
        let expected = [("a", Outcome::Passed), ("b", Outcome::Skipped)];
        assert_eq!(outcomes(&report.binaries[0]), expected);
    }

    #[test]
    fn the_time_of_a_test_is_from_its_half_line_to_its_end() {
        let mut reader = Reader::default();
        let second = Duration::from_secs;
        reader.take(b"##vm begin live\ntest a ... ", second(3));
        reader.take(b"SKIPPED: odd\nok\n", second(5));
        assert_eq!(reader.news(), ["live::a ... skipped (2.0 s): odd"]);
        assert!(reader.news().is_empty());
    }
}
