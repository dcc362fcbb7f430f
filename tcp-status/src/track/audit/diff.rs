//! What several recounts of one audit agree on: pure.
//!
//! A recount is wrong by one where a task stalls between two steps of the kernel: it reports a
//! socket (LISTEN, SYN_SENT) before it lists it, and takes one off the list before it reports
//! its end. Either way the recount finds fewer than were counted, until the task goes on.

use std::time::Duration;

use tcp_status_common::state::State;

use super::state::SKIPPED;
use crate::track::gauge::Gauges;

/// How patient the second recount is, and the third, in looking for sockets that were reported
/// before it began.
const SETTLE_TIMES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(300)];

/// So many sockets of a state are corrected without a warning.
const FEW: u64 = 10;

/// How the recounts of one audit differ from what was counted: recounted minus counted.
#[derive(Clone, Copy, Debug)]
pub struct AuditDiff {
    agreed: Gauges,
    last: Gauges,
    recounts: u32,
    /// No recount can be trusted.
    undecided: bool,
}

impl AuditDiff {
    /// After the first recount.
    #[must_use]
    pub const fn new(found: Gauges) -> Self {
        Self {
            agreed: found,
            last: found,
            recounts: 1,
            undecided: false,
        }
    }

    /// After a listing at rest, which decides.
    pub const fn set_decided(&mut self, found: Gauges) {
        (self.agreed, self.last) = (found, found);
    }

    /// There was no rest for a listing that decides, and recounts may have passed over sockets.
    pub fn mark_undecided(&mut self) {
        (self.agreed, self.undecided) = (Gauges::default(), true);
    }

    /// After one more recount.
    pub fn add_recount(&mut self, found: Gauges) {
        *self = Self {
            agreed: agreed_part(&self.agreed, &found),
            last: found,
            recounts: self.recounts + 1,
            undecided: false,
        };
    }

    /// What every recount found.
    #[must_use]
    pub const fn agreed(&self) -> Gauges {
        self.agreed
    }

    /// How many recounts there were.
    #[must_use]
    pub const fn recounts(&self) -> u32 {
        self.recounts
    }

    /// Whether to count once more, and how patiently: always once where something differs, and
    /// very patiently where a stalled task would still explain it.
    #[must_use]
    pub fn next_recount_delay(&self) -> Option<Duration> {
        match self.recounts {
            1 => (self.agreed != Gauges::default()).then_some(SETTLE_TIMES[0]),
            2 => finds_fewer(&self.agreed).then_some(SETTLE_TIMES[1]),
            _ => None,
        }
    }

    /// Whether a recount has found the same difference again.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.recounts > 1 && self.is_corrected()
    }

    /// Whether recounts found different things and have nothing in common.
    #[must_use]
    pub fn is_disagreement(&self) -> bool {
        !self.undecided && !self.is_corrected() && self.last != self.agreed
    }

    fn is_corrected(&self) -> bool {
        self.agreed != Gauges::default()
    }

    /// Whether more is corrected than a few lost events explain: over a thousandth of what is
    /// counted in a state, and over [`FEW`].
    #[must_use]
    pub fn is_notable(&self, counted: &Gauges) -> bool {
        let corrected = self.agreed.distance(&Gauges::default());
        State::ALL.into_iter().zip(corrected).any(|(state, by)| {
            let counted = counted.sum(&[state]).unsigned_abs();
            by > FEW.max(counted / 1000)
        })
    }

    /// What is corrected, in words; empty if nothing is.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut words = Vec::new();
        for (family, cells) in ["ipv4", "ipv6"].into_iter().zip(self.agreed.0) {
            for (cell, by) in (0..).zip(cells) {
                if by != 0 {
                    let place =
                        State::try_from(cell).map_or("finwait2 minisocket", |state| state.name());
                    words.push(format!("{family} {place} {by:+}"));
                }
            }
        }
        words.join(", ")
    }

    /// Why the counts may still be off. They equal the listing where every recount found fewer: if
    /// a task stalls for so long, `inuse` differs as soon as it goes on.
    #[must_use]
    pub fn degraded_reason(&self) -> Option<&'static str> {
        if self.undecided {
            Some(SKIPPED)
        } else if self.is_corrected() && self.last != self.agreed {
            Some("the last audit's recounts did not agree; the next audit decides")
        } else {
            None
        }
    }
}

/// Cell by cell the part of two differences that has the same sign in both.
fn agreed_part(one: &Gauges, other: &Gauges) -> Gauges {
    Gauges([0, 1].map(|family| {
        std::array::from_fn(|cell| {
            let (a, b) = (one.0[family][cell], other.0[family][cell]);
            if a > 0 {
                a.min(b).max(0)
            } else {
                a.max(b).min(0)
            }
        })
    }))
}

/// Whether sockets are missing, rather than in another state or family.
fn finds_fewer(found: &Gauges) -> bool {
    let all: i64 = found.0.iter().flatten().sum();
    all < 0 || found.sum(&[State::Listen]) < 0 || found.sum(&[State::SynSent]) < 0
}

#[cfg(test)]
mod tests {
    use tcp_status_common::state::State;

    use super::{AuditDiff, Gauges, SETTLE_TIMES};

    fn found(cells: &[(usize, State, i64)]) -> Gauges {
        let mut found = Gauges::default();
        for &(family, state, by) in cells {
            found.0[family][usize::from(state.number())] = by;
        }
        found
    }

    #[test]
    fn nothing_found_needs_no_second_look() {
        let diff = AuditDiff::new(Gauges::default());
        assert_eq!(diff.next_recount_delay(), None);
        assert_eq!(diff.degraded_reason(), None);
    }

    #[test]
    fn a_stall_that_ends_corrects_nothing() {
        for state in [State::Listen, State::SynSent] {
            let mut diff = AuditDiff::new(found(&[(0, state, -1)]));
            assert_eq!(diff.next_recount_delay(), Some(SETTLE_TIMES[0]));
            diff.add_recount(found(&[(0, state, -1)]));
            assert_eq!(diff.next_recount_delay(), Some(SETTLE_TIMES[1]));
            diff.add_recount(Gauges::default());
            assert_eq!(diff.agreed(), Gauges::default());
            assert_eq!(
                (diff.next_recount_delay(), diff.degraded_reason()),
                (None, None)
            );
        }
    }

    #[test]
    fn a_stall_that_lasts_is_believed() {
        let stalled = found(&[(1, State::Listen, -1)]);
        let mut diff = AuditDiff::new(stalled);
        diff.add_recount(stalled);
        diff.add_recount(stalled);
        assert_eq!(diff.agreed(), stalled);
        assert_eq!(
            (diff.next_recount_delay(), diff.degraded_reason()),
            (None, None)
        );
    }

    #[test]
    fn drift_is_confirmed_once_and_then_exact() {
        let drifts = [
            found(&[(0, State::FinWait1, -5), (0, State::FinWait2, 5)]),
            found(&[(1, State::Established, -2), (0, State::Established, 2)]),
            found(&[(0, State::CloseWait, 1)]),
        ];
        for drift in drifts {
            let mut diff = AuditDiff::new(drift);
            assert_eq!(diff.next_recount_delay(), Some(SETTLE_TIMES[0]));
            diff.add_recount(drift);
            assert_eq!(
                (diff.next_recount_delay(), diff.degraded_reason()),
                (None, None)
            );
            assert_eq!((diff.agreed(), diff.recounts()), (drift, 2));
        }
    }

    #[test]
    fn few_corrections_are_not_notable() {
        let by = |corrected| AuditDiff::new(found(&[(0, State::Established, corrected)]));
        let counted = found(&[(0, State::Established, 20_000)]);
        assert!(!by(20).is_notable(&counted));
        assert!(by(-21).is_notable(&counted));
        assert!(!by(10).is_notable(&Gauges::default()));
        assert!(by(11).is_notable(&Gauges::default()));
        let mut diff = by(1);
        assert!(!diff.is_confirmed());
        diff.add_recount(found(&[(0, State::Established, 1)]));
        assert!(diff.is_confirmed());
    }

    #[test]
    fn a_listing_at_rest_decides() {
        let passed_over = found(&[(1, State::TimeWait, -1)]);
        let mut diff = AuditDiff::new(passed_over);
        diff.set_decided(Gauges::default());
        assert_eq!(
            (diff.agreed(), diff.degraded_reason()),
            (Gauges::default(), None)
        );
        let mut diff = AuditDiff::new(passed_over);
        diff.mark_undecided();
        assert_eq!(diff.agreed(), Gauges::default());
        assert!(diff.degraded_reason().unwrap().contains("at rest decides"));
    }

    #[test]
    fn only_what_all_recounts_found_is_corrected() {
        let mut diff = AuditDiff::new(found(&[
            (0, State::FinWait1, 7),
            (0, State::Established, 3),
            (1, State::Listen, 2),
        ]));
        diff.add_recount(found(&[
            (0, State::FinWait1, 5),
            (0, State::Established, -1),
            (1, State::SynSent, 1),
        ]));
        assert_eq!(diff.agreed(), found(&[(0, State::FinWait1, 5)]));
        assert!(diff.describe().contains("ipv4 finwait1 +5"));
        assert!(diff.degraded_reason().unwrap().contains("did not agree"));
        assert!(!diff.is_disagreement());
    }

    #[test]
    fn recounts_that_have_nothing_in_common_correct_nothing() {
        let mut diff = AuditDiff::new(found(&[(0, State::FinWait1, -1)]));
        diff.add_recount(found(&[(0, State::FinWait1, 1)]));
        assert_eq!(diff.agreed(), Gauges::default());
        assert_eq!(diff.degraded_reason(), None);
        assert!(diff.is_disagreement());
    }
}
