//! Counts of passed, failed and skipped checks, and the lines about them.

use std::{fmt, process::ExitCode, time::Instant};

use anyhow::Result;

/// Begins the line that a test prints when it cannot run here; the test then passes in the eyes
/// of the harness.
pub(crate) const SKIPPED: &str = "SKIPPED: ";

/// The result of a check that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With what was found, or nothing.
    Passed(String),
    /// With the reason.
    Skipped(String),
}

impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Self::Passed(String::new())
    }
}

impl From<String> for Outcome {
    fn from(found: String) -> Self {
        Self::Passed(found)
    }
}

/// Counts over all checks.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TestTotals {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// Precedes the names of checks.
    pub(crate) label: &'static str,
}

impl TestTotals {
    /// Runs a check, prints its result and its time, and counts it.
    pub(crate) fn check<T: Into<Outcome>>(
        &mut self,
        name: &str,
        check: impl FnOnce() -> Result<T>,
    ) {
        let label = self.label;
        eprintln!("== {label}{name}");
        let start = Instant::now();
        let (count, result) = match check().map(Into::into) {
            Ok(Outcome::Passed(found)) => (&mut self.passed, format!("ok {found}")),
            Ok(Outcome::Skipped(reason)) => (&mut self.skipped, format!("{SKIPPED}{reason}")),
            Err(error) => (&mut self.failed, format!("FAILED: {error:#}")),
        };
        *count += 1;
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("== {label}{name} ({seconds:.1} s): {}", result.trim_end());
    }

    /// Runs a check that others need; returns what it made, or nothing where it failed.
    pub(crate) fn need<T>(
        &mut self,
        name: &str,
        make: impl FnOnce() -> Result<(T, String)>,
    ) -> Option<T> {
        let mut made = None;
        self.check(name, || {
            let (value, found) = make()?;
            made = Some(value);
            Ok(found)
        });
        made
    }

    /// Reads back what [`fmt::Display`] wrote.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut counts = line.trim().split(", ");
        let mut count = |word: &str| counts.next()?.strip_suffix(word)?.trim_end().parse().ok();
        let totals = Self {
            passed: count("passed")?,
            failed: count("failed")?,
            skipped: count("skipped")?,
            label: "",
        };
        counts.next().is_none().then_some(totals)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Prints the counts. Fails when something failed, and when nothing was shown to work.
    pub(crate) fn finish(self) -> ExitCode {
        println!("{self}");
        u8::from(self.failed > 0 || self.passed == 0).into()
    }
}

impl fmt::Display for TestTotals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, failed, skipped) = (self.passed, self.failed, self.skipped);
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
        totals.check("one", || Ok(()));
        totals.check::<()>("two", || Err(anyhow!("no")));
        totals.check("three", || Ok(Outcome::Skipped("not here".into())));
        assert_eq!(totals.need("four", || Ok((7, "a 7".into()))), Some(7));
        assert_eq!(totals.need::<()>("five", || Err(anyhow!("no"))), None);
        totals.add(TestTotals {
            passed: 2,
            skipped: 1,
            ..TestTotals::default()
        });
        assert_eq!(totals.to_string(), "4 passed, 2 failed, 2 skipped");
        assert_eq!(
            TestTotals::parse("4 passed, 2 failed, 2 skipped\n"),
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
        let code = |passed, failed| {
            let totals = TestTotals {
                passed,
                failed,
                skipped: 5,
                ..TestTotals::default()
            };
            totals.finish()
        };
        assert_eq!(code(1, 0), ExitCode::SUCCESS);
        assert_eq!(code(0, 0), ExitCode::FAILURE);
        assert_eq!(code(1, 1), ExitCode::FAILURE);
    }
}
