//! Limits the ports that the page lists individually: whatever listens on a host, the page has a bounded size.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use crate::snapshot::{Counts, Snapshot};

/// What decides which ports are listed.
#[derive(Clone, Copy, Debug, Default)]
struct Rank {
    /// Whether connections wait or waited in a queue of the port: alerts need these series.
    waiting: bool,
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
        ranks.entry(listener.port).or_default().waiting |= queued > 0 || half_open > 0;
    }
    for one in &snapshot.ports.tracked {
        ranks.entry(one.port).or_default().connections = one.states.total();
    }
    if ranks.len() <= max {
        return;
    }
    let mut order: Vec<_> = ranks.into_iter().collect();
    order.sort_by_key(|&(port, rank)| (Reverse((rank.waiting, rank.connections)), port));
    let listed: BTreeSet<_> = order.into_iter().take(max).map(|(port, _)| port).collect();
    snapshot.listeners.retain(|one| listed.contains(&one.port));
    let ports = &mut snapshot.ports;
    let mut rest = Counts::default();
    ports.tracked.retain(|one| {
        let keep = listed.contains(&one.port);
        if !keep {
            rest += &one.states;
        }
        keep
    });
    *ports.other.get_or_insert_default() += &rest;
}
