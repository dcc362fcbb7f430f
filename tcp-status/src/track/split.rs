//! The split of minisockets and the half-open connections without a listener, as a walk last
//! saw them.

use std::time::{Duration, Instant};

use tcp_status_common::state::Family;

use crate::kernel::sock_diag::MiniSplit;

/// What a walk over everything but full sockets found, by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Minisockets in FIN_WAIT2.
    pub finwait2: [u64; Family::COUNT],
    /// Minisockets in TIME_WAIT.
    pub timewait: [u64; Family::COUNT],
    /// Request sockets whose listener was closed.
    pub orphaned: [u64; Family::COUNT],
}

impl Split {
    /// From a walk, and the request sockets that listeners had at the time.
    #[must_use]
    pub fn new(walk: &MiniSplit, at_listeners: [u64; Family::COUNT]) -> Self {
        Self {
            finwait2: walk.finwait2,
            timewait: walk.timewait,
            orphaned: [0, 1].map(|i| walk.requests[i].saturating_sub(at_listeners[i])),
        }
    }
}

/// The last split, and what it cost.
#[derive(Debug, Default)]
pub struct SplitCache {
    last: Split,
    taken: Option<Instant>,
    cost: Duration,
    abandoned: u64,
}

impl SplitCache {
    /// The last split; empty before the first.
    #[must_use]
    pub const fn last(&self) -> &Split {
        &self.last
    }

    /// How long the last walk took.
    #[must_use]
    pub const fn cost(&self) -> Duration {
        self.cost
    }

    /// Keeps a new split. `abandoned` is how many half-open connections closed listeners had
    /// left behind by then, since start.
    pub fn put(&mut self, split: Split, abandoned: u64, cost: Duration) {
        *self = Self {
            last: split,
            taken: Some(Instant::now()),
            cost,
            abandoned,
        };
    }

    /// Whether there may be half-open connections that no listener knows.
    #[must_use]
    pub fn may_have_orphans(&self, abandoned: u64) -> bool {
        self.abandoned != abandoned || self.last.orphaned != [0; Family::COUNT]
    }

    /// Whether the last walk is at least so long ago.
    #[must_use]
    pub fn is_older_than(&self, age: Duration) -> bool {
        self.taken.is_none_or(|taken| taken.elapsed() >= age)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{MiniSplit, Split, SplitCache};

    #[test]
    fn orphans_are_what_no_listener_knows() {
        let walk = MiniSplit {
            timewait: [1, 2],
            finwait2: [3, 4],
            requests: [10, 5],
        };
        let split = Split::new(&walk, [7, 6]);
        assert_eq!(split.orphaned, [3, 0]);
        let mut cache = SplitCache::default();
        assert!(!cache.may_have_orphans(0));
        assert!(cache.may_have_orphans(1));
        cache.put(split, 1, Duration::ZERO);
        assert!(cache.may_have_orphans(1));
        cache.put(Split::default(), 1, Duration::ZERO);
        assert!(!cache.may_have_orphans(1));
    }

    #[test]
    fn a_new_cache_is_older_than_anything() {
        let mut cache = SplitCache::default();
        assert!(cache.is_older_than(Duration::MAX));
        cache.put(Split::default(), 0, Duration::ZERO);
        assert!(!cache.is_older_than(Duration::from_secs(3600)));
    }
}
