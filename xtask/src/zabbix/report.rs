//! The steps of a run: how each came out, and how long it took.

use std::{fmt::Write as _, time::Instant};

use anyhow::{Error, Result};

use super::version::Version;
use crate::tally::{Outcome, Tally};

/// One line of the table.
struct Row {
    name: String,
    seconds: f64,
    result: String,
}

/// Everything that was done.
pub(super) struct Report {
    pub(super) version: Version,
    rows: Vec<Row>,
    tally: Tally,
}

/// What a step that worked has to say.
pub(super) enum Done {
    /// With what was seen.
    Passed(String),
    /// With the reason.
    Skipped(String),
}

impl Report {
    pub(super) fn new(version: Version) -> Self {
        Self {
            version,
            rows: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Takes a step that the following do not need.
    pub(super) fn check(&mut self, name: &str, step: impl FnOnce() -> Result<Done>) {
        let start = Instant::now();
        let done = step();
        let seconds = start.elapsed().as_secs_f64();
        let mut result = String::new();
        self.tally
            .check(&format!("zabbix {}: {name}", self.version), || {
                let (text, outcome) = match done {
                    Ok(Done::Passed(seen)) => (seen, Outcome::Passed),
                    Ok(Done::Skipped(reason)) => {
                        (format!("SKIPPED: {reason}"), Outcome::Skipped(reason))
                    }
                    Err(error) => {
                        result = format!("FAILED: {}", first_line(&error));
                        return Err(error);
                    }
                };
                result = text;
                Ok(outcome)
            });
        self.rows.push(Row {
            name: name.to_owned(),
            seconds,
            result,
        });
    }

    /// Takes a step that all that follows needs; gives what it made, or nothing where it failed.
    pub(super) fn need<T>(
        &mut self,
        name: &str,
        step: impl FnOnce() -> Result<(T, String)>,
    ) -> Option<T> {
        let mut made = None;
        self.check(name, || {
            let (value, seen) = step()?;
            made = Some(value);
            Ok(Done::Passed(seen))
        });
        made
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// One line for each step.
    pub(super) fn table(&self) -> String {
        let width = self
            .rows
            .iter()
            .map(|row| row.name.len())
            .max()
            .unwrap_or(0);
        let mut table = format!("zabbix  {:<width$}  seconds  result", "step");
        for row in &self.rows {
            let Row {
                name,
                seconds,
                result,
            } = row;
            // Writing into a string cannot fail.
            let _ = write!(
                table,
                "\n{:<7} {name:<width$}  {seconds:>7.1}  {result}",
                self.version.name()
            );
        }
        table
    }
}

fn first_line(error: &Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().to_owned()
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
        assert_eq!(report.tally().to_string(), "1 passed, 1 failed, 1 skipped");
        let table = report.table();
        let ends: Vec<_> = table
            .lines()
            .map(|line| line.rsplit("  ").next().unwrap())
            .collect();
        assert_eq!(ends, ["result", "a 7", "FAILED: no", "SKIPPED: not here"]);
    }
}
