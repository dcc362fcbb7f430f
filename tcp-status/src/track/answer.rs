//! Answers: the live counters of a namespace, put together with what is [`super::beside`] them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use tcp_status_common::state::{Family, State};

use super::{
    assemble::{Beside, assemble, assemble_port},
    beside::Effort,
    gauge::Gauges,
    queues::{self, Requests},
    recount::{APPEARED, UNREACHABLE},
    split::Split,
    tracker::{Reading, Tracker, lock},
};
use crate::{
    bpf::PortSum,
    kernel::{
        netns::{self, Target},
        plan::{SeedMethod, SplitMethod},
        procfs,
    },
    server::{
        Source as _,
        protocol::{Refusal, RefusalKind, Show},
    },
    snapshot::{Counts, Events, PortCounts, Ports, Snapshot},
};

/// The counts of IPv4 and of IPv6.
type Families = [Counts; Family::COUNT];

/// The sockets of every port that is kept apart, by namespace and port.
type AllPorts = BTreeMap<(u32, u16), PortSum>;

impl Tracker {
    /// The counts of a namespace, as far as `state` needs them.
    pub(super) fn counts(&self, netns: u32, state: State) -> Result<Families, Refusal> {
        self.within(netns, || {
            let gauges = self.gauges(netns).map_err(unavailable)?;
            let requests = match state {
                State::SynRecv => self.requests(netns, &gauges)?,
                _ => [0; 2],
            };
            let beside = self.beside(netns, &gauges, requests, &[state], Effort::Walk)?;
            Ok(assemble(&gauges, &beside))
        })
    }

    /// The counts of one port, as far as `state` needs them; none if it is not kept apart.
    pub(super) fn port_counts(
        &self,
        netns: u32,
        port: u16,
        state: State,
    ) -> Result<Option<Families>, Refusal> {
        let Some(sum) = self.port_sum(netns, port)? else {
            return Ok(None);
        };
        self.within(netns, || {
            let gauges = self.gauges(netns).map_err(unavailable)?;
            let mut requests = Requests::new();
            if state == State::SynRecv {
                requests = queues::requests(&self.listeners(netns, &gauges)?);
            }
            let all = queues::total(&requests);
            self.beside(netns, &gauges, all, &[state], Effort::WalkPorts)?;
            Ok(Some(self.assemble_port(netns, port, sum, &requests)))
        })
    }

    /// Everything about one namespace. Peaks and rates reach `window` seconds back.
    pub(super) fn snapshot(&self, netns: u32, window: u32) -> Result<Snapshot, Refusal> {
        self.snapshot_with(netns, window, &self.ports_by_namespace()?)
    }

    fn snapshot_with(
        &self,
        netns: u32,
        window: u32,
        ports: &AllPorts,
    ) -> Result<Snapshot, Refusal> {
        let ports = ports
            .range((netns, 0)..=(netns, u16::MAX))
            .map(|(&(_, port), &sum)| (port, sum))
            .collect();
        match self.enter(netns) {
            Ok(None) => self.snapshot_here(netns, window, &ports),
            Ok(Some(target)) => {
                netns::within(&target, || self.snapshot_here(netns, window, &ports))?
            }
            Err(error) => {
                log::debug!(error:%, netns; "counted from outside");
                self.snapshot_from_outside(netns)
            }
        }
    }

    /// Everything about every namespace that is counted, the own one first.
    pub(super) fn snapshots(&self, window: u32) -> Result<Vec<Snapshot>, Refusal> {
        let (live, others) = {
            let ledger = self.ledger();
            let others: BTreeSet<_> = ledger.others.keys().copied().collect();
            (ledger.live, others)
        };
        let appeared = self.bpf.other_namespaces(live).map_err(unavailable)?;
        let others: BTreeSet<_> = others.into_iter().chain(appeared).collect();
        let ports = self.ports_by_namespace()?;
        let mut snapshots = vec![self.snapshot_with(self.netns, window, &ports)?];
        for netns in others {
            let snapshot = self.snapshot_with(netns, window, &ports)?;
            // One that is gone, until an audit closes its book.
            if snapshot.states.total() > 0 || self.knows(netns) {
                snapshots.push(snapshot);
            }
        }
        Ok(snapshots)
    }

    /// As [`Tracker::snapshot`], limited to one port; none if it is not kept apart.
    pub(super) fn port_snapshot(
        &self,
        netns: u32,
        port: u16,
        window: u32,
    ) -> Result<Option<Snapshot>, Refusal> {
        let Some(sum) = self.port_sum(netns, port)? else {
            return Ok(None);
        };
        self.within(netns, || {
            let whole = self.snapshot_here(netns, window, &[(port, sum)].into())?;
            let requests = queues::requests(&whole.listeners);
            let counts = self.assemble_port(netns, port, sum, &requests);
            let mut listeners = whole.listeners;
            listeners.retain(|listener| listener.port == port);
            let Snapshot { tier, netns, .. } = whole;
            Ok(Some(Snapshot {
                tier_reason: whole.tier_reason,
                degraded: whole.degraded,
                netns_name: whole.netns_name,
                port: Some(port),
                drift: whole.drift,
                listeners,
                ports: whole.ports,
                ..Snapshot::of(tier, netns, counts)
            }))
        })
    }

    fn snapshot_here(
        &self,
        netns: u32,
        window: u32,
        ports: &BTreeMap<u16, PortSum>,
    ) -> Result<Snapshot, Refusal> {
        let reading = self.read(netns).map_err(unavailable)?;
        let gauges = reading.gauges;
        let mut listeners = self.listeners(netns, &gauges)?;
        let requests = queues::requests(&listeners);
        let all = queues::total(&requests);
        let beside = self.beside(netns, &gauges, all, &State::ALL, Effort::WalkPorts)?;
        let counts = assemble(&gauges, &beside);
        let mut snapshot = self.describe(netns, &reading, counts);
        snapshot.overflows = procfs::overflows().map_err(unavailable)?;
        snapshot.ports = self.ports(netns, ports, &requests)?;
        if netns == self.netns {
            let samples = lock(&self.samples);
            samples.tell(window, &reading, &mut snapshot, &mut listeners);
        }
        snapshot.listeners = listeners;
        Ok(snapshot)
    }

    /// What events alone tell of a namespace that cannot be entered.
    fn snapshot_from_outside(&self, netns: u32) -> Result<Snapshot, Refusal> {
        let reading = self.read(netns).map_err(unavailable)?;
        let [timewait, finwait2] = reading.gauges.minisockets();
        let beside = Beside {
            minisockets: timewait.iter().chain(&finwait2).sum(),
            finwait2,
            timewait,
            ..Beside::default()
        };
        let counts = assemble(&reading.gauges, &beside);
        let mut snapshot = self.describe(netns, &reading, counts);
        snapshot.degraded.get_or_insert(UNREACHABLE.into());
        Ok(snapshot)
    }

    /// What the books say beside the counts.
    fn describe(&self, netns: u32, reading: &Reading, counts: Families) -> Snapshot {
        let ledger = self.ledger();
        let name = self
            .known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&netns)
            .and_then(|known| known.name.clone());
        let mut snapshot = Snapshot {
            tier_reason: self.plan.reason.clone(),
            netns_name: name,
            transitions: reading.transitions.clone(),
            events: Events {
                counted: reading.events,
                missed: ledger.missed,
            },
            ..Snapshot::of(self.plan.tier(), netns, counts)
        };
        match ledger.book(self.netns, netns) {
            Some(book) => {
                snapshot.degraded = ledger.degraded(book, &reading.gauges);
                snapshot.drift = ledger.drift(book);
                snapshot.stale = book.ages.as_ref().map(|ages| ages.stale(&snapshot.states));
            }
            None => snapshot.degraded = Some(APPEARED.into()),
        }
        snapshot
    }

    /// The ports of a namespace, each with its counts.
    fn ports(
        &self,
        netns: u32,
        sums: &BTreeMap<u16, PortSum>,
        requests: &Requests,
    ) -> Result<Ports, Refusal> {
        if self.plan.seed == SeedMethod::Procfs {
            // Without an iterator nothing enters the ports of listeners that were there first.
            let scanned = self.scan.show(&Show::default())?;
            return Ok(scanned
                .into_iter()
                .next()
                .map(|one| one.ports)
                .unwrap_or_default());
        }
        // Given back before the splits are asked for: they are held while books are read.
        let (unaudited, other) = {
            let ledger = self.ledger();
            let walked = |port: &&u16| ledger.walked_ports.contains(&(netns, **port));
            let unaudited = sums.keys().filter(|port| !walked(port)).copied().collect();
            let other = match netns == self.netns {
                true => self.bpf.other_ports(ledger.live).map_err(unavailable)?,
                false => None,
            };
            (unaudited, other)
        };
        let counts = |(&port, &sum): (&u16, &PortSum)| PortCounts {
            port,
            states: both(self.assemble_port(netns, port, sum, requests)),
        };
        Ok(Ports {
            limit: Some(self.settings.limits.ports),
            tracked: sums.iter().map(counts).collect(),
            other: other.map(|sum| both(assemble(&Gauges::from(sum), &Beside::default()))),
            unaudited,
        })
    }

    fn assemble_port(&self, netns: u32, port: u16, sum: PortSum, requests: &Requests) -> Families {
        let gauges = Gauges::from(sum);
        let mut split = lock(&self.splits)
            .get(&netns)
            .map_or_else(Split::default, |cache| cache.port(port));
        if self.plan.split == SplitMethod::Events {
            [split.timewait, split.finwait2] = gauges.minisockets();
        }
        let requests = requests.get(&port).copied().unwrap_or_default();
        assemble_port(&gauges, &split, requests)
    }

    fn port_sum(&self, netns: u32, port: u16) -> Result<Option<PortSum>, Refusal> {
        // Held, so that the bank is not emptied meanwhile.
        let ledger = self.ledger();
        let sum = self.bpf.port(netns, port, ledger.live);
        let base = ledger
            .book(self.netns, netns)
            .and_then(|book| book.ports.get(&port));
        Ok(sum.map_err(unavailable)?.map(|sum| plus(sum, base)))
    }

    fn ports_by_namespace(&self) -> Result<AllPorts, Refusal> {
        // Held, so that the bank is not emptied meanwhile.
        let ledger = self.ledger();
        let mut ports = self.bpf.ports(ledger.live).map_err(unavailable)?;
        for (&(netns, port), sum) in &mut ports {
            let book = ledger.book(self.netns, netns);
            *sum = plus(*sum, book.and_then(|book| book.ports.get(&port)));
        }
        Ok(ports)
    }

    /// Runs `f` inside a namespace that is counted.
    fn within<T: Send>(
        &self,
        netns: u32,
        f: impl FnOnce() -> Result<T, Refusal> + Send,
    ) -> Result<T, Refusal> {
        match self.enter(netns)? {
            Some(target) => netns::within(&target, f)?,
            None => f(),
        }
    }

    /// The way into a namespace that is counted; none where that is the tracker's own.
    fn enter(&self, netns: u32) -> Result<Option<Target>, netns::Error> {
        if netns == self.netns {
            return Ok(None);
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let target = known.get(&netns).map(|known| known.open(netns));
        drop(known);
        match target.transpose()?.flatten() {
            Some(target) => Ok(Some(target)),
            None => netns::resolve(&netns.to_string()).map(Some),
        }
    }

    /// Whether something led into a namespace when last looked.
    fn knows(&self, netns: u32) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.contains_key(&netns)
    }
}

fn both([mut sum, v6]: Families) -> Counts {
    sum += &v6;
    sum
}

/// What the bank has of a port, and what is added to it.
fn plus(sum: PortSum, base: Option<&Gauges>) -> PortSum {
    base.map_or(sum, |&base| (Gauges::from(sum) + base).0)
}

pub(super) fn unavailable(why: impl std::fmt::Display) -> Refusal {
    Refusal {
        kind: RefusalKind::Unavailable,
        message: why.to_string(),
    }
}
