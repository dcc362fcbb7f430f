//! Connections by cgroup: a row for each cgroup that is counted individually, one for those beyond the
//! limit, and one for sockets that have no cgroup, so that the rows add up to the totals.

use std::collections::BTreeSet;

use tcp_status_common::{
    counters::STATE_SLOTS,
    state::{Family, State},
};

use super::{
    api_error::unavailable,
    assemble::FamilyCounts,
    gauge::Gauges,
    queues::{self, HalfOpen},
    sync::lock,
    tracker::Tracker,
};
use crate::{
    bpf::{BpfError, CgroupSum, CgroupSums},
    kernel::cgroups,
    serve::protocol::{ApiError, excerpt},
    snapshot::{CgroupCounts, Cgroups, Counts, Listener},
};

impl Tracker {
    /// Whether sockets are counted by cgroup.
    pub(super) const fn counts_cgroups(&self) -> bool {
        self.plan.cgroups_reason.is_none()
    }

    /// Finds the names of cgroups that have got a socket, before they are removed.
    pub(super) fn name_cgroups(&self) -> Result<(), BpfError> {
        if self.counts_cgroups() {
            let ids = self.live_bank().cgroup_ids()?.into_iter().collect();
            lock(&self.cgroup_names).resolve(&ids);
        }
        Ok(())
    }

    /// The cgroups of the tracker's namespace, whose totals are `all`.
    pub(super) fn cgroups(
        &self,
        gauges: &Gauges,
        all: &FamilyCounts,
        half_open: &HalfOpen,
    ) -> Result<Cgroups, ApiError> {
        let sums = self.cgroup_sums().map_err(unavailable)?;
        let mut ids: BTreeSet<u64> = sums.tracked.keys().copied().collect();
        ids.extend(half_open.by_cgroup.keys());
        let mut names = lock(&self.cgroup_names);
        names.resolve(&ids);
        let row = |(&id, sum): (&u64, &CgroupSum)| CgroupCounts {
            id,
            name: names.get(id),
            states: row(sum, half_open.by_cgroup.get(&id).copied().unwrap_or(0)),
        };
        let rows = sums.tracked.iter().map(row);
        let beyond = half_open.by_cgroup.iter();
        let beyond = beyond.filter(|(id, _)| !sums.tracked.contains_key(id));
        let requests = beyond.map(|(_, requests)| requests).sum();
        Ok(Cgroups {
            limit: self.settings.limits.cgroups,
            tracked: rows.filter(|row| row.states.total() > 0).collect(),
            other: sums.other.map(|sum| self::row(&sum, requests)),
            unattributed: unattributed(gauges, all, half_open),
        })
    }

    /// Sets the units of listeners, as far as the names of their cgroups have been found.
    pub(super) fn set_units(&self, listeners: &mut [Listener]) {
        let names = lock(&self.cgroup_names);
        for listener in listeners {
            listener.unit = listener.cgroup.and_then(|id| names.unit(id));
        }
    }

    /// The number of sockets in `state` of the cgroups that have a name. Half-open connections are
    /// those of `half_open`.
    pub(super) fn cgroup_count(
        &self,
        named: &str,
        state: State,
        half_open: impl FnOnce() -> Result<HalfOpen, ApiError>,
    ) -> Result<u64, ApiError> {
        if let Some(reason) = &self.plan.cgroups_reason {
            return Err(unavailable(format!("cannot count by cgroup: {reason}")));
        }
        let sums = self.cgroup_sums().map_err(unavailable)?;
        let half_open = match state {
            State::SynRecv => half_open()?,
            _ => HalfOpen::default(),
        };
        let mut ids: BTreeSet<u64> = sums.tracked.keys().copied().collect();
        ids.extend(half_open.by_cgroup.keys());
        let mut names = lock(&self.cgroup_names);
        names.resolve(&ids);
        let matching: Vec<u64> = ids
            .into_iter()
            .filter(|&id| names.get(id).is_named(named))
            .collect();
        drop(names);
        if matching.is_empty() {
            exists(named)?;
        }
        let none = [0; STATE_SLOTS];
        let counts = matching.iter().map(|id| {
            let requests = half_open.by_cgroup.get(id).copied().unwrap_or(0);
            row(sums.tracked.get(id).unwrap_or(&none), requests)[state]
        });
        Ok(counts.sum())
    }

    fn cgroup_sums(&self) -> Result<CgroupSums, BpfError> {
        self.live_bank().cgroups()
    }
}

/// Whether there is a cgroup of this name at all, with or without sockets.
fn exists(named: &str) -> Result<(), ApiError> {
    let names = cgroups::names().map_err(unavailable)?;
    if names.values().any(|name| name.is_named(named)) {
        return Ok(());
    }
    Err(ApiError::bad_argument(format!(
        "cannot find cgroup \"{}\": no unit and no path below the cgroup2 mount; \
         tcp-status cgroups lists those with sockets",
        excerpt(named)
    )))
}

/// The counts of a cgroup, with its half-open connections.
fn row(sum: &CgroupSum, requests: u64) -> Counts {
    let mut counts = Counts::default();
    for state in State::ALL {
        counts[state] = sum[usize::from(state.number())].max(0).cast_unsigned();
    }
    counts[State::SynRecv] += requests;
    counts
}

/// Sockets without a cgroup: minisockets, and half-open connections whose listener is closed.
fn unattributed(gauges: &Gauges, all: &FamilyCounts, half_open: &HalfOpen) -> Counts {
    let mut counts = Counts::default();
    for family in Family::ALL {
        let all = &all[family.index()];
        counts[State::TimeWait] += all[State::TimeWait];
        // All that is beside the full sockets.
        let full = gauges.get(family, State::FinWait2);
        counts[State::FinWait2] += all[State::FinWait2].saturating_sub(full);
    }
    counts[State::SynRecv] = queues::total(&half_open.orphaned).iter().sum();
    counts
}
