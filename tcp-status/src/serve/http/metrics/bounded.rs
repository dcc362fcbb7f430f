//! Limits the rows that the page lists individually: whatever a host has, the page has a bounded size.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use tcp_status_common::state::{Family, State};

use super::NetnsSnapshot;
use crate::snapshot::{Cgroups, Counts, Fullness, Snapshot};

/// What decides which ports and namespaces are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Whether something is amiss, or connections wait or waited in a queue: alerts need these series.
    matters: bool,
    connections: u64,
}

/// Keeps at most `max` ports and their listeners: those with something in a queue, then those with the most
/// connections. The counts of others are added to `other`, so that the sums stay the same.
pub(super) fn limit_ports(snapshot: &mut Snapshot, max: usize) {
    let mut ranks = BTreeMap::<u16, Rank>::new();
    for listener in &snapshot.listeners {
        let queued = listener
            .accept_queue_peak
            .unwrap_or(0)
            .max(listener.accept_queue);
        let half_open = listener.syn_queue.unwrap_or(0);
        ranks.entry(listener.port).or_default().matters |= queued > 0 || half_open > 0;
    }
    for one in &snapshot.ports.tracked {
        ranks.entry(one.port).or_default().connections = one.states.total();
    }
    let Some(listed) = highest(ranks, max) else {
        return;
    };
    snapshot.listeners.retain(|one| listed.contains(&one.port));
    if let Some(ports) = &mut snapshot.accept_latency {
        // Which ports are listed changes, so a sum of the others would fall, which counters must not.
        ports.retain(|one| one.port.is_none_or(|port| listed.contains(&port)));
    }
    let ports = &mut snapshot.ports;
    aggregate(&mut ports.tracked, &mut ports.other, |one| {
        (listed.contains(&one.port), &one.states)
    });
}

/// Many connections in these states are what alerts look for.
const SUSPICIOUS: [State; 3] = [State::SynSent, State::SynRecv, State::CloseWait];
const MANY: u64 = 50;

/// Keeps the first namespace, the tracker's own, and at most `max` others: those in which something is amiss, then
/// those with the most connections. Returns the rest.
pub(super) fn limit_namespaces(
    snapshots: &mut Vec<NetnsSnapshot>,
    max: usize,
) -> Vec<NetnsSnapshot> {
    let rank = |NetnsSnapshot { of, .. }: &NetnsSnapshot| Rank {
        matters: of.degraded.is_some()
            || !of.problems.is_empty()
            || of
                .listeners
                .iter()
                .any(|one| one.fullness() != Fullness::Room)
            || SUSPICIOUS.iter().any(|&state| of.states[state] > MANY),
        connections: of.states.total(),
    };
    let ranks = snapshots.iter().map(rank).enumerate().skip(1);
    let Some(listed) = highest(ranks.collect(), max) else {
        return Vec::new();
    };
    let all = mem::take(snapshots).into_iter().enumerate();
    let (kept, rest): (Vec<_>, Vec<_>) = all.partition(|(at, _)| *at == 0 || listed.contains(at));
    let without_place = |found: Vec<(usize, NetnsSnapshot)>| found.into_iter().map(|(_, one)| one);
    *snapshots = without_place(kept).collect();
    without_place(rest).collect()
}

/// The counts of namespaces together, and of their cgroups what is not listed; they keep the rows that are. None
/// without a namespace.
pub(super) fn together(namespaces: &mut [NetnsSnapshot]) -> Option<Snapshot> {
    let mut counts = [Counts::default(); Family::COUNT];
    let (mut other, mut unattributed) = (None, Counts::default());
    for NetnsSnapshot { of, .. } in &mut *namespaces {
        counts[0] += &of.ipv4;
        counts[1] += &of.ipv6;
        if let Some(cgroups) = &mut of.cgroups {
            if let Some(more) = cgroups.other.take() {
                *other.get_or_insert_default() += &more;
            }
            unattributed += &mem::take(&mut cgroups.unattributed);
        }
    }
    Some(Snapshot {
        cgroups: Some(Cgroups {
            other,
            unattributed,
            ..Cgroups::default()
        }),
        ..Snapshot::of(namespaces.first()?.of.tier, 0, counts)
    })
}

/// Keeps at most `max` rows of cgroups over all namespaces: those with the most sockets. The counts of
/// others are added to `other` of their namespace.
pub(super) fn limit_cgroups(snapshots: &mut [Snapshot], max: usize) {
    let ranks = snapshots.iter().enumerate().flat_map(|(at, snapshot)| {
        let rows = snapshot.cgroups.iter().flat_map(|found| &found.tracked);
        rows.map(move |one| ((at, one.id), one.states.total()))
    });
    let Some(listed) = highest(ranks.collect(), max) else {
        return;
    };
    for (at, snapshot) in snapshots.iter_mut().enumerate() {
        let Some(cgroups) = &mut snapshot.cgroups else {
            continue;
        };
        aggregate(&mut cgroups.tracked, &mut cgroups.other, |one| {
            (listed.contains(&(at, one.id)), &one.states)
        });
    }
}

/// The `max` keys with the highest ranks; none where all fit.
fn highest<K: Copy + Ord, R: Ord>(ranks: BTreeMap<K, R>, max: usize) -> Option<BTreeSet<K>> {
    if ranks.len() <= max {
        return None;
    }
    let mut order: Vec<_> = ranks.into_iter().collect();
    // Stable: equal ones stay in the order of keys.
    order.sort_by(|(_, a), (_, b)| b.cmp(a));
    Some(order.into_iter().take(max).map(|(key, _)| key).collect())
}

/// Moves the counts of rows that are not listed to `other`.
fn aggregate<T>(
    rows: &mut Vec<T>,
    other: &mut Option<Counts>,
    row: impl Fn(&T) -> (bool, &Counts),
) {
    rows.retain(|one| {
        let (is_listed, counts) = row(one);
        if !is_listed {
            *other.get_or_insert_default() += counts;
        }
        is_listed
    });
}
