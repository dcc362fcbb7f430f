//! Peers at addresses behind which there is nothing. They begin connections and never answer, which makes
//! half-open connections without a state change of any full socket; or they see who connects to them, and end that.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{context, sys};

/// In the header of Ethernet, which a packet socket of this type does not show.
const ETH_P_IP: u16 = 0x0800;

const ICMP: u8 = 1;
const DESTINATION_UNREACHABLE: u8 = 3;
const TCP: u8 = 6;

/// How long an attempt is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The first sequence number of every peer.
const INITIAL: u32 = 1;

/// Sends for peers in 10.0.0.0/8, of which each has a number.
#[derive(Debug)]
pub struct RawPeer {
    socket: Socket,
    /// Everything that is sent in the namespace.
    wire: Socket,
}

/// An attempt to connect to a peer.
#[derive(Debug)]
pub struct Attempt {
    from: SocketAddrV4,
    to: SocketAddrV4,
    /// The header of IP without options, and the beginning of that of TCP.
    head: [u8; HEAD],
}

const HEAD: usize = 28;

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
        let all = Protocol::from(i32::from(ETH_P_IP.to_be()));
        let wire = Socket::new(Domain::PACKET, Type::DGRAM, Some(all))?;
        wire.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, wire })
    }

    /// The next attempt to connect to a peer.
    ///
    /// # Errors
    /// What receiving says: `WouldBlock` if there is none within seconds.
    pub fn next_attempt(&self) -> io::Result<Attempt> {
        let mut packet = [0; 128];
        loop {
            let length = (&self.wire).read(&mut packet)?;
            let Some(head) = packet[..length].first_chunk::<HEAD>() else {
                continue;
            };
            let is_syn = packet[0] == 0x45 && packet[9] == TCP && packet[33] == SYN;
            let address = |at: usize, port: usize| {
                let [a, b, c, d] = [0, 1, 2, 3].map(|i| packet[at + i]);
                let port = u16::from_be_bytes([packet[port], packet[port + 1]]);
                SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port)
            };
            let (from, to) = (address(12, 20), address(16, 22));
            if is_syn && to.ip().octets()[0] == 10 {
                let head = *head;
                return Ok(Attempt { from, to, head });
            }
        }
    }

    /// Answers an attempt with "destination unreachable", for the reason that an ICMP `code` stands for.
    ///
    /// # Errors
    /// What sending says.
    pub fn unreachable(&self, attempt: &Attempt, code: u8) -> io::Result<()> {
        const LENGTH: usize = 20 + 8 + HEAD;
        let mut packet = [0; LENGTH];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&u16::try_from(LENGTH).expect("short").to_be_bytes());
        packet[8] = 64;
        packet[9] = ICMP;
        packet[12..16].copy_from_slice(&attempt.to.ip().octets());
        packet[16..20].copy_from_slice(&attempt.from.ip().octets());
        packet[20..22].copy_from_slice(&[DESTINATION_UNREACHABLE, code]);
        packet[28..].copy_from_slice(&attempt.head);
        let checksum = checksum(0, &packet[20..]);
        packet[22..24].copy_from_slice(&checksum.to_be_bytes());
        self.socket.send_to(&packet, &attempt.from.into()).map(drop)
    }

    /// Answers an attempt with one of its own, as if both sides had begun at once, and resets that.
    ///
    /// # Errors
    /// What sending says.
    pub fn meet_and_reset(&self, attempt: &Attempt) -> io::Result<()> {
        for (sequence, flags) in [(INITIAL, SYN), (INITIAL + 1, RST)] {
            let packet = packet(attempt.to, attempt.from, sequence, flags);
            self.socket.send_to(&packet, &attempt.from.into())?;
        }
        Ok(())
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

    /// Peer `number` acknowledges what it was not sent: to a listener, an invalid cookie.
    ///
    /// # Errors
    /// What sending says.
    pub fn acknowledge(&self, listener: SocketAddrV4, number: u32) -> io::Result<()> {
        self.send(listener, number, INITIAL + 1, ACK)
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
    packet[9] = TCP;
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = flags;
    packet[34..36].copy_from_slice(&u16::MAX.to_be_bytes());
    // The rest of the pseudo header: protocol 6, 20 bytes.
    let checksum = checksum(6 + 20, &packet[12..]);
    packet[36..38].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Of an even number of bytes, and what is added to their sum.
fn checksum(mut sum: u32, bytes: &[u8]) -> u16 {
    for pair in bytes.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}
