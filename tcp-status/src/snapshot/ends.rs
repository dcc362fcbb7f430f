//! Why connections were not made, and how they ended, since start.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use tcp_status_common::ends::{CONNECTION_END_REASONS, EndCounts, EndReason};

/// Full sockets that were closed since start, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// `connect()` that failed with an address and a port.
    pub connect_failures: ConnectFailures,
    /// `connect()` that failed because every local port that it may choose is in use.
    pub no_local_port: u64,
    /// Connections that ended.
    pub connection_ends: ConnectionEnds,
}

/// `connect()` that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectFailures {
    /// The peer answered with a reset.
    pub refused: u64,
    /// Reset in another way: Linux says "refused" of a reset that answers a SYN.
    pub reset: u64,
    /// No answer.
    pub timed_out: u64,
    /// A router, a firewall or the peer's host reported that it cannot be reached.
    pub unreachable: u64,
    /// Given up by this side.
    pub aborted: u64,
    /// Any other error.
    pub other: u64,
}

/// Connections that ended; those that this side closed first end with its TIME_WAIT, and are
/// counted when that begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionEnds {
    /// Closed in order.
    pub closed: u64,
    /// Reset by the peer.
    pub reset_by_peer: u64,
    /// Reset by this side: `SO_LINGER` of 0, unread data, a closed accept queue, or destroyed.
    pub reset_locally: u64,
    /// The peer no longer answered.
    pub timed_out: u64,
}

/// Where to connects failed for want of a local port, since start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoLocalPortDestination {
    /// An IPv4 address also where an IPv6 socket connected to an IPv4-mapped address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// How many.
    pub failures: u64,
    /// Seconds since the last one.
    pub last_seconds_ago: u64,
}

impl fmt::Display for NoLocalPortDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// The destination that uses up the most ephemeral ports, and when it will have used up all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FullestDestination {
    /// Local address, address and port of the peer, as `who --by destination` has them.
    pub destination: String,
    /// Ephemeral ports that its connections used at the last walk, TIME_WAIT included.
    pub used_ports: u64,
    /// How many there are.
    pub ephemeral_ports: u32,
    /// By how many the last walks, three or more, found more each time, per second; none if they did not.
    pub ports_per_second: Option<f64>,
    /// Seconds from now until all are used up, if that goes on; none if it is not known.
    pub seconds_until_exhausted: Option<u64>,
    /// Seconds since the last walk.
    pub walked_seconds_ago: u64,
}

impl FullestDestination {
    /// Ports in use, of 1.
    #[must_use]
    pub fn used_ratio(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "at most 65,535 ports")]
        let used = self.used_ports as f64;
        used / f64::from(self.ephemeral_ports)
    }
}

impl fmt::Display for FullestDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            destination,
            used_ports,
            ephemeral_ports,
            ..
        } = self;
        write!(
            f,
            "{destination} uses {used_ports} of {ephemeral_ports} ephemeral ports"
        )?;
        match self.seconds_until_exhausted {
            Some(seconds @ 0..120) => write!(f, ", all in {seconds} s at this rate"),
            Some(seconds) => write!(f, ", all in {} min at this rate", seconds / 60),
            None => Ok(()),
        }
    }
}

impl Ends {
    /// From what the programs counted.
    #[must_use]
    pub fn from_counts(counts: &EndCounts) -> Self {
        let of = |reason: EndReason| counts[reason as usize];
        Self {
            connect_failures: ConnectFailures {
                refused: of(EndReason::Refused),
                reset: of(EndReason::ConnectReset),
                timed_out: of(EndReason::ConnectTimedOut),
                unreachable: of(EndReason::Unreachable),
                aborted: of(EndReason::Aborted),
                other: of(EndReason::ConnectOther),
            },
            no_local_port: of(EndReason::NoLocalPort),
            connection_ends: ConnectionEnds::from_counts(
                counts.last_chunk().expect("the last reasons are of ends"),
            ),
        }
    }
}

impl Ends {
    /// Connects that failed, by reason.
    #[must_use]
    pub const fn failed_connects(&self) -> [(&'static str, u64); 7] {
        let [a, b, c, d, e, f] = self.connect_failures.by_reason();
        [a, b, c, d, e, f, ("no_local_port", self.no_local_port)]
    }
}

impl ConnectFailures {
    /// Each with its name.
    #[must_use]
    pub const fn by_reason(&self) -> [(&'static str, u64); 6] {
        [
            ("refused", self.refused),
            ("reset", self.reset),
            ("timed_out", self.timed_out),
            ("unreachable", self.unreachable),
            ("aborted", self.aborted),
            ("other", self.other),
        ]
    }
}

impl ConnectionEnds {
    /// From what the programs counted, in their order.
    #[must_use]
    pub const fn from_counts(counts: &[u64; CONNECTION_END_REASONS]) -> Self {
        let [closed, reset_by_peer, reset_locally, timed_out] = *counts;
        Self {
            closed,
            reset_by_peer,
            reset_locally,
            timed_out,
        }
    }

    /// Those that ended by something else than being closed.
    #[must_use]
    pub const fn aborts(&self) -> [(&'static str, u64); 3] {
        let [_closed, a, b, c] = self.by_reason();
        [a, b, c]
    }

    /// Each with its name.
    #[must_use]
    pub const fn by_reason(&self) -> [(&'static str, u64); 4] {
        [
            ("closed", self.closed),
            ("reset_by_peer", self.reset_by_peer),
            ("reset_locally", self.reset_locally),
            ("timed_out", self.timed_out),
        ]
    }
}
