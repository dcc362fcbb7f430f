//! What churn has done: connections, failures, by scenario.

use std::{fmt, io, time::Duration};

use super::{Ctx, SCENARIOS};

/// How often one scenario ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScenarioTotals {
    /// Runs.
    pub runs: u64,
    /// Connections opened, or tried to.
    pub connections: u64,
    /// Runs that failed.
    pub failures: u64,
    /// What the first of them said.
    pub first_failure: Option<String>,
}

/// What churn has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The seed that makes the same churn again, as far as the machine allows.
    pub seed: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// One entry per entry of [`SCENARIOS`].
    pub scenario_totals: Vec<ScenarioTotals>,
}

impl Report {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            elapsed: Duration::ZERO,
            scenario_totals: vec![ScenarioTotals::default(); SCENARIOS.len()],
        }
    }

    /// Runs one scenario and counts it; gives the connections that it made.
    pub(super) fn run(&mut self, ctx: &mut Ctx, scenario: usize) -> u64 {
        let before = ctx.connections();
        let result: io::Result<()> = SCENARIOS[scenario].1(ctx);
        let made = ctx.connections() - before;
        let totals = &mut self.scenario_totals[scenario];
        totals.runs += 1;
        totals.connections += made;
        if let Err(error) = result {
            totals.failures += 1;
            totals.first_failure.get_or_insert(error.to_string());
            ctx.forget_listeners();
        }
        made
    }

    pub(super) fn add(&mut self, other: Self) {
        for (mine, theirs) in self.scenario_totals.iter_mut().zip(other.scenario_totals) {
            mine.runs += theirs.runs;
            mine.connections += theirs.connections;
            mine.failures += theirs.failures;
            mine.first_failure = mine.first_failure.take().or(theirs.first_failure);
        }
    }

    /// Connections of all scenarios.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.scenario_totals
            .iter()
            .map(|totals| totals.connections)
            .sum()
    }

    /// Failures of all scenarios.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.scenario_totals
            .iter()
            .map(|totals| totals.failures)
            .sum()
    }

    /// Connections per second.
    #[must_use]
    pub fn rate(&self) -> u128 {
        u128::from(self.connections()) * 1_000_000 / self.elapsed.as_micros().max(1)
    }
}

impl fmt::Display for Report {
    /// A table, without a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<26}{:>10}{:>13}{:>10}",
            "scenario", "runs", "connections", "failures"
        )?;
        for ((name, _), totals) in SCENARIOS.iter().zip(&self.scenario_totals) {
            write!(f, "{name:<26}{:>10}", totals.runs)?;
            write!(f, "{:>13}{:>10}", totals.connections, totals.failures)?;
            match &totals.first_failure {
                Some(failure) => writeln!(f, "  {failure}")?,
                None => writeln!(f)?,
            }
        }
        let (connections, failures) = (self.connections(), self.failures());
        let (seconds, rate, seed) = (self.elapsed.as_secs_f64(), self.rate(), self.seed);
        write!(
            f,
            "{connections} connections in {seconds:.1} s, {rate} a second, {failures} failures, seed {seed}"
        )
    }
}
