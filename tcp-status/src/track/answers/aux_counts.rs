//! Minisockets, request sockets and listeners of a namespace. Reads kernel totals, walks where there is none, and
//! decides how old a walk may be.

use std::collections::BTreeSet;

use tcp_status_common::{
    counters::{ClosedListener, ListenerRecord, WalkTotals},
    state::{Family, State},
};

use super::{
    api_error::unavailable,
    assemble::AuxCounts,
    queues::{self, HalfOpen},
};
use crate::{
    kernel::{
        plan::{SeedMethod, SplitMethod},
        procfs,
        sock_diag::{self, MiniSplits},
    },
    serve::protocol::ApiError,
    snapshot::{Counts, Listener},
    track::{
        gauge::Gauges,
        history::seconds::GaugeRange,
        minisockets::{
            split::{Split, SplitCache, SplitMoment},
            split_caches::SplitWalk,
        },
        resources::cpu_time::CpuTimer,
        tracker::Tracker,
    },
};

use tcp_status_common::counters::{NetnsId, OWN_NETNS};

/// The degradation after closed listeners that could not be recorded.
pub(crate) const UNRECORDED: &str = "half-open connections of closed listeners are missing: \
     the map of closed listeners is full; the next audit with enough room corrects them";

/// How old the split of minisockets may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StalenessPolicy {
    /// The last walk, whatever its age.
    UseCached,
    /// A new walk if the last one is too old.
    Refresh,
    /// The same, with ports separated.
    RefreshPorts,
}

impl Tracker {
    /// Minisockets and request sockets of the calling thread's namespace, as far as the `wanted` states
    /// need them. `split` was read before the gauges were: see [`crate::track::minisockets::timewait_hooks::TimewaitHooks::split`].
    /// `requests` are its request sockets.
    pub(crate) fn aux_counts(
        &self,
        netns: NetnsId,
        (split, gauges): (SplitMethod, &Gauges),
        requests: [u64; Family::COUNT],
        wanted: &[State],
        staleness: StalenessPolicy,
    ) -> Result<AuxCounts, ApiError> {
        let mut aux = AuxCounts {
            requests,
            ..AuxCounts::default()
        };
        if !wanted.contains(&State::TimeWait) && !wanted.contains(&State::FinWait2) {
            return Ok(aux);
        }
        aux.minisockets = minisocket_count()?;
        if split == SplitMethod::Events {
            [aux.timewait, aux.finwait2] = gauges.minisockets();
            return Ok(aux);
        }
        if aux.minisockets == 0 {
            self.splits.with(netns, SplitCache::clear_minisockets);
        } else if staleness != StalenessPolicy::UseCached {
            let is_due = |cache: &SplitCache| self.is_walk_due(cache, staleness);
            self.splits.refresh(netns, is_due, || {
                let timer = CpuTimer::start();
                let walked = self.refresh_split(netns);
                self.scan.spend(timer.spent());
                walked
            })?;
        }
        let split = self.splits.with(netns, |cache| *cache.last());
        (aux.finwait2, aux.timewait) = (split.finwait2, split.timewait);
        Ok(aux)
    }

    /// Whether `state` of the tracker's namespace can be counted without a walk.
    pub(crate) fn needs_no_walk(&self, state: State) -> bool {
        match state {
            State::SynRecv => false,
            State::TimeWait | State::FinWait2 if self.hooks.split() == SplitMethod::Walk => {
                let is_due =
                    |cache: &mut SplitCache| self.is_walk_due(cache, StalenessPolicy::Refresh);
                !self.splits.with(OWN_NETNS, is_due)
            }
            _ => true,
        }
    }

    /// Whether the last split is too old and the budget allows another walk.
    fn is_walk_due(&self, cache: &SplitCache, staleness: StalenessPolicy) -> bool {
        let pace = self.settings.pace.on_demand(cache.cost());
        let age = self.settings.split_interval.max(pace);
        cache.is_older_than(age, staleness == StalenessPolicy::RefreshPorts)
            && self.scan.affords_split()
    }

    /// Walks over minisockets and request sockets.
    fn refresh_split(&self, netns: NetnsId) -> Result<SplitWalk, ApiError> {
        let (began, timer) = (self.split_moment(netns)?, CpuTimer::start());
        let (all, ports) = match sock_diag::minisockets(&self.port_set(netns)?) {
            // A kernel without the module; the iterator needs four times as long, and does not
            // tell ports apart.
            Err(sock_diag::Error::Unsupported(_)) if self.plan.seed == SeedMethod::Iterator => {
                let walked = self.bpf.walk_sockets().map_err(unavailable)?;
                (Split::from(&walked), None)
            }
            walk => {
                let MiniSplits { all, ports } = walk.map_err(unavailable)?;
                let ports = ports.iter().map(|(&port, walk)| (port, walk.into()));
                (Split::from(&all), Some(ports.collect()))
            }
        };
        Ok(SplitWalk {
            all,
            ports,
            began,
            cost: timer.spent(),
        })
    }

    /// The counters that bound the error of a split, of the calling thread's namespace.
    pub(crate) fn split_moment(&self, netns: NetnsId) -> Result<SplitMoment, ApiError> {
        let minisockets = minisocket_count()?;
        let reading = self.read(netns).map_err(unavailable)?;
        let ended = |from: &[State]| {
            let flows = reading.transitions.flows.iter();
            let ended = flows.filter(|(of, to, _)| {
                to == State::Closed.name() && from.iter().any(|state| of == state.name())
            });
            ended.map(|(_, _, count)| count).sum()
        };
        let finwait2 = reading.gauges.sum(&[State::FinWait2]);
        Ok(SplitMoment {
            minisockets,
            finwait2: u64::try_from(finwait2).unwrap_or(0),
            ended_in_finwait2: ended(&[State::FinWait2]),
            ended_otherwise: ended(&[State::Closing, State::LastAck]),
            segments: procfs::segments().map_err(unavailable)?,
        })
    }

    /// Bounds of `counts`, of the calling thread's namespace: an old split widens them.
    pub(crate) fn gauge_range(
        &self,
        netns: NetnsId,
        split: SplitMethod,
        counts: &Counts,
        aux: &AuxCounts,
    ) -> Result<GaugeRange, ApiError> {
        let mut range = GaugeRange::exact(counts);
        if split == SplitMethod::Walk && aux.minisockets > 0 {
            let now = self.split_moment(netns)?;
            let (least, most) = self.splits.with(netns, |cache| cache.finwait2(&now));
            range.least[State::FinWait2] = now.finwait2 + least;
            range.most[State::FinWait2] = now.finwait2 + most;
            range.least[State::TimeWait] = now.minisockets - most;
            range.most[State::TimeWait] = now.minisockets - least;
        }
        Ok(range)
    }

    /// The individually counted ports of a namespace.
    fn port_set(&self, netns: NetnsId) -> Result<BTreeSet<u16>, ApiError> {
        let ports = self.live_bank().port_keys().map_err(unavailable)?;
        let ports = ports.range((netns, 0)..=(netns, u16::MAX));
        Ok(ports.map(|&(_, port)| port).collect())
    }

    /// Stores the minisockets that an audit's walk found.
    pub(crate) fn cache_split(
        &self,
        netns: NetnsId,
        walked: &WalkTotals,
        began: Option<SplitMoment>,
    ) {
        self.splits.with(netns, |cache| {
            let cost = cache.cost();
            cache.put(walked.into(), began, cost);
        });
    }

    /// Request sockets of the calling thread's namespace, by family.
    pub(crate) fn request_sockets(
        &self,
        netns: NetnsId,
        gauges: &Gauges,
    ) -> Result<[u64; Family::COUNT], ApiError> {
        match self.plan.seed {
            SeedMethod::Iterator => {
                let (found, mut closed) = self.with_closed_listeners(|| {
                    let found = self
                        .bpf
                        .walk_listeners(self.expected_listeners(netns, gauges)?);
                    found.map_err(unavailable)
                })?;
                closed.retain(|listener| listener.netns == netns);
                let closed = queues::total(&queues::orphaned(&closed));
                Ok([0, 1].map(|i| found.requests[i] + closed[i]))
            }
            SeedMethod::Procfs => {
                let walk = sock_diag::minisockets(&BTreeSet::new());
                Ok(walk.map_err(unavailable)?.all.requests)
            }
        }
    }

    /// How many closed listeners with request sockets could not be recorded since start; 0 where
    /// nothing reads the records.
    pub(crate) fn unrecorded(&self) -> Result<u64, ApiError> {
        match self.plan.seed {
            SeedMethod::Iterator => {
                let totals = self.bpf.closed_totals().map_err(unavailable)?;
                Ok(totals.unrecorded)
            }
            SeedMethod::Procfs => Ok(0),
        }
    }

    /// The listeners of the calling thread's namespace, and its request sockets by port.
    pub(crate) fn half_open(
        &self,
        netns: NetnsId,
        gauges: &Gauges,
    ) -> Result<(Vec<Listener>, HalfOpen), ApiError> {
        if self.plan.seed == SeedMethod::Procfs {
            let walk = sock_diag::minisockets(&self.port_set(netns)?).map_err(unavailable)?;
            let half_open = HalfOpen::from_dump(&walk);
            return Ok((self.listeners(netns, gauges)?, half_open));
        }
        let (listeners, mut closed) =
            self.with_closed_listeners(|| self.listeners(netns, gauges))?;
        closed.retain(|listener| listener.netns == netns);
        let half_open = HalfOpen::new(&listeners, &closed);
        Ok((listeners, half_open))
    }

    /// Walks over listeners, then reads the closed ones of all namespaces. Repeats if a listener with request sockets closed in
    /// between: it would be in both or in neither.
    pub(crate) fn with_closed_listeners<T>(
        &self,
        walk: impl Fn() -> Result<T, ApiError>,
    ) -> Result<(T, Vec<ClosedListener>), ApiError> {
        const ATTEMPTS: u32 = 4;
        let recorded = || {
            let totals = self.bpf.closed_totals().map_err(unavailable)?;
            Ok::<_, ApiError>(totals.recorded)
        };
        let mut before = recorded()?;
        let mut attempt = 1;
        loop {
            let walked = walk()?;
            let closed = self.bpf.closed_listeners().map_err(unavailable)?;
            let after = recorded()?;
            if before == after || attempt == ATTEMPTS {
                return Ok((walked, closed));
            }
            before = after;
            attempt += 1;
        }
    }

    /// The listeners of the calling thread's namespace.
    fn listeners(&self, netns: NetnsId, gauges: &Gauges) -> Result<Vec<Listener>, ApiError> {
        match self.plan.seed {
            SeedMethod::Iterator => {
                let expected = self.expected_listeners(netns, gauges)?;
                let found = self.bpf.describe_listeners(expected);
                let records: Vec<ListenerRecord> = found.map_err(unavailable)?.1;
                Ok(queues::listeners(&records))
            }
            SeedMethod::Procfs => sock_diag::listeners().map_err(unavailable),
        }
    }

    /// The number of listeners that a walk should find.
    fn expected_listeners(&self, netns: NetnsId, gauges: &Gauges) -> Result<u64, ApiError> {
        if self.is_exact(netns) {
            let counted = gauges.sum(&[State::Listen]);
            return Ok(u64::try_from(counted).unwrap_or(0));
        }
        sock_diag::listener_count().map_err(unavailable)
    }
}

/// The kernel's own count of timewait minisockets.
fn minisocket_count() -> Result<u64, ApiError> {
    procfs::timewait()
        .map_err(unavailable)?
        .ok_or_else(|| unavailable("cannot read /proc/net/sockstat: no tw field; mount /proc"))
}
