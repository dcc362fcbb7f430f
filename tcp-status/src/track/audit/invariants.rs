//! Totals that the kernel keeps itself, in O(1), against the sums of the gauges: pure.

use std::ops::RangeInclusive;

use tcp_status_common::state::{Family, State};

use crate::{
    kernel::{plan::SplitMethod, procfs::Invariants},
    track::gauge::{Bounds, Gauges},
};

/// How many totals there are.
const TOTALS: usize = 4;

/// Their names.
const NAMES: [&str; TOTALS] = ["CurrEstab", "inuse of IPv4", "inuse of IPv6", "tw"];

/// A difference of each total that is accepted.
pub type Accepted = [i64; TOTALS];

/// By how much each total may exceed the sum of gauges, at a moment between two readings of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differences([RangeInclusive<i64>; TOTALS]);

impl Differences {
    /// Compares totals that were read between the two readings of the gauges.
    #[must_use]
    pub fn new(gauges: &Bounds, split: SplitMethod, totals: &Invariants) -> Self {
        let range = |total: Option<u64>, sum: &dyn Fn(&Gauges) -> i64| match total {
            Some(total) => {
                let total = total.cast_signed();
                total - sum(&gauges.most)..=total - sum(&gauges.least)
            }
            None => i64::MIN..=i64::MAX,
        };
        let minisockets = match split {
            SplitMethod::Events => totals.timewait,
            SplitMethod::Walk => None,
        };
        Self([
            range(totals.curr_estab, &|gauges| {
                gauges.sum(&[State::Established, State::CloseWait])
            }),
            range(totals.inuse_v4, &|gauges| gauges.full(Family::V4)),
            range(totals.inuse_v6, &|gauges| gauges.full(Family::V6)),
            range(minisockets, &|gauges| {
                let counted: u64 = gauges.minisockets().iter().flatten().sum();
                counted.cast_signed()
            }),
        ])
    }

    /// The difference of each total that is closest to none.
    #[must_use]
    pub fn least(&self) -> Accepted {
        std::array::from_fn(|total| 0.clamp(*self.0[total].start(), *self.0[total].end()))
    }

    /// The first total that differs, and not just as `accepted` does: its name, and by how much it
    /// exceeds the gauges.
    #[must_use]
    pub fn beyond(&self, accepted: &Accepted) -> Option<(&'static str, RangeInclusive<i64>)> {
        let differs = |(range, accepted): (&RangeInclusive<i64>, &i64)| {
            !range.contains(&0) && !range.contains(accepted)
        };
        let total = self.0.iter().zip(accepted).position(differs)?;
        Some((NAMES[total], self.0[total].clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Accepted, Bounds, Differences, Gauges, Invariants, SplitMethod};

    const NONE: Accepted = [0; 4];

    fn gauges() -> Gauges {
        let mut gauges = Gauges::default();
        gauges.0[0][1] = 10;
        gauges.0[1][8] = 5;
        gauges
    }

    /// At rest: both readings are the same.
    const fn bounds(gauges: Gauges) -> Bounds {
        Bounds {
            least: gauges,
            most: gauges,
        }
    }

    fn totals(established: u64, v4: u64, v6: u64) -> Invariants {
        Invariants {
            curr_estab: Some(established),
            inuse_v4: Some(v4),
            inuse_v6: Some(v6),
            ..Invariants::default()
        }
    }

    fn differences(totals: &Invariants) -> Differences {
        Differences::new(&bounds(gauges()), SplitMethod::Walk, totals)
    }

    #[test]
    fn each_total_is_compared() {
        let beyond = |totals| differences(&totals).beyond(&NONE).map(|(name, _)| name);
        assert_eq!(beyond(totals(15, 10, 5)), None);
        assert_eq!(beyond(totals(16, 10, 5)), Some("CurrEstab"));
        assert_eq!(beyond(totals(15, 9, 5)), Some("inuse of IPv4"));
        assert_eq!(beyond(totals(15, 10, 7)), Some("inuse of IPv6"));
        assert_eq!(beyond(Invariants::default()), None);
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
            Differences::new(&bounds(gauges), split, &totals(timewait))
                .beyond(&NONE)
                .map(|(name, _)| name)
        };
        assert_eq!(beyond(SplitMethod::Events, 5), None);
        assert_eq!(beyond(SplitMethod::Events, 6), Some("tw"));
        assert_eq!(beyond(SplitMethod::Walk, 6), None);
    }

    #[test]
    fn what_moved_between_the_readings_may_differ() {
        let mut moved = bounds(gauges());
        moved.most.0[0][1] += 3;
        let beyond = |established| {
            Differences::new(&moved, SplitMethod::Walk, &totals(established, 10, 5))
                .beyond(&NONE)
                .map(|(name, _)| name)
        };
        assert_eq!((beyond(14), beyond(18)), (Some("CurrEstab"), None));
        assert_eq!(beyond(19), Some("CurrEstab"));
    }

    #[test]
    fn a_difference_that_an_audit_left_is_not_looked_into_again() {
        let left = differences(&totals(15, 12, 5));
        assert_eq!(left.least(), [0, 2, 0, 0]);
        assert_eq!(left.beyond(&left.least()), None);
        let more = differences(&totals(15, 13, 5));
        assert_eq!(more.beyond(&left.least()), Some(("inuse of IPv4", 3..=3)));
    }
}
