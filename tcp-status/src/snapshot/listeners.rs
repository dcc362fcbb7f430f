//! Listening sockets with their queues, and how connections spread over their ports.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Counts;

/// One listening socket. Sockets that share an address by `SO_REUSEPORT` are listed apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Address family: 4 or 6.
    pub family: u8,
    /// Local address.
    pub address: IpAddr,
    /// Local port.
    pub port: u16,
    /// Owner of the socket; none where the kernel does not tell.
    pub uid: Option<u32>,
    /// Whether others may listen at the same address.
    pub reuseport: bool,
    /// Connections that wait for `accept()`.
    pub accept_queue: u32,
    /// How many may wait: the smaller of `listen()`'s backlog and `net.core.somaxconn`. The kernel
    /// admits one more.
    pub accept_queue_limit: u32,
    /// The most that were seen waiting within the window of [`Peaks`]; now is part of it. None where
    /// nothing samples the queues.
    pub accept_queue_peak: Option<u32>,
    /// Half-open connections; none where the kernel does not tell.
    pub syn_queue: Option<u32>,
    /// With so many half-open connections the kernel drops the next SYN, or answers it with a
    /// cookie; none where its settings are not readable.
    pub syn_queue_limit: Option<u32>,
}

/// The connections of one local port that has, or had, a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounts {
    /// Local port.
    pub port: u16,
    /// Both families.
    pub states: Counts,
}

/// Connections by local port: of ports that have, or had, a listener, and of all others together.
/// At rest the rows add up to the totals of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// How many ports are kept apart at most; none where there is no limit.
    pub limit: Option<u32>,
    /// Each port, in ascending order.
    pub tracked: Vec<PortCounts>,
    /// Connections whose local port has no listener. None where it is not known: while the port of
    /// a listener is not tracked yet, or where only one port was read.
    pub outgoing: Option<Counts>,
    /// Ports beyond the limit, together. None where all fit.
    pub other: Option<Counts>,
    /// Ports that got their first listener a moment ago: connections that they had before are not
    /// in their counts until the next audit, but in those of `outgoing`.
    pub unaudited: Vec<u16>,
}

/// What the kernel could not put into an accept queue or turned away, since the namespace was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overflows {
    /// Handshakes that were complete and found the accept queue full (`ListenOverflows`).
    pub listen_overflows: u64,
    /// The same, and those that were dropped for another reason (`ListenDrops`).
    pub listen_drops: u64,
}

/// Handshakes without a request socket, because a SYN queue was full, since the namespace was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syncookies {
    /// SYN-ACKs with a cookie (`SyncookiesSent`).
    pub sent: u64,
    /// Handshakes that a valid cookie completed (`SyncookiesRecv`).
    pub received: u64,
    /// ACKs with an invalid cookie (`SyncookiesFailed`).
    pub failed: u64,
    /// SYNs to a full SYN queue that were answered with a cookie (`TCPReqQFullDoCookies`).
    pub queue_full_cookies: u64,
    /// SYNs to a full SYN queue that were dropped (`TCPReqQFullDrop`).
    pub queue_full_drops: u64,
}
