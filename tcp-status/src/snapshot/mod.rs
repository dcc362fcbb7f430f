//! One consistent reading: the model behind text, JSON and metrics.

mod accept_latency;
mod cgroups;
pub mod compare;
mod counts;
mod ends;
mod groups;
mod history;
mod listeners;
pub mod minutes;
mod problems;
mod transitions;
pub mod who;

pub use accept_latency::AcceptLatency;
pub use cgroups::{CgroupCounts, CgroupName, Cgroups};
pub use counts::{Counts, StateSeconds};
pub use ends::{ConnectFailures, ConnectionEnds, Ends, FullestDestination, NoLocalPortDestination};
pub use groups::{Fullness, Group, MANY_HALF_OPEN};
pub use history::{DEFAULT_WINDOW, FINE_WINDOW, MAX_WINDOW, Peaks, QueueRates, Rates, Stale};
pub use listeners::{Listener, Overflows, PortCounts, Ports, Syncookies};
pub use problems::{Problem, ProblemKey, Rule, Severity, Subject, is_leak, nearly_uses};
pub use transitions::{Flow, Totals, Transitions};

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use tcp_status_common::state::Family;

/// Version of the JSON form of [`Snapshot`]. Fields may be added within it, never renamed.
pub const SCHEMA: u32 = 1;

/// Counting tiers, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Events or O(1) kernel state give all eleven states.
    Full,
    /// As full, but a walk splits minisockets between `timewait` and `finwait2`.
    Reduced,
    /// No eBPF: one walk over all sockets per query.
    Scan,
}

impl Tier {
    /// The name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Reduced => "reduced",
            Self::Scan => "scan",
        }
    }
}

/// Results of the audits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// Sum of the corrected differences since start, over all states.
    pub corrections: u64,
    /// The same, by state.
    pub corrections_by_state: Counts,
    /// Audits done since start.
    pub audits: u64,
    /// Seconds since the last audit ended; none before the first.
    pub last_audit_seconds_ago: Option<u64>,
    /// How long the last audit took, in microseconds.
    pub last_audit_microseconds: Option<u64>,
}

/// Counts of the event handlers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// State changes counted in this namespace since start.
    pub counted: u64,
    /// State changes of any namespace that neither copy of the handler received.
    pub missed: u64,
}

/// The counts of one network namespace at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the tracker.
    pub version: String,
    /// The counting tier.
    pub tier: Tier,
    /// Why the tier is not `full`.
    pub tier_reason: Option<String>,
    /// Why a count may be off; none when all are exact.
    pub degraded: Option<String>,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Its name of `ip netns`, the `NAMESPACE/NAME` or UID of its pod, or the id of its container; none if unknown.
    pub netns_name: Option<String>,
    /// Whether the tracker counts every network namespace, or only its own.
    pub all_netns: bool,
    /// The local port that the counts are limited to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What is wrong, the most urgent first.
    pub problems: Vec<Problem>,
    /// Counts of both families together.
    pub states: Counts,
    /// What `/proc/net/tcp` lists.
    pub ipv4: Counts,
    /// What `/proc/net/tcp6` lists.
    pub ipv6: Counts,
    /// State changes since start; none without events, as for a single port.
    pub transitions: Option<Transitions>,
    /// Counts of the event handlers; none without events, as for a single port.
    pub events: Option<Events>,
    /// Why connections were not made or ended; none without events, as for a single port, and in
    /// other namespaces than the tracker's own.
    pub ends: Option<Ends>,
    /// Where to connects failed for want of a local port, the last one first, of the last 64 of all
    /// namespaces; none without events, as for a single port.
    #[serde(default)]
    pub no_local_port_destinations: Option<Vec<NoLocalPortDestination>>,
    /// Results of the audits.
    pub drift: Drift,
    /// Extremes within the window; none where nothing is sampled.
    pub peaks: Option<Peaks>,
    /// Changes per second; none where nothing is sampled.
    pub rates: Option<Rates>,
    /// Seconds that sockets were in each state since start, summed over sockets, by samples; none
    /// where nothing is sampled.
    #[serde(default)]
    pub state_seconds: Option<StateSeconds>,
    /// Stale connections; none before the first walk.
    pub stale: Option<Stale>,
    /// Overflows of accept queues; none where the kernel does not report them.
    pub overflows: Option<Overflows>,
    /// Overflows of SYN queues; none where the kernel does not report them.
    pub syncookies: Option<Syncookies>,
    /// Rates of both; none where nothing is sampled.
    #[serde(default)]
    pub queue_rates: Option<QueueRates>,
    /// Number of local ports that `connect()` chooses from; none where the settings are not readable.
    pub ephemeral_ports: Option<u32>,
    /// Number of ports of that range that are reserved, so that `connect()` does not choose them; none likewise.
    #[serde(default)]
    pub reserved_ports: Option<u32>,
    /// The destination that uses up the most of them; none while outgoing connections are less than
    /// half of them, and in other namespaces than the tracker's own.
    #[serde(default)]
    pub fullest_destination: Option<FullestDestination>,
    /// Every listening socket. Of [`Snapshot::port`] only, where it is given.
    pub listeners: Vec<Listener>,
    /// Connections by local port.
    pub ports: Ports,
    /// Connections by cgroup; none where they are not counted.
    #[serde(default)]
    pub cgroups: Option<Cgroups>,
    /// Why connections are not counted by cgroup; none where they are.
    #[serde(default)]
    pub cgroups_reason: Option<String>,
    /// Time in accept queues by local port, in ascending order, all ports beyond the limit first; none
    /// where it is not measured. Ports at which nothing was accepted have no row.
    #[serde(default)]
    pub accept_latency: Option<Vec<AcceptLatency>>,
    /// Why it is not measured; none where it is.
    #[serde(default)]
    pub accept_latency_reason: Option<String>,
}

/// The name of all namespaces that are not listed individually.
pub const TOGETHER: &str = "other";

/// A name for each namespace, no two the same: an inode number where there is none, or where
/// another one has it as well.
#[must_use]
pub fn netns_names(snapshots: &[Snapshot]) -> Vec<String> {
    let (mut seen, mut twice) = (HashSet::from([TOGETHER]), HashSet::new());
    for name in snapshots.iter().filter_map(|one| one.netns_name.as_deref()) {
        if !seen.insert(name) {
            twice.insert(name);
        }
    }
    let name = |one: &Snapshot| match one.netns_name.as_deref() {
        Some(name) if !name.is_empty() && !twice.contains(name) => name.into(),
        _ => one.netns.to_string(),
    };
    snapshots.iter().map(name).collect()
}

impl Snapshot {
    /// The counts of both families alone, not degraded.
    #[must_use]
    pub fn of(tier: Tier, netns: u32, [ipv4, ipv6]: [Counts; Family::COUNT]) -> Self {
        let mut states = ipv4;
        states += &ipv6;
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").into(),
            tier,
            tier_reason: None,
            degraded: None,
            netns,
            netns_name: None,
            all_netns: false,
            port: None,
            problems: Vec::new(),
            states,
            ipv4,
            ipv6,
            transitions: None,
            events: None,
            ends: None,
            no_local_port_destinations: None,
            drift: Drift::default(),
            peaks: None,
            rates: None,
            state_seconds: None,
            stale: None,
            overflows: None,
            syncookies: None,
            queue_rates: None,
            ephemeral_ports: None,
            reserved_ports: None,
            fullest_destination: None,
            listeners: Vec::new(),
            ports: Ports::default(),
            cgroups: None,
            cgroups_reason: None,
            accept_latency: None,
            accept_latency_reason: None,
        }
    }
}
