//! Connections by cgroup: a row for each cgroup that is counted individually, one for those beyond the
//! limit, and one for sockets that have no cgroup, so that the rows add up to the totals.

use std::collections::{BTreeMap, BTreeSet};

use tcp_status_common::{
    counters::{NetnsId, OWN_NETNS},
    state::{Family, State},
};

use super::{
    api_error::unavailable,
    assemble::FamilyCounts,
    queues::{self, HalfOpen},
};
use crate::{
    bpf::{BpfError, CgroupSum, CgroupSums},
    serve::protocol::{ApiError, excerpt},
    snapshot::{CgroupCounts, Cgroups, Counts, Listener, Snapshot},
    track::{gauge::Gauges, tracker::Tracker},
};

/// Why there are no counts by cgroup of another namespace where nothing could audit them.
const NOT_LISTED: &str = "the kernel's socket tables, by which cgroups of other network namespaces are \
     audited, cannot be listed";

/// The same of one in which an audit corrected something.
const IN_DOUBT: &str =
    "events were missed in this network namespace; its cgroups are counted again when it rests";

/// The cgroups of all namespaces, as they were read at once.
pub(crate) struct AllCgroups {
    sums: CgroupSums,
    /// Namespaces in which they may be off.
    in_doubt: BTreeSet<NetnsId>,
}

impl Tracker {
    /// Whether sockets are counted by cgroup.
    pub(crate) const fn counts_cgroups(&self) -> bool {
        self.plan.cgroups_reason.is_none()
    }

    /// Finds the names of cgroups that have got a socket, before they are removed.
    pub(crate) fn name_cgroups(&self) -> Result<(), BpfError> {
        if self.counts_cgroups() {
            let ids = self.live_bank().cgroup_ids()?;
            self.cgroup_names.resolve(ids);
        }
        Ok(())
    }

    /// The sockets of all cgroups of all namespaces, whose names are looked for; why there are none, if they
    /// are not counted.
    pub(crate) fn read_cgroups(&self) -> Result<Result<AllCgroups, String>, BpfError> {
        if let Some(reason) = &self.plan.cgroups_reason {
            return Ok(Err(reason.clone()));
        }
        // Before the sums: what is corrected meanwhile is right in them, or in doubt.
        let in_doubt = self
            .audit_state()
            .others
            .iter()
            .filter_map(|(&netns, of)| of.cgroups_in_doubt.then_some(netns))
            .collect();
        let sums = self.live_bank().cgroups()?;
        let ids = sums.tracked.keys().map(|(_, id)| *id);
        self.cgroup_names.resolve(ids);
        Ok(Ok(AllCgroups { sums, in_doubt }))
    }

    /// Why the cgroups of a namespace are not known, if they are not.
    fn unknown(&self, netns: NetnsId, cgroups: &AllCgroups) -> Option<&'static str> {
        if netns == OWN_NETNS {
            None
        } else if !self.bpf.lists_tables() {
            Some(NOT_LISTED)
        } else {
            cgroups.in_doubt.contains(&netns).then_some(IN_DOUBT)
        }
    }

    /// Sets the cgroups of a namespace in its snapshot, or why they are not known.
    pub(crate) fn set_cgroups(
        &self,
        netns: NetnsId,
        cgroups: &Result<AllCgroups, String>,
        (gauges, half_open): (&Gauges, &HalfOpen),
        snapshot: &mut Snapshot,
    ) {
        let cgroups = match cgroups {
            Ok(cgroups) => self.unknown(netns, cgroups).map_or(Ok(cgroups), Err),
            Err(reason) => Err(reason.as_str()),
        };
        match cgroups {
            Err(reason) => snapshot.cgroups_reason = Some(reason.into()),
            Ok(AllCgroups { sums, .. }) => {
                let all = [snapshot.ipv4, snapshot.ipv6];
                snapshot.cgroups = Some(self.cgroups(netns, sums, (gauges, half_open), &all));
            }
        }
    }

    /// The cgroups of a namespace, whose totals are `all`.
    fn cgroups(
        &self,
        netns: NetnsId,
        sums: &CgroupSums,
        (gauges, half_open): (&Gauges, &HalfOpen),
        all: &FamilyCounts,
    ) -> Cgroups {
        let names = &self.cgroup_names;
        if !half_open.by_cgroup.is_empty() {
            names.resolve(half_open.by_cgroup.keys().copied());
        }
        let tracked = sums.tracked.range((netns, 0)..=(netns, u64::MAX));
        let tracked: BTreeMap<u64, &CgroupSum> = tracked.map(|(key, sum)| (key.1, sum)).collect();
        let row = |(&id, sum): (&u64, &&CgroupSum)| CgroupCounts {
            id,
            name: names.get(id),
            states: row(sum, half_open.by_cgroup.get(&id).copied().unwrap_or(0)),
        };
        let rows = tracked.iter().map(row);
        let beyond = half_open.by_cgroup.iter();
        let beyond = beyond.filter(|(id, _)| !tracked.contains_key(id));
        let requests: u64 = beyond.map(|(_, requests)| requests).sum();
        let other = match netns {
            OWN_NETNS => sums.other,
            _ if sums.refused.contains(netns) => Some(rest(gauges, tracked.values().copied())),
            _ => None,
        };
        let other = other.map(|sum| self::row(&sum, requests));
        Cgroups {
            limit: self.settings.limits.cgroups,
            tracked: rows.filter(|row| row.states.total() > 0).collect(),
            other: other.filter(|other| netns == OWN_NETNS || other.total() > 0),
            unattributed: unattributed(gauges, all, half_open),
        }
    }

    /// Sets the units of listeners, as far as the names of their cgroups have been found.
    pub(crate) fn set_units(&self, listeners: &mut [Listener]) {
        for listener in listeners {
            listener.unit = listener
                .cgroup
                .and_then(|id| self.cgroup_names.get(id).unit);
        }
    }

    /// The number of sockets in `state` of the cgroups that have a name, in all namespaces.
    pub(crate) fn cgroup_count(&self, named: &str, state: State) -> Result<u64, ApiError> {
        let cgroups = self.read_cgroups().map_err(unavailable)?;
        let cgroups =
            cgroups.map_err(|reason| unavailable(format!("cannot count by cgroup: {reason}")))?;
        let sums = &cgroups.sums;
        let requests = match state {
            State::SynRecv => self.requests_by_cgroup()?,
            _ => BTreeMap::new(),
        };
        let ids = sums.tracked.keys().map(|(_, id)| id);
        let ids: BTreeSet<u64> = ids.chain(requests.keys()).copied().collect();
        let names = &self.cgroup_names;
        let unread = |error| unavailable(format!("cannot read the names of cgroups: {error}"));
        names.resolve_now(ids.iter().copied()).map_err(unread)?;
        let is_named = |id: &u64| names.get(*id).is_named(named);
        let matching: BTreeSet<u64> = ids.into_iter().filter(is_named).collect();
        if matching.is_empty() {
            if !names.exists(named).map_err(unread)? {
                return Err(unknown_name(named));
            }
            if sums.other.is_some() || !sums.refused.is_empty() {
                return Err(unavailable(format!(
                    "cannot count cgroup \"{}\": it may be beyond --max-cgroups; raise that",
                    excerpt(named)
                )));
            }
        }
        let mut namespaces = sums.tracked.keys();
        let unknown = namespaces.find_map(|(netns, id)| {
            let unknown = self.unknown(*netns, &cgroups);
            unknown.filter(|_| matching.contains(id))
        });
        if let Some(reason) = unknown {
            return Err(unavailable(format!("cannot count by cgroup: {reason}")));
        }
        let counted = sums.tracked.iter();
        let counted = counted.filter(|((_, id), _)| matching.contains(id));
        let counted: u64 = counted.map(|(_, sum)| row(sum, 0)[state]).sum();
        let requests = requests.iter().filter(|(id, _)| matching.contains(id));
        Ok(counted + requests.map(|(_, requests)| requests).sum::<u64>())
    }

    /// Half-open connections in all namespaces, by the cgroup of their listener.
    fn requests_by_cgroup(&self) -> Result<BTreeMap<u64, u64>, ApiError> {
        let gauges = self.gauges(OWN_NETNS).map_err(unavailable)?;
        let mut requests = self.half_open(OWN_NETNS, &gauges)?.1.by_cgroup;
        if self.settings.all_namespaces && self.bpf.lists_tables() {
            let records = self.live_records().map_err(unavailable)?;
            for outside in self.read_outside(&records)?.into_values() {
                for (id, count) in outside.half_open.by_cgroup {
                    *requests.entry(id).or_default() += count;
                }
            }
        }
        Ok(requests)
    }
}

/// The full sockets of a namespace that are in none of the `tracked` cgroups.
fn rest<'a>(gauges: &Gauges, tracked: impl Iterator<Item = &'a CgroupSum>) -> CgroupSum {
    let gauges = gauges.without_minisockets();
    let mut rest = CgroupSum::default();
    for state in State::ALL {
        let of = |family| i64::try_from(gauges.get(family, state)).unwrap_or(i64::MAX);
        rest[usize::from(state.number())] = Family::ALL.map(of).iter().sum();
    }
    for sum in tracked {
        rest.iter_mut()
            .zip(sum)
            .for_each(|(rest, count)| *rest -= count);
    }
    rest
}

fn unknown_name(named: &str) -> ApiError {
    ApiError::bad_argument(format!(
        "cannot find cgroup \"{}\": no unit and no path below the cgroup2 mount; \
         tcp-status cgroups lists those with sockets",
        excerpt(named)
    ))
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
