//! Connections that stay in CLOSE_WAIT or FIN_WAIT2: their idle time at the last walk, carried forward. Costs
//! nothing between walks.

use std::time::{Duration, Instant};

use tcp_status_common::{
    counters::{AGES, IDLE_CLOSE_WAIT, IDLE_FIN_WAIT2, WalkTotals},
    state::State,
};

use crate::snapshot::{Counts, Stale};

/// Idle seconds after which a connection is stale.
const LIMIT: usize = 60;

const _: () = assert!(LIMIT < AGES);

/// Idle times of connections at a walk.
#[derive(Clone, Debug)]
pub struct IdleAges {
    idle: [[u64; AGES]; 2],
    taken: Instant,
}

impl IdleAges {
    /// The idle times that a walk found which ended just now.
    #[must_use]
    pub fn new(walked: &WalkTotals) -> Self {
        Self {
            idle: walked.idle,
            taken: Instant::now(),
        }
    }

    /// Stale connections now, among those of the walk; at most the gauges in `counts`.
    #[must_use]
    pub fn stale(&self, counts: &Counts) -> Stale {
        self.stale_after(self.taken.elapsed(), counts)
    }

    fn stale_after(&self, elapsed: Duration, counts: &Counts) -> Stale {
        let seconds = usize::try_from(elapsed.as_secs()).unwrap_or(LIMIT);
        // Connections that reach the limit by now.
        let from = LIMIT.saturating_sub(seconds);
        let older = |row: usize, state| {
            let met: u64 = self.idle[row][from..].iter().sum();
            met.min(counts[state])
        };
        Stale {
            older_than_seconds: u32::try_from(LIMIT).unwrap_or(u32::MAX),
            closewait: older(IDLE_CLOSE_WAIT, State::CloseWait),
            finwait2: older(IDLE_FIN_WAIT2, State::FinWait2),
            walked_seconds_ago: elapsed.as_secs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, Duration, IDLE_CLOSE_WAIT, IDLE_FIN_WAIT2, IdleAges, State, WalkTotals};

    #[test]
    fn connections_grow_old_between_walks_but_not_more_than_there_are() {
        let mut walked = WalkTotals::default();
        walked.idle[IDLE_CLOSE_WAIT][63] = 1;
        walked.idle[IDLE_CLOSE_WAIT][60] = 2;
        walked.idle[IDLE_CLOSE_WAIT][59] = 4;
        walked.idle[IDLE_CLOSE_WAIT][0] = 8;
        walked.idle[IDLE_FIN_WAIT2][30] = 5;
        let idle_ages = IdleAges::new(&walked);
        let mut counts = Counts::default();
        counts[State::CloseWait] = 100;
        counts[State::FinWait2] = 3;
        let at = |seconds, counts: &Counts| {
            let stale = idle_ages.stale_after(Duration::from_secs(seconds), counts);
            (stale.closewait, stale.finwait2)
        };
        assert_eq!(at(0, &counts), (3, 0));
        assert_eq!(at(1, &counts), (7, 0));
        assert_eq!(at(30, &counts), (7, 3));
        assert_eq!(at(3600, &counts), (15, 3));
        counts[State::CloseWait] = 2;
        assert_eq!(at(3600, &counts), (2, 3));
    }
}
