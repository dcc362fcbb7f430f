//! Peers that never answer: SYN segments from addresses behind which there is nothing. They make
//! half-open connections without a state change of any full socket.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{context, sys};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// The first sequence number of every peer.
const INITIAL: u32 = 1;

/// Sends for peers in 10.0.0.0/8, of which each has a number.
#[derive(Debug)]
pub struct RawPeer {
    socket: Socket,
}

impl RawPeer {
    /// Routes the peers to `lo` of the calling thread's namespace, where nothing takes what is sent
    /// to them.
    ///
    /// # Errors
    /// What the kernel says; `PermissionDenied` without CAP_NET_ADMIN and CAP_NET_RAW.
    pub fn new() -> io::Result<Self> {
        sys::route_to_loopback(Ipv4Addr::new(10, 0, 0, 0), Ipv4Addr::new(255, 0, 0, 0))
            .map_err(|error| context("add route, on 10.0.0.0/8", &error))?;
        // The headers are in what is sent.
        let raw = Protocol::from(libc::IPPROTO_RAW);
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(raw))?;
        Ok(Self { socket })
    }

    /// Peer `number` begins a connection to `listener`.
    ///
    /// # Errors
    /// What sending says.
    pub fn open(&self, listener: SocketAddrV4, number: u32) -> io::Result<()> {
        self.send(listener, number, INITIAL, SYN)
    }

    /// Peer `number` resets the connection that it began.
    ///
    /// # Errors
    /// What sending says.
    pub fn reset(&self, listener: SocketAddrV4, number: u32) -> io::Result<()> {
        self.send(listener, number, INITIAL + 1, RST)
    }

    fn send(&self, to: SocketAddrV4, number: u32, sequence: u32, flags: u8) -> io::Result<()> {
        let [_, a, b, c] = number.to_be_bytes();
        let from = SocketAddrV4::new(Ipv4Addr::new(10, a, b, c), 1024);
        let packet = packet(from, to, sequence, flags);
        self.socket.send_to(&packet, &to.into()).map(drop)
    }
}

/// IPv4 and TCP headers without options; the kernel fills in the checksum of the first.
fn packet(from: SocketAddrV4, to: SocketAddrV4, sequence: u32, flags: u8) -> [u8; 40] {
    const LENGTH: u16 = 40;
    let mut packet = [0; LENGTH as usize];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&LENGTH.to_be_bytes());
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = flags;
    packet[34..36].copy_from_slice(&u16::MAX.to_be_bytes());
    let checksum = checksum(&packet[12..]);
    packet[36..38].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Of both addresses and the TCP header that follows them.
fn checksum(addresses_and_header: &[u8]) -> u16 {
    // The rest of the pseudo header: protocol 6, 20 bytes.
    let mut sum = 6 + 20;
    for pair in addresses_and_header.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}
