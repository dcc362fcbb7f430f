//! What the counters cannot be, from look to look. Pure, but for the clock.

use std::{ops::RangeInclusive, time::Instant};

use super::schedule::Cause;

/// What the counters cannot be, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contradiction {
    pub(super) cause: Cause,
    /// By how much, in all looks.
    by: RangeInclusive<i64>,
    pub(super) since: Instant,
}

impl Contradiction {
    /// Continues `before` where that may be the same: the same cause, by as much.
    pub(super) fn new(cause: Cause, mut by: RangeInclusive<i64>, before: Option<&Self>) -> Self {
        let mut since = Instant::now();
        if let Some(before) = before.filter(|before| before.cause == cause) {
            let least = *before.by.start().max(by.start());
            let most = *before.by.end().min(by.end());
            if least <= most {
                (by, since) = (least..=most, before.since);
            }
        }
        Self { cause, by, since }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cause, Contradiction};

    /// Only a difference that all looks may have seen has stood since the first.
    #[test]
    fn a_contradiction_stands_as_long_as_its_looks_agree() {
        let cause = || Cause::Invariant("CurrEstab");
        let first = Contradiction::new(cause(), 1..=4, None);
        let second = Contradiction::new(cause(), 3..=9, Some(&first));
        assert_eq!((second.by.clone(), second.since), (3..=4, first.since));
        let other_side = Contradiction::new(cause(), -2..=-1, Some(&second));
        assert!(other_side.since > first.since);
        let other = Contradiction::new(Cause::Invariant("tw"), 3..=4, Some(&second));
        assert!(other.since > first.since);
    }
}
