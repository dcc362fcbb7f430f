//! What is beside the full sockets: minisockets, half-open connections, listeners. Reads, and walks
//! where nothing else tells; decides when a walk may be old.

use std::collections::BTreeSet;

use tcp_status_common::{
    counters::{ClosedListener, ListenerRecord, Walked},
    state::{Family, State},
};

use super::{
    answer::unavailable,
    assemble::Beside,
    cost::Cost,
    gauge::Gauges,
    history::Known,
    queues::{self, HalfOpen},
    split::{Moment, Split, SplitCache},
    splits::SplitWalk,
    tracker::Tracker,
};
use crate::{
    kernel::{
        plan::{SeedMethod, SplitMethod},
        procfs,
        sock_diag::{self, MiniSplits},
    },
    server::protocol::Refusal,
    snapshot::{Counts, Listener},
};
use tcp_status_common::counters::{NetnsId, OWN_NETNS};

/// Closed listeners could not be recorded: their half-open connections are in no count.
pub(super) const UNRECORDED: &str = "half-open connections of closed listeners are missing: more \
     such listeners than can be recorded; exact once an audit finds room for all";

/// How far an answer may go to split minisockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// Uses the last walk, however old.
    Last,
    /// Walks, if the last walk is too old.
    Walk,
    /// The same, with the ports apart.
    WalkPorts,
}

impl Tracker {
    /// What is beside the full sockets of the calling thread's namespace, as far as `wanted`
    /// needs it. `split` was read before the gauges were: see [`super::hooks::Hooks::split`].
    /// `requests` are its request sockets.
    pub(super) fn beside(
        &self,
        netns: NetnsId,
        (split, gauges): (SplitMethod, &Gauges),
        requests: [u64; Family::COUNT],
        wanted: &[State],
        effort: Effort,
    ) -> Result<Beside, Refusal> {
        let mut beside = Beside {
            requests,
            ..Beside::default()
        };
        if !wanted.contains(&State::TimeWait) && !wanted.contains(&State::FinWait2) {
            return Ok(beside);
        }
        beside.minisockets = minisocket_count()?;
        if split == SplitMethod::Events {
            [beside.timewait, beside.finwait2] = gauges.minisockets();
            return Ok(beside);
        }
        if beside.minisockets == 0 {
            self.splits.with(netns, SplitCache::no_minisockets);
        } else if effort != Effort::Last {
            let is_due = |cache: &SplitCache| self.is_walk_due(cache, effort);
            self.splits.renew(netns, is_due, || {
                let cost = Cost::start();
                let walked = self.look_aside(netns);
                self.scan.spend(cost.spent());
                walked
            })?;
        }
        let split = self.splits.with(netns, |cache| *cache.last());
        (beside.finwait2, beside.timewait) = (split.finwait2, split.timewait);
        Ok(beside)
    }

    /// Whether `state` of the tracker's namespace can be counted without a walk.
    pub(super) fn is_walk_needless(&self, state: State) -> bool {
        match state {
            State::SynRecv => false,
            State::TimeWait | State::FinWait2 if self.hooks.split() == SplitMethod::Walk => {
                let is_due = |cache: &mut SplitCache| self.is_walk_due(cache, Effort::Walk);
                !self.splits.with(OWN_NETNS, is_due)
            }
            _ => true,
        }
    }

    /// Whether the last split is too old, and there is processor time for another walk.
    fn is_walk_due(&self, cache: &SplitCache, effort: Effort) -> bool {
        let pace = self.settings.pace.on_demand(cache.cost());
        let age = self.settings.split_interval.max(pace);
        cache.is_older_than(age, effort == Effort::WalkPorts) && self.scan.affords_split()
    }

    /// Walks over everything but full sockets.
    fn look_aside(&self, netns: NetnsId) -> Result<SplitWalk, Refusal> {
        let (began, cost) = (self.moment(netns)?, Cost::start());
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
            cost: cost.spent(),
        })
    }

    /// The counters that say how far a split may be off, of the calling thread's namespace.
    pub(super) fn moment(&self, netns: NetnsId) -> Result<Moment, Refusal> {
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
        Ok(Moment {
            minisockets,
            finwait2: u64::try_from(finwait2).unwrap_or(0),
            ended_in_finwait2: ended(&[State::FinWait2]),
            ended_otherwise: ended(&[State::Closing, State::LastAck]),
            segments: procfs::segments().map_err(unavailable)?,
        })
    }

    /// What is known of the `counts` of both families, of the calling thread's namespace: a split
    /// that is old says little.
    pub(super) fn known(
        &self,
        netns: NetnsId,
        split: SplitMethod,
        counts: &Counts,
        beside: &Beside,
    ) -> Result<Known, Refusal> {
        let mut known = Known::exactly(counts);
        if split == SplitMethod::Walk && beside.minisockets > 0 {
            let now = self.moment(netns)?;
            let (least, most) = self.splits.with(netns, |cache| cache.finwait2(&now));
            known.least[State::FinWait2] = now.finwait2 + least;
            known.most[State::FinWait2] = now.finwait2 + most;
            known.least[State::TimeWait] = now.minisockets - most;
            known.most[State::TimeWait] = now.minisockets - least;
        }
        Ok(known)
    }

    /// The ports of a namespace that are kept apart.
    fn port_set(&self, netns: NetnsId) -> Result<BTreeSet<u16>, Refusal> {
        let ports = self.live_bank().port_keys().map_err(unavailable)?;
        let ports = ports.range((netns, 0)..=(netns, u16::MAX));
        Ok(ports.map(|&(_, port)| port).collect())
    }

    /// Keeps what an audit's walk met beside full sockets.
    pub(super) fn keep_aside(&self, netns: NetnsId, walked: &Walked, began: Option<Moment>) {
        self.splits.with(netns, |cache| {
            let cost = cache.cost();
            cache.put(walked.into(), began, cost);
        });
    }

    /// Request sockets of the calling thread's namespace, by family.
    pub(super) fn requests(
        &self,
        netns: NetnsId,
        gauges: &Gauges,
    ) -> Result<[u64; Family::COUNT], Refusal> {
        match self.plan.seed {
            SeedMethod::Iterator => {
                let (found, closed) = self.with_closed(netns, || {
                    let found = self.bpf.walk_listeners(self.listening(netns, gauges)?);
                    found.map_err(unavailable)
                })?;
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
    pub(super) fn unrecorded(&self) -> Result<u64, Refusal> {
        match self.plan.seed {
            SeedMethod::Iterator => {
                let totals = self.bpf.closed_totals().map_err(unavailable)?;
                Ok(totals.unrecorded)
            }
            SeedMethod::Procfs => Ok(0),
        }
    }

    /// The listeners of the calling thread's namespace, and its request sockets by port.
    pub(super) fn half_open(
        &self,
        netns: NetnsId,
        gauges: &Gauges,
    ) -> Result<(Vec<Listener>, HalfOpen), Refusal> {
        if self.plan.seed == SeedMethod::Procfs {
            let walk = sock_diag::minisockets(&self.port_set(netns)?).map_err(unavailable)?;
            let half_open = HalfOpen::dumped(&walk);
            return Ok((self.listeners(netns, gauges)?, half_open));
        }
        let (listeners, closed) = self.with_closed(netns, || self.listeners(netns, gauges))?;
        let half_open = HalfOpen {
            at_listeners: queues::requests(&listeners),
            orphaned: queues::orphaned(&closed),
        };
        Ok((listeners, half_open))
    }

    /// Walks over listeners, then reads the closed ones: again if one with request sockets closed
    /// meanwhile, which would be in both or in neither.
    fn with_closed<T>(
        &self,
        netns: NetnsId,
        walk: impl Fn() -> Result<T, Refusal>,
    ) -> Result<(T, Vec<ClosedListener>), Refusal> {
        const ATTEMPTS: u32 = 4;
        let recorded = || {
            let totals = self.bpf.closed_totals().map_err(unavailable)?;
            Ok::<_, Refusal>(totals.recorded)
        };
        let mut before = recorded()?;
        let mut attempt = 1;
        loop {
            let walked = walk()?;
            let mut closed = self.bpf.closed_listeners().map_err(unavailable)?;
            let after = recorded()?;
            if before == after || attempt == ATTEMPTS {
                closed.retain(|listener| listener.netns == netns);
                return Ok((walked, closed));
            }
            before = after;
            attempt += 1;
        }
    }

    /// The listeners of the calling thread's namespace.
    fn listeners(&self, netns: NetnsId, gauges: &Gauges) -> Result<Vec<Listener>, Refusal> {
        match self.plan.seed {
            SeedMethod::Iterator => {
                let expected = self.listening(netns, gauges)?;
                let found = self.bpf.describe_listeners(expected);
                let records: Vec<ListenerRecord> = found.map_err(unavailable)?.1;
                Ok(queues::listeners(&records))
            }
            SeedMethod::Procfs => Ok(sock_diag::listeners().map_err(unavailable)?),
        }
    }

    /// How many listeners a walk may expect.
    fn listening(&self, netns: NetnsId, gauges: &Gauges) -> Result<u64, Refusal> {
        let vouched = self
            .ledger()
            .book(netns)
            .is_some_and(|book| book.doubt.is_none());
        if vouched {
            let counted = gauges.sum(&[State::Listen]);
            return Ok(u64::try_from(counted).unwrap_or(0));
        }
        sock_diag::listener_count().map_err(unavailable)
    }
}

/// The kernel's own count of timewait minisockets.
fn minisocket_count() -> Result<u64, Refusal> {
    procfs::timewait()
        .map_err(unavailable)?
        .ok_or_else(|| unavailable("cannot read /proc/net/sockstat: no tw field; mount /proc"))
}
