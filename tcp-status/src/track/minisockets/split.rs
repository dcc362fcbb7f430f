//! The split of minisockets between FIN_WAIT2 and TIME_WAIT at the last walk.

use std::{
    collections::BTreeMap,
    iter::Sum,
    ops::{Add, Sub},
    time::{Duration, Instant},
};

use tcp_status_common::{counters::WalkTotals, state::Family};

use crate::kernel::sock_diag::MiniSplit;

/// The minisockets that a walk found, by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Minisockets in FIN_WAIT2.
    pub finwait2: [u64; Family::COUNT],
    /// Minisockets in TIME_WAIT.
    pub timewait: [u64; Family::COUNT],
}

impl From<&MiniSplit> for Split {
    fn from(walk: &MiniSplit) -> Self {
        Self {
            finwait2: walk.finwait2,
            timewait: walk.timewait,
        }
    }
}

impl From<&WalkTotals> for Split {
    fn from(walk: &WalkTotals) -> Self {
        Self {
            finwait2: walk.finwait2,
            timewait: walk.timewait,
        }
    }
}

impl Split {
    fn zip(&self, other: &Self, f: fn(u64, u64) -> u64) -> Self {
        let both = |a: [u64; 2], b: [u64; 2]| [f(a[0], b[0]), f(a[1], b[1])];
        Self {
            finwait2: both(self.finwait2, other.finwait2),
            timewait: both(self.timewait, other.timewait),
        }
    }
}

impl Add for Split {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.zip(&other, u64::saturating_add)
    }
}

impl Sub for Split {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.zip(&other, u64::saturating_sub)
    }
}

impl Sum for Split {
    fn sum<I: Iterator<Item = Self>>(splits: I) -> Self {
        splits.fold(Self::default(), Add::add)
    }
}

/// Counters of a namespace at one moment, from which the age of a split follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitMoment {
    /// The kernel's total of minisockets.
    pub minisockets: u64,
    /// Full sockets in FIN_WAIT2.
    pub finwait2: u64,
    /// Full sockets that ended in FIN_WAIT2, since start: each may have left a minisocket in it.
    pub ended_in_finwait2: u64,
    /// Full sockets that ended in another state that leaves minisockets, since start.
    pub ended_otherwise: u64,
    /// TCP segments received; none where the kernel does not count them.
    pub segments: Option<u64>,
}

/// The last split, its cost, and the split by port if the walk separated ports.
#[derive(Debug)]
pub struct SplitCache {
    last: Split,
    taken: Option<Instant>,
    began: Option<SplitMoment>,
    ports: BTreeMap<u16, Split>,
    elsewhere: Option<Split>,
    ports_taken: Option<Instant>,
    cost: Duration,
}

impl Default for SplitCache {
    fn default() -> Self {
        Self {
            last: Split::default(),
            taken: None,
            began: None,
            ports: BTreeMap::new(),
            elsewhere: Some(Split::default()),
            ports_taken: None,
            cost: Duration::ZERO,
        }
    }
}

impl SplitCache {
    /// The last split; empty before the first.
    #[must_use]
    pub const fn last(&self) -> &Split {
        &self.last
    }

    /// The last split of a port; empty if nothing was found at it.
    #[must_use]
    pub fn port(&self, port: u16) -> Split {
        self.ports.get(&port).copied().unwrap_or_default()
    }

    /// Minisockets of the last walk at none of the counted ports; none if no walk can separate ports.
    #[must_use]
    pub const fn elsewhere(&self) -> Option<Split> {
        self.elsewhere
    }

    /// Cost of the last walk.
    #[must_use]
    pub const fn cost(&self) -> Duration {
        self.cost
    }

    /// Stores a new split and, if known, the counters when its walk began.
    pub fn put(&mut self, split: Split, began: Option<SplitMoment>, cost: Duration) {
        self.last = split;
        self.began = began;
        self.taken = Some(Instant::now());
        self.cost = cost;
    }

    /// Lower and upper bound of minisockets in FIN_WAIT2 `now`: those of the last walk, minus those that
    /// can have left, plus those that can have come. One leaves by a segment or its timer, and comes when a
    /// full socket ends in FIN_WAIT2.
    #[must_use]
    pub fn finwait2(&self, now: &SplitMoment) -> (u64, u64) {
        let Some(began) = &self.began else {
            return (0, now.minisockets);
        };
        let found: u64 = self.last.finwait2.iter().sum();
        let came = now
            .ended_in_finwait2
            .saturating_sub(began.ended_in_finwait2);
        let created = came + now.ended_otherwise.saturating_sub(began.ended_otherwise);
        let expired = (began.minisockets + created).saturating_sub(now.minisockets);
        let segments = now.segments.zip(began.segments);
        let least = segments.map_or(0, |(now, then)| {
            found.saturating_sub(expired + now.saturating_sub(then))
        });
        (
            least.min(now.minisockets),
            (found + came).min(now.minisockets),
        )
    }

    /// Sets all counts to zero: the kernel's total is zero.
    pub fn clear_minisockets(&mut self) {
        let apart = self.ports.values_mut().chain(&mut self.elsewhere);
        for split in apart.chain([&mut self.last]) {
            split.timewait = [0; Family::COUNT];
            split.finwait2 = [0; Family::COUNT];
        }
    }

    /// Stores a new split by port of a walk that found `all` in total; none if the walk did not separate ports.
    pub fn put_ports(&mut self, all: Split, ports: Option<BTreeMap<u16, Split>>) {
        self.elsewhere = ports
            .as_ref()
            .map(|ports| all - ports.values().copied().sum());
        self.ports = ports.unwrap_or_default();
        self.ports_taken = Some(Instant::now());
    }

    /// Whether the last walk, or the last one by port, is at least `age` ago.
    #[must_use]
    pub fn is_older_than(&self, age: Duration, ports: bool) -> bool {
        let taken = if ports { self.ports_taken } else { self.taken };
        taken.is_none_or(|taken| taken.elapsed() >= age)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Split, SplitCache, SplitMoment};

    #[test]
    fn what_is_known_of_finwait2_wears_off_with_what_can_have_changed_it() {
        let began = SplitMoment {
            minisockets: 30,
            segments: Some(1000),
            ..SplitMoment::default()
        };
        let split = Split {
            finwait2: [8, 2],
            timewait: [20, 0],
        };
        let mut cache = SplitCache::default();
        assert_eq!(cache.finwait2(&began), (0, 30));
        cache.put(split, Some(began), Duration::ZERO);
        assert_eq!(cache.finwait2(&began), (10, 10));
        let at = |minisockets, ended_in_finwait2, ended_otherwise, segments| SplitMoment {
            minisockets,
            ended_in_finwait2,
            ended_otherwise,
            segments: Some(segments),
            finwait2: 0,
        };
        assert_eq!(cache.finwait2(&at(30, 0, 0, 1003)), (7, 10));
        assert_eq!(cache.finwait2(&at(28, 0, 0, 1000)), (8, 10));
        assert_eq!(cache.finwait2(&at(31, 2, 1, 1000)), (8, 12));
        assert_eq!(cache.finwait2(&at(5, 0, 0, 1000)), (0, 5));
        let unknown = SplitMoment {
            segments: None,
            ..began
        };
        assert_eq!(cache.finwait2(&unknown), (0, 10));
        cache.put(split, None, Duration::ZERO);
        assert_eq!(cache.finwait2(&began), (0, 30));
    }

    #[test]
    fn a_new_cache_is_older_than_anything() {
        let mut cache = SplitCache::default();
        assert!(cache.is_older_than(Duration::MAX, false));
        cache.put(Split::default(), None, Duration::ZERO);
        assert!(!cache.is_older_than(Duration::from_secs(3600), false));
        assert!(cache.is_older_than(Duration::MAX, true));
    }

    #[test]
    fn what_is_at_no_port_is_the_rest() {
        let split = |finwait2| Split {
            finwait2: [finwait2, 0],
            timewait: [0, 1],
        };
        let mut cache = SplitCache::default();
        cache.put_ports(split(9), Some([(80, split(2)), (81, split(5))].into()));
        assert_eq!(cache.port(80), split(2));
        assert_eq!(cache.port(82), Split::default());
        assert_eq!(cache.elsewhere().unwrap().finwait2, [2, 0]);
        cache.clear_minisockets();
        assert_eq!(cache.port(80), Split::default());
        assert_eq!(cache.elsewhere(), Some(Split::default()));
        cache.put_ports(split(1), None);
        assert_eq!(cache.elsewhere(), None);
    }
}
