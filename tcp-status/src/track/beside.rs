//! What is beside the full sockets: minisockets, half-open connections, listeners. Reads, and walks
//! where nothing else tells; decides when a walk may be old.

use std::collections::BTreeSet;

use tcp_status_common::{
    counters::{ListenerRecord, Walked},
    state::{Family, State},
};

use super::{
    answer::unavailable,
    assemble::Beside,
    cost::Cost,
    gauge::Gauges,
    queues,
    split::{self, Split, SplitCache},
    tracker::{Tracker, lock, needs_more_than_counters},
};
use crate::{
    kernel::{
        plan::{SeedMethod, SplitMethod},
        procfs,
        sock_diag::{self, MiniSplit, MiniSplits},
    },
    server::protocol::Refusal,
    snapshot::Listener,
};

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
    /// needs it. `requests` are those at its listeners.
    pub(super) fn beside(
        &self,
        netns: u32,
        gauges: &Gauges,
        requests: [u64; Family::COUNT],
        wanted: &[State],
        effort: Effort,
    ) -> Result<Beside, Refusal> {
        if !wanted.iter().any(|&state| needs_more_than_counters(state)) {
            return Ok(Beside::default());
        }
        let half_open = wanted.contains(&State::SynRecv);
        let closing = wanted.contains(&State::TimeWait) || wanted.contains(&State::FinWait2);
        let mut beside = Beside {
            requests,
            ..Beside::default()
        };
        if closing {
            beside.minisockets = minisocket_count()?;
        }
        let events = self.plan.split == SplitMethod::Events;
        if events {
            [beside.timewait, beside.finwait2] = gauges.minisockets();
        }
        let abandoned = self.bpf.writers().map_err(unavailable)?.abandoned;
        let mut splits = lock(&self.splits);
        let cache = splits.entry(netns).or_default();
        let unsplit = !events && beside.minisockets > 0;
        if closing && beside.minisockets == 0 {
            cache.no_minisockets();
        }
        let orphans = half_open && cache.may_have_orphans(abandoned);
        if (unsplit || orphans) && effort != Effort::Last {
            // A walk that somebody waits for may cost as much as an audit that has a reason.
            let pace = self.settings.pace.urgent(cache.cost());
            let age = self.settings.split_interval.max(pace);
            if cache.is_older_than(age, effort == Effort::WalkPorts) {
                self.look_aside(netns, cache, abandoned)?;
            }
        }
        let split = cache.last();
        if unsplit {
            (beside.finwait2, beside.timewait) = (split.finwait2, split.timewait);
        }
        if orphans {
            beside.orphaned = split.orphaned;
        }
        Ok(beside)
    }

    /// Walks over everything but full sockets.
    fn look_aside(
        &self,
        netns: u32,
        cache: &mut SplitCache,
        abandoned: u64,
    ) -> Result<(), Refusal> {
        let cost = Cost::start();
        let live = self.ledger().live;
        let ports = self.bpf.port_keys(live).map_err(unavailable)?;
        let ports = ports.range((netns, 0)..=(netns, u16::MAX));
        let ports: BTreeSet<_> = ports.map(|&(_, port)| port).collect();
        let (all, ports) = match sock_diag::minisockets(&ports) {
            // A kernel without the module; the iterator needs four times as long, and does not
            // tell ports apart.
            Err(sock_diag::Error::Unsupported(_)) if self.plan.seed == SeedMethod::Iterator => {
                (aside(&self.bpf.walk_sockets().map_err(unavailable)?), None)
            }
            walk => {
                let MiniSplits { all, ports } = walk.map_err(unavailable)?;
                (all, Some(ports))
            }
        };
        let gauges = self.read(netns).map_err(unavailable)?.gauges;
        let requests = queues::requests(&self.listeners(netns, &gauges)?);
        let all = Split::new(&all, queues::total(&requests));
        cache.put_ports(all, ports.map(|ports| split::by_port(&ports, &requests)));
        cache.put(all, abandoned, cost.spent());
        Ok(())
    }

    /// Keeps what an audit's walk met beside full sockets.
    pub(super) fn keep_aside(
        &self,
        netns: u32,
        walked: &Walked,
        at_listeners: [u64; Family::COUNT],
        abandoned: u64,
    ) {
        let mut splits = lock(&self.splits);
        let cache = splits.entry(netns).or_default();
        let cost = cache.cost();
        cache.put(Split::new(&aside(walked), at_listeners), abandoned, cost);
    }

    /// Request sockets at the listeners of the calling thread's namespace, by family.
    pub(super) fn requests(
        &self,
        netns: u32,
        gauges: &Gauges,
    ) -> Result<[u64; Family::COUNT], Refusal> {
        match self.plan.seed {
            SeedMethod::Iterator => {
                let found = self.bpf.walk_listeners(self.listening(netns, gauges)?);
                Ok(found.map_err(unavailable)?.requests)
            }
            SeedMethod::Procfs => {
                let walk = sock_diag::minisockets(&BTreeSet::new());
                Ok(walk.map_err(unavailable)?.all.requests)
            }
        }
    }

    /// The listeners of the calling thread's namespace.
    pub(super) fn listeners(&self, netns: u32, gauges: &Gauges) -> Result<Vec<Listener>, Refusal> {
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
    fn listening(&self, netns: u32, gauges: &Gauges) -> Result<u64, Refusal> {
        let vouched = self
            .ledger()
            .book(self.netns, netns)
            .is_some_and(|book| book.doubt.is_none());
        if vouched {
            let counted = gauges.sum(&[State::Listen]);
            return Ok(u64::try_from(counted).unwrap_or(0));
        }
        sock_diag::listener_count().map_err(unavailable)
    }
}

/// What a walk met beside full sockets.
const fn aside(walked: &Walked) -> MiniSplit {
    MiniSplit {
        finwait2: walked.finwait2,
        timewait: walked.timewait,
        requests: walked.requests,
    }
}

/// The kernel's own count of timewait minisockets.
fn minisocket_count() -> Result<u64, Refusal> {
    procfs::timewait().map_err(unavailable)?.ok_or_else(|| {
        unavailable("read timewait count, on /proc/net/sockstat: no tw field; mount /proc")
    })
}
