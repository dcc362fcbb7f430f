//! Answers: the live counters of a namespace, put together with what is [`super::beside`] them.

use std::collections::{BTreeMap, BTreeSet};

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

/// The counts of IPv4 and of IPv6.
pub(super) type Families = [Counts; Family::COUNT];

impl Tracker {
    /// The counts of a namespace, as far as `state` needs them and `effort` allows.
    pub(super) fn counts(
        &self,
        netns: u32,
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
        netns: u32,
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
    pub(super) fn snapshot(&self, netns: u32, window: u32) -> Result<Snapshot, Refusal> {
        let split = self.hooks.split();
        self.snapshot_with(netns, window, (split, &self.ports_by_namespace()?))
    }

    fn snapshot_with(
        &self,
        netns: u32,
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
                log::debug!(error:%, netns; "counted from outside");
                self.snapshot_from_outside(netns)
            }
        }
    }

    /// Everything about every namespace that is counted, the own one first.
    pub(super) fn snapshots(&self, window: u32) -> Result<Vec<Snapshot>, Refusal> {
        let (live, others) =
            self.live_bank_with(|ledger| ledger.others.keys().copied().collect::<BTreeSet<_>>());
        let appeared = live.other_namespaces().map_err(unavailable)?;
        let others: BTreeSet<_> = others.into_iter().chain(appeared).collect();
        let split = self.hooks.split();
        let ports = (split, &self.ports_by_namespace()?);
        let mut snapshots = vec![self.snapshot_with(self.netns, window, ports)?];
        for netns in others {
            let snapshot = self.snapshot_with(netns, window, ports)?;
            // One that is gone, until an audit closes its book.
            if snapshot.states.total() > 0 || self.knows(netns) {
                snapshots.push(snapshot);
            }
        }
        Ok(snapshots)
    }

    /// One port of the tracker's namespace, and of every other one that has a listener there.
    pub(super) fn port_snapshots(&self, port: u16, window: u32) -> Result<Vec<Snapshot>, Refusal> {
        let listens = |one: &Snapshot| {
            let mut tracked = one.ports.tracked.iter().map(|one| one.port);
            let mut listening = one.listeners.iter().map(|one| one.port);
            tracked.any(|tracked| tracked == port) || listening.any(|listens| listens == port)
        };
        let mut snapshots = Vec::new();
        for one in self.snapshots(window)? {
            let own = one.netns == self.netns;
            if !own && !listens(&one) {
                continue;
            }
            match self.one_port(one.netns, port, window) {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(error) if !own => log::debug!(error:%, netns = one.netns; "namespace left out"),
                Err(error) => return Err(error),
            }
        }
        Ok(snapshots)
    }

    /// One port of a namespace that is counted: by a scan, where it is not kept apart.
    pub(super) fn one_port(&self, netns: u32, port: u16, window: u32) -> Result<Snapshot, Refusal> {
        if self.is_walked(netns, port)
            && let Some(snapshot) = self.port_snapshot(netns, port, window)?
        {
            return Ok(snapshot);
        }
        let query = Show {
            port: Some(port),
            netns: (netns != self.netns).then(|| netns.to_string()),
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
        netns: u32,
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
        netns: u32,
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
        if netns == self.netns {
            let known = self.known(netns, split, &snapshot.states, &beside)?;
            let samples = lock(&self.samples);
            samples.tell(window, &reading, &known, &mut snapshot, &mut listeners);
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
        let mut snapshot = self.describe(netns, &reading, counts)?;
        snapshot.degraded.get_or_insert(UNREACHABLE.into());
        Ok(snapshot)
    }

    /// What the books say beside the counts.
    fn describe(
        &self,
        netns: u32,
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
            ..Snapshot::of(tier, netns, counts)
        };
        match ledger.book(self.netns, netns) {
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
        let known = self.known.read().expect(POISONED);
        let target = known.get(&netns).map(|known| known.open(netns));
        drop(known);
        match target.transpose()?.flatten() {
            Some(target) => Ok(Some(target)),
            None => netns::resolve(&netns.to_string()).map(Some),
        }
    }

    /// Whether something led into a namespace when last looked.
    fn knows(&self, netns: u32) -> bool {
        let known = self.known.read().expect(POISONED);
        known.contains_key(&netns)
    }
}

pub(super) fn unavailable(why: impl std::fmt::Display) -> Refusal {
    Refusal {
        kind: RefusalKind::Unavailable,
        message: why.to_string(),
    }
}
