//! Connections by local port: a row for each port that is kept apart, one for those beyond the
//! limit, and one for outgoing connections, so that the rows add up to the totals.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tcp_status_common::state::Family;

use super::{
    api_error::unavailable,
    assemble::{FamilyCounts, assemble_port},
    cgroups::AllCgroups,
    queues::{self, HalfOpen},
};
use crate::{
    bpf::{BpfError, PortEnds, PortSums},
    kernel::plan::{SeedMethod, SplitMethod},
    serve::{
        Source as _,
        protocol::{ApiError, Show},
    },
    snapshot::{ConnectionEnds, Counts, PortCounts, Ports},
    track::{
        audit::state::{AuditState, add_ends},
        gauge::Gauges,
        minisockets::split::{Split, SplitCache},
        tracker::Tracker,
    },
};

use tcp_status_common::counters::{NetnsId, OWN_NETNS};

/// The sockets of every port that is kept apart, by namespace and port.
pub(crate) type AllPorts = BTreeMap<(NetnsId, u16), Gauges>;

/// What is counted apart in all namespaces, as it was read at once.
pub(crate) struct Apart {
    /// How minisockets were separated before.
    pub(crate) split: SplitMethod,
    pub(crate) ports: AllPorts,
    /// Connections that ended at them since each got its first listener.
    pub(crate) ends: BTreeMap<NetnsId, PortEnds>,
    /// Or why cgroups are not counted.
    pub(crate) cgroups: Result<AllCgroups, String>,
}

/// No connection ended at any port.
const NO_ENDS: &PortEnds = &PortEnds::new();

impl Apart {
    /// Connections that ended at the ports of a namespace.
    fn ends_of(&self, netns: NetnsId) -> &PortEnds {
        self.ends.get(&netns).unwrap_or(NO_ENDS)
    }

    /// The ports of a namespace.
    pub(crate) fn ports_of(&self, netns: NetnsId) -> BTreeMap<u16, Gauges> {
        let ports = self.ports.range((netns, 0)..=(netns, u16::MAX));
        ports.map(|(&(_, port), &gauges)| (port, gauges)).collect()
    }
}

impl Tracker {
    /// The ports of a namespace whose sockets are `all` together: each with its counts, those
    /// beyond the limit, and what is at none of them.
    pub(crate) fn ports(
        &self,
        netns: NetnsId,
        (split, all): (SplitMethod, &Gauges),
        apart: &Apart,
        half_open: &HalfOpen,
    ) -> Result<Ports, ApiError> {
        if self.plan.seed == SeedMethod::Procfs {
            // Without an iterator nothing enters the ports of listeners that were there first.
            let scanned = self.scan.show(&Show::default())?;
            return Ok(scanned
                .into_iter()
                .next()
                .map(|one| one.ports)
                .unwrap_or_default());
        }
        let (live, walked) =
            self.live_bank_with(|audit_state| Arc::clone(&audit_state.walked_ports));
        let is_port_tracked = |port: &&u16| walked.contains(&(netns, **port));
        let (apart, ends) = (&apart.ports_of(netns), apart.ends_of(netns));
        let unaudited = apart.keys().filter(|port| !is_port_tracked(port)).copied();
        let unaudited = unaudited.collect();
        let other = match netns == OWN_NETNS {
            true => live.other_ports().map_err(unavailable)?,
            false => None,
        };
        let other = other.map(|(ports, sum)| (ports, sum.into()));
        let counts = |(&port, gauges): (&u16, &Gauges)| PortCounts {
            port,
            states: both(self.port_row(netns, &[port], (split, gauges), half_open)),
            connection_ends: Some(ConnectionEnds::from_counts(
                &ends.get(&port).copied().unwrap_or_default(),
            )),
        };
        let other_row = |(ports, gauges): &(Vec<u16>, Gauges)| {
            both(self.port_row(netns, ports, (split, gauges), half_open))
        };
        Ok(Ports {
            limit: Some(self.settings.limits.ports),
            tracked: apart.iter().map(counts).collect(),
            outgoing: self.outgoing(netns, (split, all), apart, other.as_ref(), half_open),
            other: other.as_ref().map(other_row),
            other_ports: other.map(|(ports, _)| ports).unwrap_or_default(),
            unaudited,
        })
    }

    /// What is left of `all` sockets without those of ports. None while there is a listener whose
    /// port is not entered, and where minisockets are not known by port.
    fn outgoing(
        &self,
        netns: NetnsId,
        (split, all): (SplitMethod, &Gauges),
        apart: &BTreeMap<u16, Gauges>,
        other: Option<&(Vec<u16>, Gauges)>,
        half_open: &HalfOpen,
    ) -> Option<Counts> {
        let beyond: BTreeSet<_> = other.iter().flat_map(|(ports, _)| ports).collect();
        let known = |port: &u16| apart.contains_key(port) || beyond.contains(port);
        if !half_open.at_listeners.keys().all(known) {
            return None;
        }
        let mut requests = half_open.orphaned.clone();
        requests.retain(|port, _| !known(port));
        let walked = self.splits.with(netns, |cache| cache.elsewhere())?;
        let others = other.iter().map(|(_, gauges)| gauges);
        let rest = apart
            .values()
            .chain(others)
            .fold(*all, |rest, &gauges| rest - gauges);
        Some(both(row((split, &rest), walked, queues::total(&requests))))
    }

    /// The counts of ports together, whose full sockets are `gauges`.
    pub(crate) fn port_row(
        &self,
        netns: NetnsId,
        ports: &[u16],
        gauges: (SplitMethod, &Gauges),
        half_open: &HalfOpen,
    ) -> FamilyCounts {
        let split = |cache: &mut SplitCache| ports.iter().map(|&port| cache.port(port)).sum();
        let (walked, mut requests) = (self.splits.with(netns, split), [0; Family::COUNT]);
        for at_port in ports.iter().map(|&port| half_open.at(port)) {
            requests = [0, 1].map(|i| requests[i] + at_port[i]);
        }
        row(gauges, walked, requests)
    }

    /// The sockets of one port; none if it is not kept apart.
    pub(crate) fn port_gauges(
        &self,
        netns: NetnsId,
        port: u16,
    ) -> Result<Option<Gauges>, ApiError> {
        let (live, base) = self.live_bank_with(|audit_state| {
            let netns_state = audit_state.netns_state(netns)?;
            netns_state.ports.get(&port).copied()
        });
        let sum = live.port(netns, port).map_err(unavailable)?;
        Ok(sum.map(|sum| Gauges::from(sum) + base.unwrap_or_default()))
    }

    /// Connections that ended at one port of a namespace since it got its first listener.
    pub(crate) fn port_ends(&self, netns: NetnsId, port: u16) -> Result<PortEnds, BpfError> {
        let (counters, before) = self.counters_with(|audit_state| {
            let netns_state = audit_state.netns_state(netns)?;
            Some(Arc::clone(&netns_state.port_ends))
        });
        let mut ends = counters.ends_of(netns, port)?;
        if let Some(before) = before {
            add_ends(&mut ends, &before);
        }
        Ok(ends)
    }

    /// What is counted apart in all namespaces.
    pub(crate) fn read_apart(&self) -> Result<Apart, ApiError> {
        let split = self.hooks.split();
        let (ports, ends) = self.ports_with_ends().map_err(unavailable)?;
        Ok(Apart {
            split,
            ports,
            ends,
            cgroups: self.read_cgroups().map_err(unavailable)?,
        })
    }

    /// The sockets of every port that is kept apart.
    pub(crate) fn port_sums(&self) -> Result<AllPorts, BpfError> {
        let (live, bases) = self.live_bank_with(AuditState::port_bases);
        Ok(gauges(live.ports()?, &bases))
    }

    /// The same, and connections that ended at them since each got its first listener.
    fn ports_with_ends(&self) -> Result<(AllPorts, BTreeMap<NetnsId, PortEnds>), BpfError> {
        let (counters, (bases, before)) =
            self.counters_with(|audit_state| (audit_state.port_bases(), audit_state.port_ends()));
        let (sums, mut ends) = counters.ports_with_ends()?;
        for (netns, before) in before {
            add_ends(ends.entry(netns).or_default(), &before);
        }
        Ok((gauges(sums, &bases), ends))
    }
}

/// The sockets of ports, with what is added to those of each namespace.
fn gauges(sums: PortSums, bases: &[(NetnsId, Arc<BTreeMap<u16, Gauges>>)]) -> AllPorts {
    let sums = sums.into_iter();
    let mut gauges: AllPorts = sums.map(|(port, sum)| (port, sum.into())).collect();
    for (netns, bases) in bases {
        for (&port, &base) in &**bases {
            if let Some(gauges) = gauges.get_mut(&(*netns, port)) {
                *gauges = *gauges + base;
            }
        }
    }
    gauges
}

fn row(
    (split, gauges): (SplitMethod, &Gauges),
    mut walked: Split,
    requests: [u64; Family::COUNT],
) -> FamilyCounts {
    if split == SplitMethod::Events {
        [walked.timewait, walked.finwait2] = gauges.minisockets();
    }
    assemble_port(gauges, &walked, requests)
}

fn both([mut sum, v6]: FamilyCounts) -> Counts {
    sum += &v6;
    sum
}
