//! Snapshots of other namespaces without entering any: counts by events, listeners and their queues
//! by one pass over the kernel's table of them, minisockets by the last pass over all tables.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Instant,
};

use tcp_status_common::{
    counters::{ClosedListener, ListenerRecord, NamespaceRecord, NetnsId, OVERFLOW_NETNS},
    state::{Family, State},
};

use super::inside::{Candidate, Inside};
use crate::{
    bpf::{BpfError, ListenerListing},
    kernel::{netns, plan::SplitMethod},
    serve::protocol::ApiError,
    snapshot::{Listener, Snapshot},
    track::{
        answers::{
            api_error::unavailable,
            assemble::{AuxCounts, assemble},
            ports::Apart,
            query::SharedReading,
            queues::{self, HalfOpen},
            reading::Reading,
        },
        gauge::Gauges,
        minisockets::split::SplitCache,
        resources::{cpu_time::CpuTimer, sync::lock},
        tracker::Tracker,
    },
};

/// Why there are no counts by cgroup of namespaces for which there is no room.
const OVERFLOW: &str =
    "sockets of network namespaces beyond --max-namespaces are not counted by cgroup";

/// So many namespaces are read one by one: reading all takes longer.
const FEW: usize = 4;

/// What is read of a namespace.
pub(crate) struct Outside {
    record: NamespaceRecord,
    reading: Reading,
    listeners: Vec<Listener>,
    pub(crate) half_open: HalfOpen,
}

impl Outside {
    /// Whether a connection waits for a listener.
    fn has_queued(&self) -> bool {
        let waits = |one: &Listener| one.accept_queue > 0 || one.syn_queue != Some(0);
        self.listeners.iter().any(waits)
    }
}

impl Tracker {
    /// Everything about each of these namespaces.
    pub(crate) fn snapshots_from_outside(
        &self,
        records: &[(NetnsId, NamespaceRecord)],
        apart: &Apart,
    ) -> Result<Vec<(NetnsId, Snapshot)>, ApiError> {
        if apart.split == SplitMethod::Walk {
            self.refresh_listed(true).map_err(unavailable)?;
        }
        let found = self.read_outside(records)?;
        let candidates = found.iter().map(|(&netns, outside)| Candidate {
            netns,
            events: outside.reading.events,
            queued: outside.has_queued(),
        });
        self.refresh_inside(candidates.collect());
        let shared = self.read_shared()?;
        let snapshots = found.into_iter().map(|(netns, outside)| {
            let snapshot = self.assemble_outside(netns, outside, apart, &shared)?;
            Ok((netns, snapshot))
        });
        snapshots.collect()
    }

    /// Enters those namespaces where it is due, at the expense of walks on demand.
    fn refresh_inside(&self, candidates: Vec<Candidate>) {
        let due = lock(&self.inside).due(candidates, Instant::now());
        for candidate in due {
            if !self.scan.affords_split() {
                return;
            }
            let timer = CpuTimer::start();
            let read = match self.open_netns(candidate.netns) {
                Ok(Some(target)) => netns::within(&target, Inside::read),
                Ok(None) => Ok(Inside::read()),
                Err(error) => Err(error),
            };
            let inside = match read {
                Ok(read) => read
                    .inspect_err(|error| log::debug!(error:%; "counters of full queues not read"))
                    .ok(),
                Err(error) => {
                    log::debug!(error:%, netns = self.inode(candidate.netns); "namespace not entered");
                    None
                }
            };
            lock(&self.inside).put(candidate, inside, Instant::now());
            self.scan.spend(timer.spent());
        }
    }

    fn assemble_outside(
        &self,
        netns: NetnsId,
        outside: Outside,
        apart: &Apart,
        shared: &SharedReading,
    ) -> Result<Snapshot, ApiError> {
        let Outside {
            record,
            reading,
            mut listeners,
            half_open,
        } = outside;
        let gauges = (apart.split, &reading.gauges);
        let aux = self.aux_counts_outside(netns, &record, gauges, &half_open);
        let counts = assemble(&reading.gauges, &aux);
        let mut snapshot = self.describe(netns, &reading, counts, shared);
        if let Some(inside) = lock(&self.inside).get(netns) {
            (snapshot.overflows, snapshot.syncookies) = (inside.overflows, inside.syncookies);
            snapshot.ephemeral_ports = inside.settings.ephemeral_ports;
            snapshot.reserved_ports = inside.settings.reserved_ports;
            queues::set_syn_queue_limits(&mut listeners, &inside.settings);
        }
        snapshot.ports = self.ports(netns, gauges, apart, &half_open)?;
        self.set_cgroups(netns, &apart.cgroups, (gauges.1, &half_open), &mut snapshot);
        self.set_units(&mut listeners);
        snapshot.listeners = listeners;
        Ok(snapshot)
    }

    /// What is beside the full sockets of a namespace.
    fn aux_counts_outside(
        &self,
        netns: NetnsId,
        record: &NamespaceRecord,
        (split, gauges): (SplitMethod, &Gauges),
        half_open: &HalfOpen,
    ) -> AuxCounts {
        let mut aux = AuxCounts {
            minisockets: record.timewait.into(),
            requests: half_open.total(),
            ..AuxCounts::default()
        };
        if split == SplitMethod::Events {
            [aux.timewait, aux.finwait2] = gauges.minisockets();
            return aux;
        }
        if aux.minisockets == 0 {
            self.splits.with(netns, SplitCache::clear_minisockets);
        }
        let split = self.splits.with(netns, |cache| *cache.last());
        (aux.finwait2, aux.timewait) = (split.finwait2, split.timewait);
        aux
    }

    /// Reads each of these namespaces. A listing with another number of listeners than is counted
    /// was disturbed, and is repeated.
    pub(crate) fn read_outside(
        &self,
        records: &[(NetnsId, NamespaceRecord)],
    ) -> Result<BTreeMap<NetnsId, Outside>, ApiError> {
        const ATTEMPTS: u32 = 4;
        let mut attempt = 1;
        loop {
            let (listing, closed) =
                self.with_closed_listeners(|| self.bpf.list_listeners().map_err(unavailable))?;
            let ListenerListing { listeners, failed } = listing;
            let mut listed = BTreeMap::<NetnsId, Vec<ListenerRecord>>::new();
            for one in listeners {
                listed.entry(one.netns).or_default().push(one.record);
            }
            let mut orphaned = BTreeMap::<NetnsId, Vec<ClosedListener>>::new();
            for one in closed {
                orphaned.entry(one.netns).or_default().push(one);
            }
            let mut disturbed = failed > 0;
            let mut found = BTreeMap::new();
            let mut readings = self.readings_of(records)?;
            for &(netns, record) in records {
                let Some(reading) = readings.remove(&netns) else {
                    continue;
                };
                let listeners = listed.remove(&netns).unwrap_or_default();
                let orphaned = orphaned.remove(&netns).unwrap_or_default();
                let counted = usize::try_from(reading.gauges.sum(&[State::Listen]));
                disturbed |= counted != Ok(listeners.len()) && self.is_exact(netns);
                let listeners = queues::listeners(&listeners);
                let half_open = HalfOpen::new(&listeners, &orphaned);
                let outside = Outside {
                    record,
                    reading,
                    listeners,
                    half_open,
                };
                found.insert(netns, outside);
            }
            if !disturbed || attempt == ATTEMPTS {
                return Ok(found);
            }
            attempt += 1;
        }
    }

    /// The counts of each of these namespaces.
    fn readings_of(
        &self,
        records: &[(NetnsId, NamespaceRecord)],
    ) -> Result<BTreeMap<NetnsId, Reading>, ApiError> {
        if records.len() > FEW {
            let mut readings = self.readings_of_others().map_err(unavailable)?;
            for &(netns, _) in records {
                if let Entry::Vacant(missing) = readings.entry(netns) {
                    missing.insert(self.read(netns).map_err(unavailable)?);
                }
            }
            return Ok(readings);
        }
        let read = |&(netns, _): &(NetnsId, _)| Ok((netns, self.read(netns)?));
        let readings: Result<_, BpfError> = records.iter().map(read).collect();
        readings.map_err(unavailable)
    }

    /// Whether nothing says that the counts of a namespace may be off.
    pub(crate) fn is_exact(&self, netns: NetnsId) -> bool {
        let audit_state = self.audit_state();
        let netns_state = audit_state.netns_state(netns);
        netns_state.is_some_and(|netns_state| netns_state.degraded_reason.is_none())
    }

    /// Request sockets of a namespace, by family.
    pub(crate) fn requests_outside(
        &self,
        netns: NetnsId,
    ) -> Result<[u64; Family::COUNT], ApiError> {
        let record = self.bpf.namespace(netns).map_err(unavailable)?;
        let record = record.unwrap_or(NamespaceRecord::NONE);
        let found = self.read_outside(&[(netns, record)])?;
        let total = |outside: &Outside| outside.half_open.total();
        Ok(found.get(&netns).map(total).unwrap_or_default())
    }

    /// Everything about a namespace that cannot be entered.
    pub(crate) fn snapshot_from_outside(
        &self,
        netns: NetnsId,
        apart: &Apart,
    ) -> Result<Snapshot, ApiError> {
        let record = self.bpf.namespace(netns).map_err(unavailable)?;
        let records = [(netns, record.unwrap_or(NamespaceRecord::NONE))];
        let found = self.snapshots_from_outside(&records, apart)?.pop();
        let (_, snapshot) = found.ok_or_else(|| unavailable("cannot read the namespace"))?;
        Ok(snapshot)
    }

    /// All namespaces together for which there is no room.
    pub(crate) fn snapshot_of_overflow(&self) -> Result<Snapshot, ApiError> {
        let reading = self.read(OVERFLOW_NETNS).map_err(unavailable)?;
        let aux = self.aux_counts_by_pass(OVERFLOW_NETNS, &reading.gauges)?;
        let counts = assemble(&reading.gauges, &aux);
        let shared = self.read_shared()?;
        let mut snapshot = self.describe(OVERFLOW_NETNS, &reading, counts, &shared);
        snapshot.cgroups_reason = Some(OVERFLOW.into());
        Ok(snapshot)
    }

    /// What is beside the full sockets of a namespace, by the last pass over all tables.
    pub(crate) fn aux_counts_by_pass(
        &self,
        netns: NetnsId,
        gauges: &Gauges,
    ) -> Result<AuxCounts, ApiError> {
        let by_events = self.counts_timewait(netns) || !self.bpf.lists_tables();
        let aside = self.listed_aside(netns).map_err(unavailable)?;
        let [timewait, finwait2] = match by_events {
            true => gauges.minisockets(),
            false => [aside.timewait, aside.finwait2],
        };
        let listed = timewait.iter().chain(&finwait2).sum();
        let minisockets = match by_events {
            true => listed,
            false => self.timewait(netns).map_err(unavailable)?.unwrap_or(listed),
        };
        Ok(AuxCounts {
            minisockets,
            finwait2,
            timewait,
            requests: aside.requests,
        })
    }
}
