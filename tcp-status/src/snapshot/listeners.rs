//! Listening sockets with their queues, and connections by local port.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{ConnectionEnds, Counts};

/// One listening socket. Sockets that share an address by `SO_REUSEPORT` are listed individually.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Address family: 4 or 6.
    pub family: u8,
    /// Local address.
    pub address: IpAddr,
    /// Local port.
    pub port: u16,
    /// Owner of the socket; none where the kernel does not report it.
    pub uid: Option<u32>,
    /// Whether others may listen at the same address.
    pub reuseport: bool,
    /// Connections that wait for `accept()`.
    pub accept_queue: u32,
    /// Limit of the accept queue: the smaller of `listen()`'s backlog and `net.core.somaxconn`. The kernel
    /// admits one more.
    pub accept_queue_limit: u32,
    /// Longest accept queue within the window of [`Peaks`], the current one included. None where nothing
    /// samples the queues.
    pub accept_queue_peak: Option<u32>,
    /// Half-open connections; none where the kernel does not report them.
    pub syn_queue: Option<u32>,
    /// Those of them whose SYN+ACK timer (1 s at first) has expired: the client has not answered, because segments
    /// were lost or it does not exist; or it waits for data (`TCP_DEFER_ACCEPT`) or for room in the accept queue.
    /// None where the kernel does not report it.
    #[serde(default)]
    pub syn_queue_retransmitted: Option<u32>,
    /// Half-open connections from which on the kernel drops SYNs or answers them with cookies; none where the
    /// settings are not readable.
    pub syn_queue_limit: Option<u32>,
    /// Segments and handshakes that this socket dropped since it was created (`sk_drops`): SYNs and ACKs for which
    /// a queue had no room, above all. None where the kernel does not report it.
    #[serde(default)]
    pub drops: Option<u32>,
    /// Id of the cgroup of the process that created the socket; none where cgroups are not read.
    #[serde(default)]
    pub cgroup: Option<u64>,
    /// systemd unit of that cgroup; none where it is not known.
    #[serde(default)]
    pub unit: Option<String>,
}

impl Listener {
    /// A socket with empty queues, of which nothing else is known.
    #[must_use]
    pub const fn new(address: IpAddr, port: u16, accept_queue_limit: u32) -> Self {
        Self {
            family: if address.is_ipv4() { 4 } else { 6 },
            address,
            port,
            uid: None,
            reuseport: false,
            accept_queue: 0,
            accept_queue_limit,
            accept_queue_peak: None,
            syn_queue: None,
            syn_queue_retransmitted: None,
            syn_queue_limit: None,
            drops: None,
            cgroup: None,
            unit: None,
        }
    }
}

/// The connections of one local port that has, or had, a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounts {
    /// Local port.
    pub port: u16,
    /// Both families.
    pub states: Counts,
    /// Connections that ended since the port got its first listener; none without events.
    #[serde(default)]
    pub connection_ends: Option<ConnectionEnds>,
}

/// Connections by local port: ports that have, or had, a listener, and all others together. At rest the rows
/// add up to the totals of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Maximum number of ports counted individually; none without a limit.
    pub limit: Option<u32>,
    /// Each port, in ascending order.
    pub tracked: Vec<PortCounts>,
    /// Connections whose local port has no listener. None if unknown: while the port of a listener is not
    /// tracked yet, or where only one port was read.
    pub outgoing: Option<Counts>,
    /// Ports beyond the limit, together. None where all fit.
    pub other: Option<Counts>,
    /// Those ports.
    pub other_ports: Vec<u16>,
    /// Ports with a new first listener: until the next audit, their older connections are counted in `outgoing`.
    pub unaudited: Vec<u16>,
}

/// Connections that the kernel could not queue, since the namespace was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overflows {
    /// Completed handshakes that found the accept queue full (`ListenOverflows`).
    pub listen_overflows: u64,
    /// These, and connections dropped for other reasons (`ListenDrops`).
    pub listen_drops: u64,
}

/// SYN cookies and full SYN queues, since the namespace was created.
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
