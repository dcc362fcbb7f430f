//! Destinations of connects that failed for want of a local port.

use crate::counters::NetnsId;

/// Where to a `connect()` failed for want of a local port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct Destination {
    /// The network namespace of the socket.
    pub netns: NetnsId,
    /// The address in the order of the network, that of IPv4 mapped to IPv6.
    pub address: [u8; 16],
    /// The port, in the order of bytes of the host.
    pub port: u16,
    /// Explicit padding.
    pub padding: [u16; 3],
}

const _: () = assert!(size_of::<Destination>() == 32);

/// The failures of one [`Destination`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NoLocalPort {
    /// How many.
    pub failures: u64,
    /// The kernel's monotonic clock at the last one, in nanoseconds.
    pub last: u64,
}

const _: () = assert!(size_of::<NoLocalPort>() == 16);

/// Destinations that there is room for; user space removes the oldest ones long before.
pub const DESTINATIONS: u32 = 256;
