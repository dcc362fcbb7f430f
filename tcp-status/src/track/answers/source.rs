//! Answers the queries of the protocol.

use std::iter;

use tcp_status_common::{
    counters::{NetnsId, OWN_NETNS},
    state::{Family, State},
};
use tokio::sync::watch;

use super::{
    api_error::unavailable,
    assemble::FamilyCounts,
    aux_counts::{StalenessPolicy, UNRECORDED},
};
use crate::{
    kernel::netns,
    serve::{
        Source,
        protocol::{ApiError, Get, History, Show},
    },
    snapshot::{Snapshot, Tier, minutes},
    track::{audit::state::APPEARED, resources::sync::lock, tracker::Tracker},
};

impl Tracker {
    /// The namespace that a query names, if it is one that is counted.
    fn resolve_tracked(&self, named: Option<&str>) -> Result<Option<NetnsId>, ApiError> {
        let Some(text) = named else {
            return Ok(Some(OWN_NETNS));
        };
        // Held open, so that no other one gets its number meanwhile.
        let target = netns::resolve(text)?;
        if target.inode() == self.inode {
            return Ok(Some(OWN_NETNS));
        }
        let live_namespaces = self.live_namespaces().map_err(unavailable)?;
        let named = live_namespaces
            .iter()
            .find(|(_, inode)| **inode == target.inode());
        let audit_state = self.audit_state();
        let counted = named.filter(|(netns, _)| audit_state.others.contains_key(netns));
        Ok(counted.map(|(&netns, _)| netns))
    }

    /// What a query asks for, without the problems.
    fn readings(&self, query: &Show) -> Result<Vec<Snapshot>, ApiError> {
        let window = query.window();
        if query.all_netns {
            return match query.port {
                Some(port) => self.port_snapshots(port, window),
                None => self.snapshots(window),
            };
        }
        let Some(netns) = self.resolve_tracked(query.netns.as_deref())? else {
            return self.scan.show(query);
        };
        match query.port {
            None => Ok(vec![self.snapshot(netns, window)?]),
            Some(port) => Ok(vec![self.one_port(netns, port, window)?]),
        }
    }
}

impl Source for Tracker {
    fn get(&self, query: &Get) -> Result<u64, ApiError> {
        let state = query.state()?;
        let families = query.families()?;
        if let Some(named) = &query.cgroup {
            return self.cgroup_count(named, state);
        }
        let Some(netns) = self.resolve_tracked(query.netns.as_deref())? else {
            return self.scan.get(query);
        };
        let counts = match query.port {
            None => Some(self.counts(netns, state, StalenessPolicy::Refresh)?),
            Some(port) if self.is_port_tracked(netns, port) => {
                self.port_counts(netns, port, state)?
            }
            Some(_) => None,
        };
        let Some(counts) = counts else {
            return self.scan.get(query);
        };
        Ok(sum(&counts, families, state))
    }

    fn degraded(&self) -> Result<Option<String>, ApiError> {
        // Proves that the kernel still answers.
        self.gauges(OWN_NETNS).map_err(unavailable)?;
        let live = self.live_namespaces().map_err(unavailable)?;
        let unrecorded = self.unrecorded()?;
        let audit_state = self.audit_state();
        let reason = |netns: NetnsId| match audit_state.netns_state(netns) {
            Some(netns_state) => audit_state.degraded(netns_state),
            None => Some(APPEARED.into()),
        };
        let all = iter::once(OWN_NETNS).chain(live.into_keys());
        let reason = all.into_iter().find_map(reason);
        Ok(reason.or_else(|| (unrecorded != audit_state.unrecorded).then(|| UNRECORDED.into())))
    }

    fn try_get(&self, query: &Get) -> Option<Result<u64, ApiError>> {
        let (state, families) = (query.state().ok()?, query.families().ok()?);
        let own = query.netns.is_none() && query.port.is_none() && query.cgroup.is_none();
        (own && self.needs_no_walk(state)).then(|| {
            let counts = self.counts(OWN_NETNS, state, StalenessPolicy::UseCached)?;
            Ok(sum(&counts, families, state))
        })
    }

    fn changes(&self, query: &Get) -> Option<watch::Receiver<()>> {
        // Samples are of the tracker's namespace, a cgroup has sockets in any.
        let elsewhere = query.cgroup.is_some() && self.settings.all_namespaces;
        (!elsewhere).then(|| lock(&self.samples).changed.subscribe())
    }

    fn history(&self, query: &History) -> Result<minutes::History, ApiError> {
        let (since, state) = (query.since(), query.state()?);
        Ok(lock(&self.samples).history(self.inode, since, state))
    }

    fn show(&self, query: &Show) -> Result<Vec<Snapshot>, ApiError> {
        let mut all = self.readings(query)?;
        for one in &mut all {
            one.problems = one.find_problems();
            if one.netns != self.inode {
                one.name_netns_in_hints();
            } else if one.tier != Tier::Scan {
                lock(&self.samples).annotate_problems(one);
            }
        }
        Ok(all)
    }
}

fn sum(counts: &FamilyCounts, families: &[Family], state: State) -> u64 {
    let of = |family: &Family| counts[family.index()][state];
    families.iter().map(of).sum()
}
