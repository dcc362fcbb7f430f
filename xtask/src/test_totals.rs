//! Counts of passed, failed and skipped checks, and the lines about them.

use std::{fmt, process::ExitCode};

use anyhow::Result;

/// Begins the line that a test prints when it cannot run here; the test then passes in the eyes
/// of the harness.
pub(crate) const SKIPPED: &str = "SKIPPED: ";

/// How a check that did not fail came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// With the reason.
    Skipped(String),
}

/// Counts over all checks.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TestTotals {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl TestTotals {
    /// Runs a check, says how it came out, and counts it.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> Result<Outcome>) {
        eprintln!("== {name}");
        match check() {
            Ok(Outcome::Passed) => {
                self.passed += 1;
                eprintln!("== {name}: ok");
            }
            Ok(Outcome::Skipped(reason)) => {
                self.skipped += 1;
                eprintln!("== {name}: SKIPPED: {reason}");
            }
            Err(error) => {
                self.failed += 1;
                eprintln!("== {name}: FAILED: {error:#}");
            }
        }
    }

    /// Reads back what [`fmt::Display`] wrote.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut counts = line.trim().split(", ");
        let mut count = |word: &str| counts.next()?.strip_suffix(word)?.trim_end().parse().ok();
        let totals = Self {
            passed: count("passed")?,
            failed: count("failed")?,
            skipped: count("skipped")?,
        };
        counts.next().is_none().then_some(totals)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Red when something failed, and when nothing was shown to work.
    pub(crate) fn exit_code(self) -> ExitCode {
        if self.failed == 0 && self.passed > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl fmt::Display for TestTotals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(
            formatter,
            "{passed} passed, {failed} failed, {skipped} skipped"
        )
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn every_outcome_is_counted_once() {
        let mut totals = TestTotals::default();
        totals.check("one", || Ok(Outcome::Passed));
        totals.check("two", || Err(anyhow!("no")));
        totals.check("three", || Ok(Outcome::Skipped("not here".into())));
        totals.add(TestTotals {
            passed: 2,
            failed: 0,
            skipped: 1,
        });
        assert_eq!(totals.to_string(), "3 passed, 1 failed, 2 skipped");
        assert_eq!(
            TestTotals::parse("3 passed, 1 failed, 2 skipped\n"),
            Some(totals)
        );
        for other in [
            "",
            "3 passed",
            "3 passed, 1 failed, x skipped",
            "1 passed, 2 skipped",
        ] {
            assert_eq!(TestTotals::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_run_that_shows_nothing_is_red() {
        let green = TestTotals {
            passed: 1,
            failed: 0,
            skipped: 5,
        };
        assert_eq!(green.exit_code(), ExitCode::SUCCESS);
        let all_skipped = TestTotals { passed: 0, ..green };
        assert_eq!(all_skipped.exit_code(), ExitCode::FAILURE);
        let one_failed = TestTotals { failed: 1, ..green };
        assert_eq!(one_failed.exit_code(), ExitCode::FAILURE);
    }
}
