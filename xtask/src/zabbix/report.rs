//! The steps of a round: how each came out, and how long it took.

use std::time::Instant;

use anyhow::Result;

use super::version::Version;
use crate::test_totals::{Outcome, TestTotals};

/// Everything that was done.
pub(super) struct Report {
    pub(super) version: Version,
    /// Name, seconds, result.
    rows: Vec<(String, f64, String)>,
    pub(super) totals: TestTotals,
}

/// What a step that did not fail has found.
pub(super) enum Done {
    Passed(String),
    /// With the reason.
    Skipped(String),
}

impl Report {
    pub(super) fn new(version: Version) -> Self {
        Self {
            version,
            rows: Vec::new(),
            totals: TestTotals::default(),
        }
    }

    /// Takes a step that the following do not need.
    pub(super) fn check(&mut self, name: &str, step: impl FnOnce() -> Result<Done>) {
        let start = Instant::now();
        let mut result = String::new();
        let title = format!("zabbix {}: {name}", self.version.name());
        self.totals.check(&title, || match step() {
            Ok(Done::Passed(found)) => {
                result = found;
                Ok(Outcome::Passed)
            }
            Ok(Done::Skipped(reason)) => {
                result = format!("SKIPPED: {reason}");
                Ok(Outcome::Skipped(reason))
            }
            Err(error) => {
                let text = format!("FAILED: {error:#}");
                result = text.lines().next().unwrap_or_default().to_owned();
                Err(error)
            }
        });
        self.rows
            .push((name.to_owned(), start.elapsed().as_secs_f64(), result));
    }

    /// Takes a step that all that follows needs; returns what it made, or nothing where it failed.
    pub(super) fn need<T>(
        &mut self,
        name: &str,
        step: impl FnOnce() -> Result<(T, String)>,
    ) -> Option<T> {
        let mut made = None;
        self.check(name, || {
            let (value, found) = step()?;
            made = Some(value);
            Ok(Done::Passed(found))
        });
        made
    }

    /// One line for each step.
    pub(super) fn table(&self) -> String {
        let width = self
            .rows
            .iter()
            .map(|(name, ..)| name.len())
            .max()
            .unwrap_or(0);
        let version = self.version.name();
        let row = |(name, seconds, result): &(String, f64, String)| {
            format!("\n{version:<7} {name:<width$}  {seconds:>7.1}  {result}")
        };
        let rows: String = self.rows.iter().map(row).collect();
        format!("zabbix  {:<width$}  seconds  result{rows}", "step")
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn every_step_has_a_line_and_is_counted() {
        let mut report = Report::new(Version::V6_0);
        let made = report.need("make", || Ok((7, "a 7".into())));
        assert_eq!(made, Some(7));
        let none: Option<()> = report.need("fail", || Err(anyhow!("no\nmore")));
        assert_eq!(none, None);
        report.check("skip", || Ok(Done::Skipped("not here".into())));
        assert_eq!(report.totals.to_string(), "1 passed, 1 failed, 1 skipped");
        let table = report.table();
        let ends: Vec<_> = table.lines().map(|line| line.rsplit("  ").next()).collect();
        let wanted = ["result", "a 7", "FAILED: no", "SKIPPED: not here"];
        assert_eq!(ends, wanted.map(Some));
    }
}
