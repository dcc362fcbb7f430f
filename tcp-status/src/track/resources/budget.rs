//! A token bucket of processor time for walks: a share of one core. Pure.

use std::time::{Duration, Instant};

/// Walks that the bucket always has room for, whatever one costs.
pub const RESERVE: u32 = 5;

/// Processor time that walks may take. Unspent time is saved up to a limit; a deficit is earned back before
/// the next walk.
#[derive(Clone, Debug)]
pub struct Budget {
    share: f64,
    window: Duration,
    /// Expected cost of a walk.
    cost: Duration,
    /// Seconds of processor time at the moment `at`; below zero after a walk that cost more.
    saved: f64,
    at: Instant,
}

impl Budget {
    /// A `share` of one core. The bucket holds what is earned during `window`, and at least [`RESERVE`] walks of
    /// this `cost`; it starts full.
    #[must_use]
    pub fn new(share: f64, window: Duration, cost: Duration, now: Instant) -> Self {
        let mut budget = Self {
            share,
            window,
            cost,
            saved: f64::INFINITY,
            at: now,
        };
        budget.saved = budget.level(now);
        budget
    }

    /// Updates the expected cost of a walk.
    pub fn expect(&mut self, cost: Duration, now: Instant) {
        (self.saved, self.at) = (self.level(now), now);
        self.cost = cost;
    }

    /// Saved processor time.
    #[must_use]
    pub fn saved(&self, now: Instant) -> Duration {
        Duration::from_secs_f64(self.level(now).max(0.0))
    }

    /// Time until `wanted` is saved.
    #[must_use]
    pub fn wait(&self, wanted: Duration, now: Instant) -> Duration {
        let missing = wanted.as_secs_f64() - self.level(now);
        Duration::from_secs_f64((missing / self.share).max(0.0))
    }

    /// Subtracts the cost of a walk, whether it succeeded or not.
    pub fn spend(&mut self, cost: Duration, now: Instant) {
        (self.saved, self.at) = (self.level(now) - cost.as_secs_f64(), now);
    }

    fn level(&self, now: Instant) -> f64 {
        let capacity = self.share * self.window.as_secs_f64();
        let capacity = capacity.max((self.cost * RESERVE).as_secs_f64());
        let earned = self.share * now.saturating_duration_since(self.at).as_secs_f64();
        (self.saved + earned).min(capacity)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Budget, RESERVE};

    const WINDOW: Duration = Duration::from_secs(100);

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_spent_is_earned_again_up_to_a_limit() {
        let start = Instant::now();
        let mut budget = Budget::new(0.01, WINDOW, Duration::ZERO, start);
        assert_eq!(budget.saved(start + WINDOW), seconds(1));
        budget.spend(seconds(3), start);
        assert_eq!(budget.saved(start), Duration::ZERO);
        assert_eq!(budget.wait(Duration::ZERO, start), seconds(200));
        assert_eq!(
            budget.wait(Duration::ZERO, start + seconds(200)),
            Duration::ZERO
        );
        assert_eq!(budget.saved(start + seconds(300)), seconds(1));
        assert_eq!(budget.saved(start + seconds(900)), seconds(1));
    }

    #[test]
    fn there_is_room_for_expensive_walks() {
        let start = Instant::now();
        let mut budget = Budget::new(0.01, WINDOW, seconds(2), start);
        assert_eq!(budget.saved(start), seconds(2) * RESERVE);
        budget.expect(seconds(3), start);
        assert_eq!(budget.saved(start), seconds(2) * RESERVE);
        assert_eq!(budget.saved(start + 20 * WINDOW), seconds(3) * RESERVE);
    }

    /// Whoever spends as soon as anything is saved up stays within the share, but for what was
    /// saved up before and the last walk.
    #[test]
    fn the_share_is_a_bound() {
        let start = Instant::now();
        let mut budget = Budget::new(0.05, WINDOW, Duration::ZERO, start);
        let (cost, end) = (Duration::from_millis(30), start + 20 * WINDOW);
        let (mut now, mut spent) = (start, Duration::ZERO);
        while now < end {
            if budget.saved(now) > Duration::ZERO {
                budget.spend(cost, now);
                spent += cost;
            }
            now += Duration::from_millis(31);
        }
        let most = (20 * WINDOW + WINDOW).mul_f64(0.05) + cost;
        assert!(spent <= most, "{spent:?}, at most {most:?}");
        assert!(spent > most.mul_f64(0.95), "{spent:?}");
    }
}
