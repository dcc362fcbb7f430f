//! What the kernel dumps over `NETLINK_SOCK_DIAG`: the same sockets as procfs, several times
//! faster, and filtered by state and port in the kernel. Works in the namespace of the calling
//! thread. Owns the wire, not what the counts are used for.

mod error;
mod wire;

pub use error::Error;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};
use tcp_status_common::state::{Family, NEW_SYN_RECV, State};

use super::procfs::{Listing, PortListing};
use crate::snapshot::Listener;
use error::ATTEMPTS;
pub use wire::Entry;

/// All that procfs lists. Not bit 13, which would add bound sockets without a connection.
const LISTED: u32 = (1 << (NEW_SYN_RECV + 1)) - 2;

/// Minisockets and request sockets, and full sockets in FIN_WAIT2. Without the bit of SYN_RECV
/// itself, which would add its full sockets: nothing in an answer tells these apart.
const MINISOCKETS: u32 =
    1 << State::FinWait2 as u8 | 1 << State::TimeWait as u8 | 1 << NEW_SYN_RECV;

/// Listening sockets.
const LISTENING: u32 = 1 << State::Listen as u8;

/// Connection attempts.
const ATTEMPTING: u32 = 1 << State::SynSent as u8;

/// The kernel never fills more than 32 KiB at once (`netlink_recvmsg()`).
const RECEIVE: usize = 64 * 1024;

/// The kernel answers from within the call; this is against a kernel that does not at all.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Minisockets and request sockets, by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MiniSplit {
    /// Timewait minisockets in substate TIME_WAIT.
    pub timewait: [u64; Family::COUNT],
    /// Timewait minisockets in substate FIN_WAIT2.
    pub finwait2: [u64; Family::COUNT],
    /// Request sockets.
    pub requests: [u64; Family::COUNT],
}

/// Counts what procfs lists, or only what has the local port. About 1 us per socket listed.
///
/// # Errors
/// [`Error`].
pub fn listing(port: Option<u16>) -> Result<Listing, Error> {
    dump(LISTED, port, |listing: &mut Listing, entry| {
        listing.add(entry.family, entry.state);
    })
}

/// Visits every socket in one of `states`, or only those with the local port. About 1 us per socket
/// visited, 0.1 us per socket passed over.
///
/// # Errors
/// [`Error`].
pub fn sockets<T: Default>(
    states: &[State],
    port: Option<u16>,
    visit: impl FnMut(&mut T, Entry),
) -> Result<T, Error> {
    let bits = states.iter().map(|state| match state {
        State::SynRecv => 1 << State::SynRecv.number() | 1 << NEW_SYN_RECV,
        state => 1 << state.number(),
    });
    dump(bits.sum::<u32>() & LISTED, port, visit)
}

/// As [`listing`], apart for each local port.
///
/// # Errors
/// [`Error`].
pub fn listing_by_port() -> Result<PortListing, Error> {
    dump(LISTED, None, |found: &mut PortListing, entry| {
        found.add(entry.family, entry.state, entry.port);
    })
}

/// As [`listing`], for each of `ports` that has anything.
///
/// # Errors
/// [`Error`].
pub fn listings_of(ports: &BTreeSet<u16>) -> Result<BTreeMap<u16, Listing>, Error> {
    dump(LISTED, None, |found: &mut BTreeMap<u16, Listing>, entry| {
        if ports.contains(&entry.port) {
            let listing = found.entry(entry.port).or_default();
            listing.add(entry.family, entry.state);
        }
    })
}

/// Every listening socket; how many half-open connections it has, sock_diag does not tell. Walks
/// over listeners only.
///
/// # Errors
/// [`Error`].
pub fn listeners() -> Result<Vec<Listener>, Error> {
    let found = dump(LISTENING, None, |found: &mut Vec<Listener>, entry| {
        found.push(Listener {
            uid: Some(entry.uid),
            accept_queue: entry.receive_queue,
            drops: entry.drops,
            cgroup: entry.cgroup,
            ..Listener::new(entry.address, entry.port, entry.send_queue)
        });
    })?;
    Ok(groups_marked(found))
}

/// Listeners at one address are a group: nothing else lets them share it.
fn groups_marked(mut listeners: Vec<Listener>) -> Vec<Listener> {
    let address = |listener: &Listener| (listener.family, listener.address, listener.port);
    listeners.sort_by_key(address);
    for i in 1..listeners.len() {
        if address(&listeners[i - 1]) == address(&listeners[i]) {
            listeners[i - 1].reuseport = true;
            listeners[i].reuseport = true;
        }
    }
    listeners
}

/// How many listening sockets there are.
///
/// # Errors
/// [`Error`].
pub fn listener_count() -> Result<u64, Error> {
    dump(LISTENING, None, |count: &mut u64, _| *count += 1)
}

/// How many connection attempts of this side there are. About 0.1 us per socket passed over.
///
/// # Errors
/// [`Error`].
pub fn attempt_count() -> Result<u64, Error> {
    dump(ATTEMPTING, None, |count: &mut u64, _| *count += 1)
}

/// Minisockets and request sockets of a namespace, and of some of its ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MiniSplits {
    /// All of them.
    pub all: MiniSplit,
    /// By local port.
    pub ports: BTreeMap<u16, MiniSplit>,
}

/// Counts minisockets and request sockets, no full sockets; apart for each of `ports`. About
/// 0.1 us per socket passed over.
///
/// # Errors
/// [`Error`].
pub fn minisockets(ports: &BTreeSet<u16>) -> Result<MiniSplits, Error> {
    dump(MINISOCKETS, None, |splits: &mut MiniSplits, entry| {
        splits.all.add(&entry);
        if ports.contains(&entry.port) {
            splits.ports.entry(entry.port).or_default().add(&entry);
        }
    })
}

impl MiniSplit {
    fn add(&mut self, entry: &Entry) {
        let counts = match entry.state {
            State::TimeWait => &mut self.timewait,
            State::SynRecv => &mut self.requests,
            State::FinWait2 if entry.minisocket => &mut self.finwait2,
            _ => return,
        };
        counts[entry.family.index()] += 1;
    }
}

/// Visits every socket in one of `states` (a bit per kernel state number) with the local port.
/// Begins anew, with an empty `T`, if the kernel says that a dump was interrupted.
fn dump<T: Default>(
    states: u32,
    port: Option<u16>,
    mut visit: impl FnMut(&mut T, Entry),
) -> Result<T, Error> {
    let mut channel = Channel::open()?;
    for _ in 0..ATTEMPTS {
        let mut found = T::default();
        let request = wire::both_families(channel.next(), states, port);
        let whole = match channel.walk(&request, |entry| visit(&mut found, entry)) {
            // A kernel that no longer knows the older form says so before any entry.
            Err(Error::Unsupported(_)) => {
                channel.walk_each(states, port, |entry| visit(&mut found, entry))?
            }
            result => result?,
        };
        if whole {
            return Ok(found);
        }
    }
    Err(Error::Interrupted)
}

/// A socket to the kernel, of the namespace in which it was opened.
struct Channel {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Channel {
    fn open() -> Result<Self, Error> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)?;
        // Connected, it takes messages from the kernel only.
        socket.connect(&SocketAddr::new(0, 0))?;
        let timeout = TimeVal::new(TIMEOUT.as_secs().cast_signed(), 0);
        setsockopt(&socket, ReceiveTimeout, &timeout).map_err(io::Error::from)?;
        Ok(Self {
            socket,
            buffer: vec![0; RECEIVE],
            sequence: 0,
        })
    }

    /// The number of the next request.
    fn next(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    /// Whether the dump is consistent.
    fn walk(&mut self, request: &[u8], mut visit: impl FnMut(Entry)) -> Result<bool, Error> {
        retry(|| self.socket.send(request, 0))?;
        let mut consistent = true;
        loop {
            let length = retry(|| self.socket.recv(&mut &mut self.buffer[..], libc::MSG_TRUNC))?;
            let Some(datagram) = self.buffer.get(..length) else {
                return Err(Error::Malformed(format!("{length} bytes at once")));
            };
            let read = wire::read_datagram(datagram, self.sequence, &mut visit)?;
            consistent &= !read.interrupted;
            if read.ended {
                return Ok(consistent);
            }
        }
    }

    /// Both families, one after the other. Whether both dumps are consistent.
    fn walk_each(
        &mut self,
        states: u32,
        port: Option<u16>,
        mut visit: impl FnMut(Entry),
    ) -> Result<bool, Error> {
        let mut consistent = true;
        for family in Family::ALL {
            let request = wire::one_family(self.next(), family, states, port);
            consistent &= self.walk(&request, &mut visit)?;
        }
        Ok(consistent)
    }
}

/// Again after a signal.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// See [`wire::fuzz`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(datagram: &[u8]) {
    wire::fuzz(datagram);
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use tcp_status_testkit::netns::Netns;

    use super::{Channel, Entry, Error, LISTED, Listing, listing, wire};

    #[test]
    fn one_walk_per_family_finds_the_same_as_one_walk() {
        let Some(netns) = Netns::for_test() else {
            return;
        };
        let check = || {
            let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
            let v6 = TcpListener::bind("[::]:0").unwrap();
            let port = v6.local_addr().unwrap().port();
            let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let _server = v6.accept().unwrap();
            for port in [None, Some(port), Some(v4.local_addr().unwrap().port())] {
                let mut each = Listing::default();
                let mut channel = Channel::open().unwrap();
                let add = |entry: Entry| each.add(entry.family, entry.state);
                assert!(channel.walk_each(LISTED, port, add).unwrap());
                assert_eq!(each, listing(port).unwrap());
                assert!(each.total().total() > 0);
            }
        };
        netns.run(check).unwrap();
    }

    #[test]
    fn a_request_that_the_kernel_does_not_know_is_unsupported() {
        let mut channel = Channel::open().unwrap();
        let mut request = wire::both_families(channel.next(), LISTED, None);
        request[4..6].copy_from_slice(&99_u16.to_ne_bytes());
        let refused = channel.walk(&request, |_| ()).unwrap_err();
        assert!(matches!(refused, Error::Unsupported(_)), "{refused}");
    }
}
