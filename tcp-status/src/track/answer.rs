//! Answers: the live counters of a namespace, put together with what is [`super::beside`] them.

use std::{collections::BTreeMap, iter};

use tcp_status_common::state::{Family, State};

use super::{
    assemble::{Beside, assemble},
    beside::{Effort, UNRECORDED},
    gauge::Gauges,
    ledger::UNREACHABLE,
    ports::AllPorts,
    queues::{self, HalfOpen},
    reading::Reading,
    recount::APPEARED,
    tracker::{POISONED, Tracker, lock},
};
use crate::{
    kernel::{
        netns::{self, Target},
        plan::SplitMethod,
        procfs, sysctl,
    },
    server::{
        Source as _,
        protocol::{Refusal, RefusalKind, Show},
    },
    snapshot::{Counts, Events, Ports, Snapshot},
};
use tcp_status_common::counters::{NetnsId, OWN_NETNS};

/// The counts of IPv4 and of IPv6.
pub(super) type Families = [Counts; Family::COUNT];

impl Tracker {
    /// The counts of a namespace, as far as `state` needs them and `effort` allows.
    pub(super) fn counts(
        &self,
        netns: NetnsId,
        state: State,
        effort: Effort,
    ) -> Result<Families, Refusal> {
        self.within(netns, || {
            let split = self.hooks.split();
            let gauges = self.gauges(netns).map_err(unavailable)?;
            let requests = match state {
                State::SynRecv => self.requests(netns, &gauges)?,
                _ => [0; 2],
            };
            let beside = self.beside(netns, (split, &gauges), requests, &[state], effort)?;
            Ok(assemble(&gauges, &beside))
        })
    }

    /// The counts of one port, as far as `state` needs them; none if it is not kept apart.
    pub(super) fn port_counts(
        &self,
        netns: NetnsId,
        port: u16,
        state: State,
    ) -> Result<Option<Families>, Refusal> {
        let split = self.hooks.split();
        let Some(gauges) = self.port_gauges(netns, port)? else {
            return Ok(None);
        };
        self.within(netns, || {
            let all = self.gauges(netns).map_err(unavailable)?;
            let mut half_open = HalfOpen::default();
            if state == State::SynRecv {
                half_open = self.half_open(netns, &all)?.1;
            }
            let requests = half_open.total();
            self.beside(netns, (split, &all), requests, &[state], Effort::WalkPorts)?;
            Ok(Some(self.port_row(
                netns,
                &[port],
                (split, &gauges),
                &half_open,
            )))
        })
    }

    /// Everything about one namespace. Peaks and rates reach `window` seconds back.
    pub(super) fn snapshot(&self, netns: NetnsId, window: u32) -> Result<Snapshot, Refusal> {
        let split = self.hooks.split();
        self.snapshot_with(netns, window, (split, &self.ports_by_namespace()?))
    }

    fn snapshot_with(
        &self,
        netns: NetnsId,
        window: u32,
        (split, ports): (SplitMethod, &AllPorts),
    ) -> Result<Snapshot, Refusal> {
        let ports = ports
            .range((netns, 0)..=(netns, u16::MAX))
            .map(|(&(_, port), &gauges)| (port, gauges))
            .collect();
        match self.enter(netns) {
            Ok(None) => self.snapshot_here(netns, window, (split, &ports)),
            Ok(Some(target)) => netns::within(&target, || {
                self.snapshot_here(netns, window, (split, &ports))
            })?,
            Err(error) => {
                log::debug!(error:%, netns = self.inode(netns); "counted from outside");
                self.snapshot_from_outside(netns)
            }
        }
    }

    /// Everything about every namespace that is counted, the own one first.
    pub(super) fn snapshots(&self, window: u32) -> Result<Vec<Snapshot>, Refusal> {
        let all = self.all_snapshots(window)?.into_iter();
        Ok(all.map(|(_, snapshot)| snapshot).collect())
    }

    fn all_snapshots(&self, window: u32) -> Result<Vec<(NetnsId, Snapshot)>, Refusal> {
        let living = self.living().map_err(unavailable)?.into_keys();
        let split = self.hooks.split();
        let ports = (split, &self.ports_by_namespace()?);
        iter::once(OWN_NETNS)
            .chain(living)
            .map(|netns| Ok((netns, self.snapshot_with(netns, window, ports)?)))
            .collect()
    }

    /// One port of the tracker's namespace, and of every other one that has a listener there.
    pub(super) fn port_snapshots(&self, port: u16, window: u32) -> Result<Vec<Snapshot>, Refusal> {
        let listens = |one: &Snapshot| {
            let mut tracked = one.ports.tracked.iter().map(|one| one.port);
            let mut listening = one.listeners.iter().map(|one| one.port);
            tracked.any(|tracked| tracked == port) || listening.any(|listens| listens == port)
        };
        let mut snapshots = Vec::new();
        for (netns, one) in self.all_snapshots(window)? {
            let own = netns == OWN_NETNS;
            if !own && !listens(&one) {
                continue;
            }
            match self.one_port(netns, port, window) {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(error) if !own => log::debug!(error:%, netns = one.netns; "namespace left out"),
                Err(error) => return Err(error),
            }
        }
        Ok(snapshots)
    }

    /// One port of a namespace that is counted: by a scan, where it is not kept apart.
    pub(super) fn one_port(
        &self,
        netns: NetnsId,
        port: u16,
        window: u32,
    ) -> Result<Snapshot, Refusal> {
        if self.is_walked(netns, port)
            && let Some(snapshot) = self.port_snapshot(netns, port, window)?
        {
            return Ok(snapshot);
        }
        let query = Show {
            port: Some(port),
            netns: (netns != OWN_NETNS).then(|| self.inode(netns).to_string()),
            ..Show::default()
        };
        let scanned = self.scan.show(&query)?.pop();
        let mut snapshot = scanned.ok_or_else(|| unavailable("cannot scan: no answer"))?;
        snapshot.all_netns = self.settings.all_namespaces;
        Ok(snapshot)
    }

    /// As [`Tracker::snapshot`], limited to one port; none if it is not kept apart.
    fn port_snapshot(
        &self,
        netns: NetnsId,
        port: u16,
        window: u32,
    ) -> Result<Option<Snapshot>, Refusal> {
        let split = self.hooks.split();
        let Some(gauges) = self.port_gauges(netns, port)? else {
            return Ok(None);
        };
        self.within(netns, || {
            let only = BTreeMap::from([(port, gauges)]);
            let whole = self.snapshot_here(netns, window, (split, &only))?;
            let all = self.gauges(netns).map_err(unavailable)?;
            let half_open = self.half_open(netns, &all)?.1;
            let counts = self.port_row(netns, &[port], (split, &gauges), &half_open);
            let mut listeners = whole.listeners;
            listeners.retain(|listener| listener.port == port);
            let Snapshot { tier, netns, .. } = whole;
            Ok(Some(Snapshot {
                tier_reason: whole.tier_reason,
                degraded: whole.degraded,
                netns_name: whole.netns_name,
                all_netns: whole.all_netns,
                port: Some(port),
                drift: whole.drift,
                listeners,
                ports: Ports {
                    outgoing: None,
                    other: None,
                    ..whole.ports
                },
                ..Snapshot::of(tier, netns, counts)
            }))
        })
    }

    fn snapshot_here(
        &self,
        netns: NetnsId,
        window: u32,
        (split, ports): (SplitMethod, &BTreeMap<u16, Gauges>),
    ) -> Result<Snapshot, Refusal> {
        let reading = self.read(netns).map_err(unavailable)?;
        let gauges = reading.gauges;
        let (mut listeners, half_open) = self.half_open(netns, &gauges)?;
        let requests = half_open.total();
        let beside = self.beside(
            netns,
            (split, &gauges),
            requests,
            &State::ALL,
            Effort::WalkPorts,
        )?;
        let mut snapshot = self.describe(netns, &reading, assemble(&gauges, &beside))?;
        (snapshot.overflows, snapshot.syncookies) =
            procfs::queue_counters().map_err(unavailable)?;
        let settings = sysctl::settings();
        snapshot.ephemeral_ports = settings.ephemeral_ports;
        queues::limit(&mut listeners, &settings);
        snapshot.ports = self.ports(netns, (split, &gauges), ports, &half_open)?;
        if netns == OWN_NETNS {
            let known = self.known(netns, split, &snapshot.states, &beside)?;
            let samples = lock(&self.samples);
            samples.tell(window, &reading, &known, &mut snapshot, &mut listeners);
        }
        snapshot.listeners = listeners;
        Ok(snapshot)
    }

    /// What events alone tell of a namespace that cannot be entered.
    fn snapshot_from_outside(&self, netns: NetnsId) -> Result<Snapshot, Refusal> {
        let reading = self.read(netns).map_err(unavailable)?;
        let [timewait, finwait2] = reading.gauges.minisockets();
        let beside = Beside {
            minisockets: timewait.iter().chain(&finwait2).sum(),
            finwait2,
            timewait,
            ..Beside::default()
        };
        let counts = assemble(&reading.gauges, &beside);
        let mut snapshot = self.describe(netns, &reading, counts)?;
        snapshot.degraded.get_or_insert(UNREACHABLE.into());
        Ok(snapshot)
    }

    /// What the books say beside the counts.
    fn describe(
        &self,
        netns: NetnsId,
        reading: &Reading,
        counts: Families,
    ) -> Result<Snapshot, Refusal> {
        let unrecorded = self.unrecorded()?;
        let ledger = self.ledger();
        let name = self
            .known
            .read()
            .expect(POISONED)
            .get(&netns)
            .and_then(|known| known.name.clone());
        let (tier, tier_reason) = self.hooks.tier();
        let mut snapshot = Snapshot {
            tier_reason,
            netns_name: name,
            all_netns: self.settings.all_namespaces,
            transitions: Some(reading.transitions.clone()),
            events: Some(Events {
                counted: reading.events,
                missed: ledger.missed,
            }),
            ..Snapshot::of(tier, self.inode(netns), counts)
        };
        match ledger.book(netns) {
            Some(book) => {
                snapshot.degraded = ledger.degraded(book);
                snapshot.drift = ledger.drift(book);
                snapshot.stale = book.ages.as_ref().map(|ages| ages.stale(&snapshot.states));
            }
            None => snapshot.degraded = Some(APPEARED.into()),
        }
        if unrecorded != ledger.unrecorded {
            snapshot.degraded.get_or_insert(UNRECORDED.into());
        }
        Ok(snapshot)
    }

    /// Runs `f` inside a namespace that is counted.
    fn within<T: Send>(
        &self,
        netns: NetnsId,
        f: impl FnOnce() -> Result<T, Refusal> + Send,
    ) -> Result<T, Refusal> {
        match self.enter(netns)? {
            Some(target) => netns::within(&target, f)?,
            None => f(),
        }
    }

    /// The way into a namespace that is counted; none where that is the tracker's own.
    fn enter(&self, netns: NetnsId) -> Result<Option<Target>, netns::Error> {
        if netns == OWN_NETNS {
            return Ok(None);
        }
        let inode = self.inode(netns);
        let known = self.known.read().expect(POISONED);
        let target = known.get(&netns).map(|known| known.open(inode));
        drop(known);
        let target = match target.transpose()?.flatten() {
            Some(target) => target,
            None => netns::resolve(&inode.to_string())?,
        };
        // If it is there while the other is held open, both are the same.
        match self.bpf.living_namespace(netns) {
            Ok(Some(inode)) if inode == target.inode() => Ok(Some(target)),
            _ => Err(netns::Error::Gone { inode }),
        }
    }
}

pub(super) fn unavailable(why: impl std::fmt::Display) -> Refusal {
    Refusal {
        kind: RefusalKind::Unavailable,
        message: why.to_string(),
    }
}
