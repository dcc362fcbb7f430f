//! The split of minisockets and the half-open connections without a listener, as a walk last
//! saw them.

use std::{
    collections::BTreeMap,
    iter::Sum,
    ops::{Add, Sub},
    time::{Duration, Instant},
};

use tcp_status_common::state::Family;

use super::queues::Requests;
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

    fn zip(&self, other: &Self, f: fn(u64, u64) -> u64) -> Self {
        let both = |a: [u64; 2], b: [u64; 2]| [f(a[0], b[0]), f(a[1], b[1])];
        Self {
            finwait2: both(self.finwait2, other.finwait2),
            timewait: both(self.timewait, other.timewait),
            orphaned: both(self.orphaned, other.orphaned),
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

/// The last split, what it cost, and that of ports, which not every walk tells apart.
#[derive(Debug)]
pub struct SplitCache {
    last: Split,
    taken: Option<Instant>,
    ports: BTreeMap<u16, Split>,
    elsewhere: Option<Split>,
    ports_taken: Option<Instant>,
    cost: Duration,
    abandoned: u64,
}

impl Default for SplitCache {
    fn default() -> Self {
        Self {
            last: Split::default(),
            taken: None,
            ports: BTreeMap::new(),
            elsewhere: Some(Split::default()),
            ports_taken: None,
            cost: Duration::ZERO,
            abandoned: 0,
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

    /// What the last walk that told ports apart found at none of them; none if no such walk is
    /// possible.
    #[must_use]
    pub const fn elsewhere(&self) -> Option<Split> {
        self.elsewhere
    }

    /// How long the last walk took.
    #[must_use]
    pub const fn cost(&self) -> Duration {
        self.cost
    }

    /// Keeps a new split. `abandoned` is how many half-open connections closed listeners had
    /// left behind by then, since start.
    pub fn put(&mut self, split: Split, abandoned: u64, cost: Duration) {
        if split.orphaned == [0; Family::COUNT] {
            // Then there are none at any port, and nobody looks at ports again for their sake.
            for port in self.ports.values_mut().chain(&mut self.elsewhere) {
                port.orphaned = [0; Family::COUNT];
            }
        }
        self.last = split;
        self.taken = Some(Instant::now());
        self.cost = cost;
        self.abandoned = abandoned;
    }

    /// The kernel counts no minisockets: then there are none at any port, and nobody walks for
    /// them.
    pub fn no_minisockets(&mut self) {
        let apart = self.ports.values_mut().chain(&mut self.elsewhere);
        for split in apart.chain([&mut self.last]) {
            split.timewait = [0; Family::COUNT];
            split.finwait2 = [0; Family::COUNT];
        }
    }

    /// Keeps a new split of ports, of a walk that found `all` together; none if it did not tell
    /// ports apart.
    pub fn put_ports(&mut self, all: Split, ports: Option<BTreeMap<u16, Split>>) {
        self.elsewhere = ports
            .as_ref()
            .map(|ports| all - ports.values().copied().sum());
        self.ports = ports.unwrap_or_default();
        self.ports_taken = Some(Instant::now());
    }

    /// Whether there may be half-open connections that no listener knows.
    #[must_use]
    pub fn may_have_orphans(&self, abandoned: u64) -> bool {
        self.abandoned != abandoned || self.last.orphaned != [0; Family::COUNT]
    }

    /// Whether the last walk, or that of ports, is at least so long ago.
    #[must_use]
    pub fn is_older_than(&self, age: Duration, ports: bool) -> bool {
        let taken = if ports { self.ports_taken } else { self.taken };
        taken.is_none_or(|taken| taken.elapsed() >= age)
    }
}

/// The splits of ports, from a walk and the request sockets that their listeners had.
#[must_use]
pub fn by_port(walk: &BTreeMap<u16, MiniSplit>, at_listeners: &Requests) -> BTreeMap<u16, Split> {
    let split = |(&port, walk): (&u16, &MiniSplit)| {
        let requests = at_listeners.get(&port).copied().unwrap_or_default();
        (port, Split::new(walk, requests))
    };
    walk.iter().map(split).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{MiniSplit, Requests, Split, SplitCache, by_port};

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
        assert!(cache.is_older_than(Duration::MAX, false));
        cache.put(Split::default(), 0, Duration::ZERO);
        assert!(!cache.is_older_than(Duration::from_secs(3600), false));
        assert!(cache.is_older_than(Duration::MAX, true));
    }

    #[test]
    fn ports_have_orphans_of_their_own() {
        let walk = MiniSplit {
            requests: [5, 0],
            ..MiniSplit::default()
        };
        let ports = by_port(
            &[(80, walk), (81, walk)].into(),
            &Requests::from([(80, [3, 0])]),
        );
        let mut cache = SplitCache::default();
        let all = Split {
            orphaned: [9, 1],
            ..Split::default()
        };
        cache.put_ports(all, Some(ports));
        assert_eq!(cache.port(80).orphaned, [2, 0]);
        assert_eq!(cache.port(81).orphaned, [5, 0]);
        assert_eq!(cache.port(82), Split::default());
        assert_eq!(cache.elsewhere().unwrap().orphaned, [2, 1]);
        let closing = Split {
            finwait2: [1, 0],
            orphaned: [1, 0],
            ..Split::default()
        };
        cache.put_ports(closing, Some([(80, closing)].into()));
        assert_eq!(cache.elsewhere(), Some(Split::default()));
        cache.no_minisockets();
        assert_eq!(
            (cache.port(80).finwait2, cache.port(80).orphaned),
            ([0, 0], [1, 0])
        );
        cache.put_ports(closing, Some([(81, closing)].into()));
        // A walk that did not look at ports finds that they are gone everywhere.
        cache.put(Split::default(), 0, Duration::ZERO);
        assert_eq!(cache.port(81).orphaned, [0, 0]);
        cache.put_ports(closing, None);
        assert_eq!(cache.elsewhere(), None);
    }
}
