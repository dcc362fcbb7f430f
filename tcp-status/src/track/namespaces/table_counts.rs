//! Passes over the kernel's socket tables that somebody asks for, and what they say of a namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tcp_status_common::{
    counters::{NamespaceRecord, NetnsId, OVERFLOW_NETNS, OWN_NETNS},
    table::{ListedCounts, NetnsCounts},
};

use super::listed::{Aside, ByNamespace};
use crate::{
    bpf::{BpfError, Listing},
    track::{
        minisockets::split::Split,
        resources::{cpu_time::CpuTimer, sync::lock},
        tracker::Tracker,
    },
};

/// Adds up a listing by what `netns` says each record belongs to, without the namespace whose inode
/// number is `own`.
pub(crate) fn by_namespace(
    listing: &Listing,
    own: u32,
    mut netns: impl FnMut(u64, &NetnsCounts) -> Result<Option<NetnsId>, BpfError>,
) -> Result<ByNamespace, BpfError> {
    let mut sums = ByNamespace::new();
    let others = listing.namespaces.iter();
    for (net, listed) in others.filter(|(_, listed)| listed.inode != own) {
        let Some(netns) = netns(*net, listed)? else {
            continue;
        };
        let cells = sums.entry(netns).or_default().iter_mut().flatten();
        for (sum, count) in cells.zip(listed.counts.iter().flatten()) {
            *sum += count;
        }
    }
    Ok(sums)
}

/// The addresses of the tables that namespaces have.
pub(crate) fn tables<'a>(records: impl Iterator<Item = &'a NamespaceRecord>) -> Vec<u64> {
    let tables: BTreeSet<_> = records.map(|record| record.hashinfo).collect();
    tables.into_iter().collect()
}

impl Tracker {
    /// The kernel's own number of timewait minisockets of another namespace; none if it is gone.
    pub(crate) fn timewait(&self, netns: NetnsId) -> Result<Option<u64>, BpfError> {
        let found = self.bpf.namespace(netns)?;
        let alive = found.filter(|record| record.alive == 1);
        Ok(alive.map(|record| record.timewait.into()))
    }

    /// What is beside the full sockets of another namespace, as of a pass that is at most as old as
    /// `--split-interval` allows.
    pub(crate) fn listed_aside(&self, netns: NetnsId) -> Result<Aside, BpfError> {
        self.refresh_listed(false)?;
        let listed = lock(&self.listed);
        Ok(listed.counts.get(&netns).map(Aside::of).unwrap_or_default())
    }

    /// Holds a pass over the kernel's tables if the last one, or with `ports` the last one that
    /// counted ports apart, is older than `--split-interval` allows.
    pub(crate) fn refresh_listed(&self, ports: bool) -> Result<(), BpfError> {
        let mut listed = lock(&self.listed);
        let age = self
            .settings
            .split_interval
            .max(self.settings.pace.on_demand(listed.cost));
        let taken = if ports {
            listed.ports_taken
        } else {
            listed.taken
        };
        let is_old = taken.is_none_or(|taken| taken.elapsed() >= age);
        if !is_old || !self.scan.affords_split() {
            return Ok(());
        }
        let records = self.bpf.namespaces()?;
        let mut wanted = Vec::new();
        if ports {
            let all = self.live_bank().port_keys()?.into_iter();
            wanted.extend(all.filter(|(netns, _)| *netns != OWN_NETNS));
        }
        let timer = CpuTimer::start();
        let tables = tables(records.iter().map(|(_, record)| record));
        let found = self.bpf.list_tables(&tables, &wanted, false)?;
        let kept: BTreeSet<_> = records.iter().map(|(netns, _)| *netns).collect();
        let counts = by_namespace(&found, self.inode, |_, listed| {
            let known = kept.contains(&listed.netns);
            Ok(Some(if known { listed.netns } else { OVERFLOW_NETNS }))
        })?;
        let cost = timer.spent();
        self.scan.spend(cost);
        if ports {
            self.cache_listed_splits(&kept, &counts, &found.ports, cost);
            listed.ports_taken = Some(Instant::now());
        }
        (listed.taken, listed.cost) = (Some(Instant::now()), cost);
        listed.counts = counts;
        Ok(())
    }

    /// Stores the minisockets of all other namespaces and of their ports.
    fn cache_listed_splits(
        &self,
        kept: &BTreeSet<NetnsId>,
        counts: &ByNamespace,
        ports: &[((NetnsId, u16), ListedCounts)],
        cost: Duration,
    ) {
        let mut by_port = BTreeMap::<NetnsId, BTreeMap<u16, Split>>::new();
        for ((netns, port), counts) in ports {
            let ports = by_port.entry(*netns).or_default();
            ports.insert(*port, counts.into());
        }
        for &netns in kept {
            let all = counts.get(&netns).map(Split::from).unwrap_or_default();
            let ports = by_port.remove(&netns).unwrap_or_default();
            self.splits.with(netns, |cache| {
                cache.put_ports(all, Some(ports));
                cache.put(all, None, cost);
            });
        }
    }
}
