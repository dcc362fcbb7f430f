//! Where to connects failed for want of a local port.

use std::{net::Ipv6Addr, time::Duration};

use nix::time::{ClockId, clock_gettime};
use tcp_status_common::{
    counters::NetnsId,
    no_local_port::{Destination, NoLocalPort},
};

use crate::{bpf::BpfError, snapshot::NoLocalPortDestination, track::tracker::Tracker};

/// Destinations of all namespaces, the last one first.
pub(crate) struct Destinations(Vec<(Destination, NoLocalPort)>);

/// Destinations that are kept of a namespace: the last ones. Of others than the tracker's own, together.
const KEPT: usize = 64;

impl Tracker {
    /// Reads them, once for each answer.
    pub(crate) fn destinations(&self) -> Result<Destinations, BpfError> {
        self.bpf.no_local_port().map(Destinations)
    }

    /// Makes room for further destinations.
    pub(crate) fn forget_destinations(&self) -> Result<(), BpfError> {
        self.bpf.forget_destinations(KEPT)
    }
}

impl Destinations {
    /// Those of a namespace.
    pub(crate) fn of(&self, netns: NetnsId) -> Vec<NoLocalPortDestination> {
        // The clock that the programs read.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        let all = self.0.iter();
        let here = all
            .filter(|(destination, _)| destination.netns == netns)
            .take(KEPT);
        let rows = here.map(|(destination, failed)| NoLocalPortDestination {
            address: Ipv6Addr::from(destination.address).to_canonical(),
            port: destination.port,
            failures: failed.failures,
            last_seconds_ago: now
                .saturating_sub(Duration::from_nanos(failed.last))
                .as_secs(),
        });
        rows.collect()
    }
}
