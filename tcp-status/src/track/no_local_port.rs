//! Where to connects failed for want of a local port.

use std::{net::Ipv6Addr, time::Duration};

use nix::time::{ClockId, clock_gettime};
use tcp_status_common::counters::NetnsId;

use super::tracker::Tracker;
use crate::{bpf::BpfError, snapshot::NoLocalPortDestination};

/// Destinations that are kept, of all namespaces together: the last ones.
const KEPT: usize = 64;

impl Tracker {
    /// The destinations of a namespace, the last one first.
    pub(super) fn no_local_port(
        &self,
        netns: NetnsId,
    ) -> Result<Vec<NoLocalPortDestination>, BpfError> {
        let all = self.bpf.no_local_port()?.into_iter().take(KEPT);
        // The clock that the programs read.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        let here = all.filter(|(destination, _)| destination.netns == netns);
        let rows = here.map(|(destination, failed)| NoLocalPortDestination {
            address: Ipv6Addr::from(destination.address).to_canonical(),
            port: destination.port,
            failures: failed.failures,
            last_seconds_ago: now
                .saturating_sub(Duration::from_nanos(failed.last))
                .as_secs(),
        });
        Ok(rows.collect())
    }

    /// Makes room for further destinations.
    pub(super) fn forget_destinations(&self) -> Result<(), BpfError> {
        self.bpf.forget_destinations(KEPT)
    }
}
