//! Answers: the live counters of a namespace, put together with [`super::aux_counts`].

use std::collections::BTreeMap;

use tcp_status_common::{
    counters::{NetnsId, OVERFLOW_NETNS, OWN_NETNS},
    state::State,
};

use super::{
    api_error::unavailable,
    assemble::{FamilyCounts, assemble},
    aux_counts::{StalenessPolicy, UNRECORDED},
    ports::Apart,
    queues::{self, HalfOpen},
    reading::Reading,
};
use crate::{
    kernel::{
        netns::{self, Target},
        procfs, sysctl,
    },
    serve::{
        Source,
        protocol::{ApiError, Show},
    },
    snapshot::{Ends, Events, Ports, Snapshot},
    track::{
        audit::state::{APPEARED, UNREACHABLE},
        destinations::no_local_port::Destinations,
        resources::sync::{POISONED, lock},
        tracker::Tracker,
    },
};

/// The name of all namespaces together beyond `--max-namespaces`. Their inode number is 0.
const OVERFLOW_NAME: &str = "(beyond --max-namespaces)";

/// Why there is no accept latency of another namespace.
const OTHER_NETNS_LATENCY: &str =
    "accept latency is measured only in the tracker's network namespace";

/// What concerns all namespaces.
pub(crate) struct SharedReading {
    destinations: Destinations,
    /// Closed listeners that could not be recorded since start.
    unrecorded: u64,
}

impl Tracker {
    /// The counts of a namespace, as far as `state` needs them and `staleness` allows.
    pub(crate) fn counts(
        &self,
        netns: NetnsId,
        state: State,
        staleness: StalenessPolicy,
    ) -> Result<FamilyCounts, ApiError> {
        if netns != OWN_NETNS && self.bpf.lists_tables() {
            let gauges = self.gauges(netns).map_err(unavailable)?;
            let mut aux = self.aux_counts_by_pass(netns, &gauges)?;
            if state == State::SynRecv {
                aux.requests = self.requests_outside(netns)?;
            }
            return Ok(assemble(&gauges, &aux));
        }
        self.within_netns(netns, || {
            let split = self.hooks.split();
            let gauges = self.gauges(netns).map_err(unavailable)?;
            let requests = match state {
                State::SynRecv => self.request_sockets(netns, &gauges)?,
                _ => [0; 2],
            };
            let aux = self.aux_counts(netns, (split, &gauges), requests, &[state], staleness)?;
            Ok(assemble(&gauges, &aux))
        })
    }

    /// The counts of one port, as far as `state` needs them; none if it is not kept apart.
    pub(crate) fn port_counts(
        &self,
        netns: NetnsId,
        port: u16,
        state: State,
    ) -> Result<Option<FamilyCounts>, ApiError> {
        let split = self.hooks.split();
        let Some(gauges) = self.port_gauges(netns, port)? else {
            return Ok(None);
        };
        self.within_netns(netns, || {
            let all = self.gauges(netns).map_err(unavailable)?;
            let mut half_open = HalfOpen::default();
            if state == State::SynRecv {
                half_open = self.half_open(netns, &all)?.1;
            }
            let requests = half_open.total();
            self.aux_counts(
                netns,
                (split, &all),
                requests,
                &[state],
                StalenessPolicy::RefreshPorts,
            )?;
            Ok(Some(self.port_row(
                netns,
                &[port],
                (split, &gauges),
                &half_open,
            )))
        })
    }

    /// Everything about one namespace. Peaks and rates reach `window` seconds back.
    pub(crate) fn snapshot(&self, netns: NetnsId, window: u32) -> Result<Snapshot, ApiError> {
        self.snapshot_with(netns, window, &self.read_apart()?)
    }

    fn snapshot_with(
        &self,
        netns: NetnsId,
        window: u32,
        apart: &Apart,
    ) -> Result<Snapshot, ApiError> {
        if netns == OVERFLOW_NETNS {
            let mut snapshot = self.snapshot_of_overflow()?;
            snapshot.netns_name = Some(OVERFLOW_NAME.into());
            return Ok(snapshot);
        }
        match self.open_netns(netns) {
            Ok(None) => self.snapshot_here(netns, window, apart),
            Ok(Some(target)) => {
                netns::within(&target, || self.snapshot_here(netns, window, apart))?
            }
            Err(error) => {
                log::debug!(error:%, netns = self.inode(netns); "namespace not entered: counts from events only");
                let mut snapshot = self.snapshot_from_outside(netns, apart)?;
                if !self.bpf.lists_tables() {
                    snapshot.degraded.get_or_insert(UNREACHABLE.into());
                }
                Ok(snapshot)
            }
        }
    }

    /// Everything about every namespace that is counted, the own one first.
    pub(crate) fn snapshots(&self, window: u32) -> Result<Vec<Snapshot>, ApiError> {
        let all = self.all_snapshots(window)?.into_iter();
        Ok(all.map(|(_, snapshot)| snapshot).collect())
    }

    fn all_snapshots(&self, window: u32) -> Result<Vec<(NetnsId, Snapshot)>, ApiError> {
        let records = self.live_records().map_err(unavailable)?;
        let overflow = self.audit_state().others.contains_key(&OVERFLOW_NETNS);
        let apart = &self.read_apart()?;
        let snapshot = |netns| Ok((netns, self.snapshot_with(netns, window, apart)?));
        let mut snapshots = vec![snapshot(OWN_NETNS)?];
        if self.bpf.lists_tables() {
            snapshots.extend(self.snapshots_from_outside(&records, apart)?);
        } else {
            let others = records.into_iter().map(|(netns, _)| snapshot(netns));
            snapshots.extend(others.collect::<Result<Vec<_>, ApiError>>()?);
        }
        if overflow {
            snapshots.push(snapshot(OVERFLOW_NETNS)?);
        }
        Ok(snapshots)
    }

    /// One port of the tracker's namespace, and of every other one that has a listener there.
    pub(crate) fn port_snapshots(&self, port: u16, window: u32) -> Result<Vec<Snapshot>, ApiError> {
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
                Err(error) if !own => log::debug!(error:%, netns = one.netns; "namespace omitted"),
                Err(error) => return Err(error),
            }
        }
        Ok(snapshots)
    }

    /// One port of a namespace that is counted: by a scan, where it is not kept apart.
    pub(crate) fn one_port(
        &self,
        netns: NetnsId,
        port: u16,
        window: u32,
    ) -> Result<Snapshot, ApiError> {
        if self.is_port_tracked(netns, port)
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
        if netns == OWN_NETNS {
            self.set_units(&mut snapshot.listeners);
        }
        Ok(snapshot)
    }

    /// As [`Tracker::snapshot`], limited to one port; none if it is not kept apart.
    fn port_snapshot(
        &self,
        netns: NetnsId,
        port: u16,
        window: u32,
    ) -> Result<Option<Snapshot>, ApiError> {
        let split = self.hooks.split();
        let Some(gauges) = self.port_gauges(netns, port)? else {
            return Ok(None);
        };
        self.within_netns(netns, || {
            let ends = self.port_ends(netns, port).map_err(unavailable)?;
            let only = Apart {
                split,
                ports: BTreeMap::from([((netns, port), gauges)]),
                ends: BTreeMap::from([(netns, ends)]),
                cgroups: Err(String::new()),
            };
            let whole = self.snapshot_here(netns, window, &only)?;
            let all = self.gauges(netns).map_err(unavailable)?;
            let half_open = self.half_open(netns, &all)?.1;
            let counts = self.port_row(netns, &[port], (split, &gauges), &half_open);
            let mut listeners = whole.listeners;
            listeners.retain(|listener| listener.port == port);
            let mut accept_latency = whole.accept_latency;
            if let Some(ports) = &mut accept_latency {
                ports.retain(|one| one.port == Some(port));
            }
            let Snapshot { tier, netns, .. } = whole;
            Ok(Some(Snapshot {
                tier_reason: whole.tier_reason,
                degraded: whole.degraded,
                netns_name: whole.netns_name,
                all_netns: whole.all_netns,
                port: Some(port),
                drift: whole.drift,
                listeners,
                accept_latency,
                accept_latency_reason: whole.accept_latency_reason,
                ports: Ports {
                    outgoing: None,
                    other: None,
                    other_ports: Vec::new(),
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
        apart: &Apart,
    ) -> Result<Snapshot, ApiError> {
        let split = apart.split;
        let reading = self.read(netns).map_err(unavailable)?;
        let gauges = reading.gauges;
        let (mut listeners, half_open) = self.half_open(netns, &gauges)?;
        let requests = half_open.total();
        let aux = self.aux_counts(
            netns,
            (split, &gauges),
            requests,
            &State::ALL,
            StalenessPolicy::RefreshPorts,
        )?;
        // Before the total, which so is no less than theirs.
        let shared = self.read_shared()?;
        let counts = assemble(&gauges, &aux);
        let mut snapshot = self.describe(netns, &reading, counts, &shared);
        (snapshot.overflows, snapshot.syncookies) =
            procfs::queue_counters().map_err(unavailable)?;
        let settings = sysctl::settings();
        snapshot.ephemeral_ports = settings.ephemeral_ports;
        snapshot.reserved_ports = settings.reserved_ports;
        if netns == OWN_NETNS {
            snapshot.fullest_destination = self.fullest_destination();
        }
        queues::set_syn_queue_limits(&mut listeners, &settings);
        snapshot.ports = self.ports(netns, (split, &gauges), apart, &half_open)?;
        self.set_cgroups(netns, &apart.cgroups, (&gauges, &half_open), &mut snapshot);
        self.set_units(&mut listeners);
        if netns == OWN_NETNS {
            if snapshot.accept_latency_reason.is_none() {
                let measured = self.accept.read(&self.bpf).map_err(unavailable)?;
                snapshot.accept_latency = Some(measured);
            }
            let range = self.gauge_range(netns, split, &snapshot.states, &aux)?;
            let mut samples = lock(&self.samples);
            samples.annotate(window, &reading, &range, &mut snapshot, &mut listeners);
        }
        snapshot.listeners = listeners;
        Ok(snapshot)
    }

    /// What concerns all namespaces, once for each answer.
    pub(crate) fn read_shared(&self) -> Result<SharedReading, ApiError> {
        Ok(SharedReading {
            destinations: self.destinations().map_err(unavailable)?,
            unrecorded: self.unrecorded()?,
        })
    }

    /// What the audit state says beside the counts.
    pub(crate) fn describe(
        &self,
        netns: NetnsId,
        reading: &Reading,
        counts: FamilyCounts,
        shared: &SharedReading,
    ) -> Snapshot {
        let ends = match netns {
            OWN_NETNS => Some(Ends::from_counts(&self.bpf.ends())),
            _ => None,
        };
        let audit_state = self.audit_state();
        let name = self
            .netns_entries
            .read()
            .expect(POISONED)
            .get(&netns)
            .and_then(|entry| entry.name.clone());
        let (tier, tier_reason) = self.hooks.tier();
        let mut snapshot = Snapshot {
            tier_reason,
            accept_latency_reason: match netns {
                OWN_NETNS => self.accept.reason(),
                _ => Some(OTHER_NETNS_LATENCY.into()),
            },
            netns_name: name,
            all_netns: self.settings.all_namespaces,
            transitions: Some(reading.transitions.clone()),
            events: Some(Events {
                counted: reading.events,
                missed: audit_state.missed,
            }),
            ends,
            no_local_port_destinations: Some(shared.destinations.of(netns)),
            ..Snapshot::of(tier, self.inode(netns), counts)
        };
        match audit_state.netns_state(netns) {
            Some(netns_state) => {
                snapshot.degraded = audit_state.degraded(netns_state);
                snapshot.drift = audit_state.drift(netns_state);
                snapshot.stale = netns_state
                    .idle_ages
                    .as_ref()
                    .map(|idle_ages| idle_ages.stale(&snapshot.states));
            }
            None => snapshot.degraded = Some(APPEARED.into()),
        }
        if reading.degraded.is_some() {
            snapshot.degraded.clone_from(&reading.degraded);
        }
        if shared.unrecorded > audit_state.unrecorded {
            snapshot.degraded.get_or_insert(UNRECORDED.into());
        }
        snapshot
    }

    /// Runs `f` inside a namespace that is counted.
    fn within_netns<T: Send>(
        &self,
        netns: NetnsId,
        f: impl FnOnce() -> Result<T, ApiError> + Send,
    ) -> Result<T, ApiError> {
        match self.open_netns(netns)? {
            Some(target) => netns::within(&target, f)?,
            None => f(),
        }
    }

    /// The way into a namespace that is counted; none where that is the tracker's own.
    pub(crate) fn open_netns(&self, netns: NetnsId) -> Result<Option<Target>, netns::Error> {
        if netns == OWN_NETNS {
            return Ok(None);
        }
        let inode = self.inode(netns);
        let entries = self.netns_entries.read().expect(POISONED);
        let target = entries.get(&netns).map(|entry| entry.open(inode));
        drop(entries);
        let target = match target.transpose()?.flatten() {
            Some(target) => target,
            // Every process was looked at, and none is in it.
            None if self.is_hidden(netns) => return Err(netns::Error::Gone { inode }),
            None => netns::resolve(&inode.to_string())?,
        };
        // If it is there while the other is held open, both are the same.
        match self.bpf.live_namespace(netns) {
            Ok(Some(inode)) if inode == target.inode() => Ok(Some(target)),
            _ => Err(netns::Error::Gone { inode }),
        }
    }

    /// Whether the counts of a port can be answered for: it was entered before the last walk.
    pub(crate) fn is_port_tracked(&self, netns: NetnsId, port: u16) -> bool {
        self.audit_state().walked_ports.contains(&(netns, port))
    }
}
