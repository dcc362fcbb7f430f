//! Totals that the kernel keeps itself, in O(1), against the sums of the gauges: pure.

use tcp_status_common::state::{Family, State};

use super::gauge::Gauges;
use crate::kernel::{plan::SplitMethod, procfs::Invariants};

/// Kernel minus gauges; 0 where the kernel does not tell, or where things moved enough between
/// the two readings to explain the difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    established: i64,
    inuse: [i64; Family::COUNT],
    /// 0 as well where minisockets are not followed by events.
    timewait: i64,
}

impl Differences {
    /// Compares readings between which `moved` events were counted.
    #[must_use]
    pub fn new(gauges: &Gauges, split: SplitMethod, totals: &Invariants, moved: u64) -> Self {
        let beyond = |total: Option<u64>, sum: i64| {
            let difference = total.map_or(0, |total| total.cast_signed() - sum);
            if difference.unsigned_abs() > moved {
                difference
            } else {
                0
            }
        };
        let minisockets = match split {
            SplitMethod::Events => totals.timewait,
            SplitMethod::Walk => None,
        };
        let counted: u64 = gauges.minisockets().iter().flatten().sum();
        Self {
            timewait: beyond(minisockets, counted.cast_signed()),
            established: beyond(
                totals.curr_estab,
                gauges.sum(&[State::Established, State::CloseWait]),
            ),
            inuse: [
                beyond(totals.inuse_v4, gauges.full(Family::V4)),
                beyond(totals.inuse_v6, gauges.full(Family::V6)),
            ],
        }
    }

    /// The first total that differs, and not just as `accepted` does.
    #[must_use]
    pub fn beyond(&self, accepted: &Self) -> Option<&'static str> {
        let differs = |own: i64, accepted: i64| own != 0 && own != accepted;
        if differs(self.established, accepted.established) {
            Some("CurrEstab")
        } else if differs(self.inuse[0], accepted.inuse[0]) {
            Some("inuse of IPv4")
        } else if differs(self.inuse[1], accepted.inuse[1]) {
            Some("inuse of IPv6")
        } else if differs(self.timewait, accepted.timewait) {
            Some("tw")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Differences, Gauges, Invariants, SplitMethod};

    fn gauges() -> Gauges {
        let mut gauges = Gauges::default();
        gauges.0[0][1] = 10;
        gauges.0[1][8] = 5;
        gauges
    }

    fn totals(established: u64, v4: u64, v6: u64) -> Invariants {
        Invariants {
            curr_estab: Some(established),
            inuse_v4: Some(v4),
            inuse_v6: Some(v6),
            ..Invariants::default()
        }
    }

    fn beyond(totals: &Invariants, moved: u64) -> Option<&'static str> {
        Differences::new(&gauges(), SplitMethod::Walk, totals, moved)
            .beyond(&Differences::default())
    }

    #[test]
    fn each_total_is_compared() {
        assert_eq!(beyond(&totals(15, 10, 5), 0), None);
        assert_eq!(beyond(&totals(16, 10, 5), 0), Some("CurrEstab"));
        assert_eq!(beyond(&totals(15, 9, 5), 0), Some("inuse of IPv4"));
        assert_eq!(beyond(&totals(15, 10, 7), 0), Some("inuse of IPv6"));
        assert_eq!(beyond(&Invariants::default(), 0), None);
    }

    #[test]
    fn minisockets_are_compared_where_events_follow_them() {
        let mut gauges = Gauges::default();
        (gauges.0[0][6], gauges.0[1][0]) = (3, 2);
        let totals = |timewait| Invariants {
            timewait: Some(timewait),
            ..Invariants::default()
        };
        let beyond = |split, timewait| {
            Differences::new(&gauges, split, &totals(timewait), 0).beyond(&Differences::default())
        };
        assert_eq!(beyond(SplitMethod::Events, 5), None);
        assert_eq!(beyond(SplitMethod::Events, 6), Some("tw"));
        assert_eq!(beyond(SplitMethod::Walk, 6), None);
    }

    #[test]
    fn what_moved_may_differ() {
        assert_eq!(beyond(&totals(18, 10, 5), 3), None);
        assert_eq!(beyond(&totals(19, 10, 5), 3), Some("CurrEstab"));
    }

    #[test]
    fn a_difference_that_an_audit_left_is_not_looked_into_again() {
        let left = Differences::new(&gauges(), SplitMethod::Walk, &totals(15, 12, 5), 0);
        assert_eq!(left.beyond(&left), None);
        let more = Differences::new(&gauges(), SplitMethod::Walk, &totals(15, 13, 5), 0);
        assert_eq!(more.beyond(&left), Some("inuse of IPv4"));
    }
}
