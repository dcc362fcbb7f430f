//! The books: which bank is live, what is added to it, and what the audits found.

use std::time::{Duration, Instant};

use tcp_status_common::state::State;

use super::{gauge::Gauges, schedule::Cause};
use crate::{bpf::Banks, snapshot::Drift};

/// Everything that changes at an audit.
#[derive(Debug)]
pub struct Ledger {
    /// The bank that events are counted into.
    pub live: u32,
    /// Added to the live bank's gauges: a seed or a correction made in user space.
    pub base: Gauges,
    /// Flows of banks that are no longer live.
    pub retired: Banks,
    /// By how much the two copies of the handler disagreed when the last audit began.
    pub baseline: i64,
    /// Events that the kernel told neither copy of the handler, as far as they are known.
    pub missed: u64,
    /// Why the counts are in doubt until the next audit succeeds.
    pub doubt: Option<String>,
    /// A reason to expect a difference that no audit has looked into yet.
    pub suspicion: Option<Cause>,
    drift: Drift,
    last_audit: Instant,
    cost: Duration,
}

impl Ledger {
    /// Right after the first seeding, which took `cost`.
    #[must_use]
    pub fn new(cost: Duration, baseline: i64) -> Self {
        Self {
            live: 0,
            base: Gauges::default(),
            retired: Banks::default(),
            baseline,
            missed: 0,
            doubt: None,
            suspicion: None,
            drift: Drift::default(),
            last_audit: Instant::now(),
            cost,
        }
    }

    /// What an audit of this host costs.
    #[must_use]
    pub const fn cost(&self) -> Duration {
        self.cost
    }

    /// Time since the last audit, or the seeding, ended.
    #[must_use]
    pub fn since_audit(&self) -> Duration {
        self.last_audit.elapsed()
    }

    /// Enters an audit that took `cost`, found `corrections`, and began when the copies of the
    /// handler disagreed by `baseline`.
    pub fn audited(&mut self, corrections: [u64; State::COUNT], cost: Duration, baseline: i64) {
        for (state, by) in State::ALL.into_iter().zip(corrections) {
            self.drift.corrections_by_state[state] += by;
        }
        self.drift.corrections += corrections.iter().sum::<u64>();
        self.drift.audits += 1;
        self.missed += baseline.abs_diff(self.baseline);
        self.baseline = baseline;
        self.doubt = None;
        self.suspicion = None;
        self.settle(cost);
    }

    /// Enters an audit that could not tell.
    pub fn settle(&mut self, cost: Duration) {
        self.cost = cost;
        self.last_audit = Instant::now();
    }

    /// As outputs show it.
    #[must_use]
    pub fn drift(&self) -> Drift {
        let audited = self.drift.audits > 0;
        Drift {
            last_audit_seconds_ago: audited.then(|| self.since_audit().as_secs()),
            last_audit_microseconds: audited
                .then(|| u64::try_from(self.cost.as_micros()).unwrap_or(u64::MAX)),
            ..self.drift.clone()
        }
    }

    /// Why a number may be off right now.
    #[must_use]
    pub fn degraded(&self, gauges: &Gauges) -> Option<String> {
        let until = "; the next audit corrects what that changed";
        self.doubt
            .clone()
            .or_else(|| {
                self.suspicion
                    .as_ref()
                    .map(|cause| format!("{cause}{until}"))
            })
            .or_else(|| {
                gauges
                    .negative()
                    .map(|state| format!("{}{until}", Cause::Negative(state)))
            })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Cause, Gauges, Ledger, State};

    #[test]
    fn an_audit_settles_every_doubt_and_is_counted_by_state() {
        let mut ledger = Ledger::new(Duration::from_millis(3), 10);
        assert_eq!(ledger.drift().last_audit_seconds_ago, None);
        ledger.doubt = Some("seeded from procfs".into());
        ledger.suspicion = Some(Cause::Missed(2));
        assert!(
            ledger
                .degraded(&Gauges::default())
                .unwrap()
                .contains("procfs")
        );
        let mut corrections = [0; State::COUNT];
        corrections[State::FinWait1.index()] = 5;
        ledger.audited(corrections, Duration::from_millis(7), 12);
        assert_eq!(ledger.degraded(&Gauges::default()), None);
        let drift = ledger.drift();
        assert_eq!((drift.corrections, drift.audits), (5, 1));
        assert_eq!(drift.corrections_by_state[State::FinWait1], 5);
        assert_eq!(drift.last_audit_microseconds, Some(7000));
        assert_eq!(ledger.missed, 2);
    }

    #[test]
    fn what_cannot_be_vouched_for_is_said() {
        let mut ledger = Ledger::new(Duration::ZERO, 0);
        let mut gauges = Gauges::default();
        assert_eq!(ledger.degraded(&gauges), None);
        gauges.0[0][1] = -1;
        assert!(ledger.degraded(&gauges).unwrap().contains("established"));
        ledger.suspicion = Some(Cause::Missed(4));
        assert!(
            ledger
                .degraded(&gauges)
                .unwrap()
                .contains("4 state changes missed")
        );
    }
}
