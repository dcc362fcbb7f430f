//! Requests and answers of sock_diag as bytes: pure. Only what is needed here of what
//! `linux/inet_diag.h` has.

use std::{mem::size_of, net::IpAddr};

use netlink_packet_core::{
    DoneBuffer, Emitable as _, ErrorBuffer, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NetlinkBuffer, NetlinkHeader,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, SOCK_DIAG_BY_FAMILY,
    inet::{ExtensionFlags, InetRequest, InetResponseBuffer, SocketId, StateFlags},
};
use tcp_status_common::state::{Family, State};

use super::error::Error;

/// `TCPDIAG_GETSOCK` (`linux/inet_diag.h`): the older request, which walks both families at once.
const TCPDIAG_GETSOCK: u16 = 18;

/// `idiag_timer` of a timewait minisocket (`tcp_twsk_diag_fill()`); a full socket has 0, 1, 2 or 4
/// there (`inet_sk_diag_fill()`).
const TIMER_TIMEWAIT: u8 = 3;

/// One socket of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which of the two procfs files lists it.
    pub family: Family,
    /// Its state; request sockets are in `SynRecv`.
    pub state: State,
    /// Whether it is a timewait minisocket.
    pub minisocket: bool,
    /// Local port.
    pub port: u16,
    /// Local address.
    pub address: IpAddr,
    /// Port of the peer; 0 of a listener.
    pub peer_port: u16,
    /// Address of the peer; unspecified of a listener.
    pub peer: IpAddr,
    /// `idiag_rqueue`: of a listener, the connections that wait for `accept()`.
    pub receive_queue: u32,
    /// `idiag_wqueue`: of a listener, how many may wait.
    pub send_queue: u32,
    /// Owner.
    pub uid: u32,
    /// Inode number, as `/proc/PID/fd` shows it; 0 of a socket that no process has open.
    pub inode: u32,
    /// What it dropped; listeners only.
    pub drops: Option<u32>,
    /// Id of its cgroup in the cgroup2 hierarchy; none of minisockets and request sockets, and
    /// before Linux 5.9.
    pub cgroup: Option<u64>,
}

/// Asks for every socket in one of `states` (a bit per kernel state number) with the local port.
/// An IPv4 and IPv6 dump in one, in the older form of request: whatever family that names, the
/// kernel takes both.
pub(super) fn both_families(sequence: u32, states: u32, port: Option<u16>) -> Vec<u8> {
    let id = socket_id(port);
    // struct inet_diag_req
    let mut body = vec![0; 4 + id.buffer_len()];
    body[3] = extensions(states).bits();
    id.emit(&mut body[4..]);
    body.extend(states.to_ne_bytes());
    // idiag_dbs, which the kernel does not read.
    body.extend([0; 4]);
    request(TCPDIAG_GETSOCK, sequence, &body)
}

/// As [`both_families`], of one family.
pub(super) fn one_family(sequence: u32, family: Family, states: u32, port: Option<u16>) -> Vec<u8> {
    let request_v2 = InetRequest {
        family: match family {
            Family::V4 => AF_INET,
            Family::V6 => AF_INET6,
        },
        protocol: IPPROTO_TCP,
        extensions: extensions(states),
        states: StateFlags::from_bits_retain(states),
        socket_id: socket_id(port),
    };
    let mut body = vec![0; request_v2.buffer_len()];
    request_v2.emit(&mut body);
    request(SOCK_DIAG_BY_FAMILY, sequence, &body)
}

/// What is asked for of each socket: of listeners, what they dropped.
fn extensions(states: u32) -> ExtensionFlags {
    let listeners_only = states == 1 << State::Listen.number();
    if listeners_only {
        ExtensionFlags::SKMEMINFO
    } else {
        ExtensionFlags::empty()
    }
}

/// In a dump, the kernel looks at the ports only; 0 stands for any.
fn socket_id(port: Option<u16>) -> SocketId {
    SocketId {
        source_port: port.unwrap_or(0),
        ..SocketId::new_v4()
    }
}

fn request(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0; NetlinkHeader::default().buffer_len()];
    message.extend(body);
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut buffer = NetlinkBuffer::new(&mut message);
    buffer.set_length(length);
    buffer.set_message_type(kind);
    buffer.set_flags(NLM_F_REQUEST | NLM_F_DUMP);
    buffer.set_sequence_number(sequence);
    message
}

/// What a datagram says besides its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// The dump is complete.
    pub(super) ended: bool,
    /// The tables changed in a way that the dump does not show.
    pub(super) interrupted: bool,
}

/// Visits the entries in one datagram; answers to an earlier request are passed over.
pub(super) fn read_datagram(
    mut datagram: &[u8],
    sequence: u32,
    mut visit: impl FnMut(Entry),
) -> Result<Read, Error> {
    let mut read = Read::default();
    while !datagram.is_empty() && !read.ended {
        let message = NetlinkBuffer::new_checked(datagram)?;
        let payload = message.payload();
        if message.sequence_number() == sequence {
            read.interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
            match message.message_type() {
                NLMSG_NOOP => {}
                NLMSG_DONE => {
                    // A dump that fails once it has begun ends like this (`netlink_dump()`).
                    // A shorter payload, without a number, is allowed as well.
                    let code = DoneBuffer::new_checked(payload).map_or(0, |done| done.code());
                    if code < 0 {
                        return Err(Error::from_errno(code.saturating_neg()));
                    }
                    read.ended = true;
                }
                NLMSG_ERROR => {
                    let code = ErrorBuffer::new_checked(payload)?.code();
                    let errno = code.map_or(0, |code| code.get().saturating_neg());
                    return Err(Error::from_errno(errno));
                }
                TCPDIAG_GETSOCK | SOCK_DIAG_BY_FAMILY => visit(entry(payload)?),
                kind => return Err(Error::Malformed(format!("message type {kind}"))),
            }
        }
        let aligned = (message.length() as usize).next_multiple_of(NLMSG_ALIGNTO.into());
        datagram = datagram.get(aligned..).unwrap_or_default();
    }
    Ok(read)
}

/// The head of `struct inet_diag_msg`. The crate's own parser reads addresses and attributes as
/// well, and allocates for each entry.
fn entry(payload: &[u8]) -> Result<Entry, Error> {
    if payload.len() < size_of::<InetResponseBuffer>() {
        let length = payload.len();
        return Err(Error::Malformed(format!("an entry of {length} bytes")));
    }
    let number = payload[0].into();
    let family = Family::from_address_family(number)
        .ok_or_else(|| Error::Malformed(format!("address family {number}")))?;
    Ok(Entry {
        family,
        state: State::try_from(payload[1]).map_err(|e| Error::Malformed(e.to_string()))?,
        minisocket: payload[2] == TIMER_TIMEWAIT,
        port: u16::from_be_bytes(array(payload, SPORT)),
        address: address(family, payload, SRC),
        peer_port: u16::from_be_bytes(array(payload, DPORT)),
        peer: address(family, payload, DST),
        receive_queue: u32::from_ne_bytes(array(payload, RQUEUE)),
        send_queue: u32::from_ne_bytes(array(payload, WQUEUE)),
        uid: u32::from_ne_bytes(array(payload, UID)),
        inode: u32::from_ne_bytes(array(payload, INODE)),
        drops: attribute(&payload[ATTRIBUTES..], SKMEMINFO)
            .and_then(|value| value.get(DROPS..)?.first_chunk().copied())
            .map(u32::from_ne_bytes),
        cgroup: attribute(&payload[ATTRIBUTES..], CGROUP_ID)
            .map(|value| u64::from_ne_bytes(array(value, 0))),
    })
}

fn address(family: Family, payload: &[u8], at: usize) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from(array::<4>(payload, at)),
        Family::V6 => IpAddr::from(array::<16>(payload, at)),
    }
}

/// `INET_DIAG_CGROUP_ID` (`linux/inet_diag.h`).
const CGROUP_ID: u16 = 21;

/// `INET_DIAG_SKMEMINFO` (`linux/inet_diag.h`), and where `SK_MEMINFO_DROPS`, the ninth of its numbers, begins.
const SKMEMINFO: u16 = 7;
const DROPS: usize = 32;

/// The value of the first attribute (`struct nlattr`) of this type.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    const HEADER: usize = 4;
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        let value = attributes.get(HEADER..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(HEADER)..)?;
    }
}

/// Where `struct inet_diag_msg` has the ports and addresses of `id`, in the order of the network,
/// and `idiag_rqueue`, `idiag_wqueue`, `idiag_uid` and `idiag_inode`; attributes follow it.
const SPORT: usize = 4;
const DPORT: usize = 6;
const SRC: usize = 8;
const DST: usize = 24;
const INODE: usize = 68;
const ATTRIBUTES: usize = 72;
const RQUEUE: usize = 56;
const WQUEUE: usize = 60;
const UID: usize = 64;

/// Zeros behind the end, which the caller has looked at.
fn array<const N: usize>(payload: &[u8], at: usize) -> [u8; N] {
    payload
        .get(at..)
        .and_then(|rest| rest.first_chunk().copied())
        .unwrap_or([0; N])
}

/// One datagram, of the request with number 1: each entry takes its own bytes.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(datagram: &[u8]) {
    let mut entries = 0;
    let read = read_datagram(datagram, 1, |_| entries += 1);
    assert!(entries * size_of::<InetResponseBuffer>() <= datagram.len());
    if let Err(error) = read {
        assert!(!error.to_string().contains('\n'));
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP};

    use super::{
        Entry, Error, Family, Read, SOCK_DIAG_BY_FAMILY, State, TCPDIAG_GETSOCK, both_families,
        one_family, read_datagram,
    };

    const SEQUENCE: u32 = 7;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn socket(family: u8, state: u8, timer: u8, port: u16) -> Vec<u8> {
        let mut body = vec![family, state, timer, 0];
        body.extend(port.to_be_bytes());
        body.resize(8, 0xff);
        body[6..8].copy_from_slice(&443_u16.to_be_bytes());
        body.extend([127, 0, 0, 9]);
        body.resize(24, 0);
        body.extend([192, 0, 2, 7]);
        body.resize(56, 0);
        body.extend([7_u32, 128, 1000, 4711].map(u32::to_ne_bytes).concat());
        body
    }

    fn read(datagram: &[u8]) -> Result<(Vec<Entry>, Read), Error> {
        let mut entries = Vec::new();
        let read = read_datagram(datagram, SEQUENCE, |entry| entries.push(entry))?;
        Ok((entries, read))
    }

    #[test]
    fn entries_are_decoded_up_to_the_end() {
        let mut datagram = message(TCPDIAG_GETSOCK, 2, SEQUENCE, &socket(2, 10, 0, 80));
        // Attributes: one whose length is no multiple of 4, a cgroup, and one that is cut short.
        let mut attributes = socket(10, 5, 3, 65535);
        attributes.extend([5, 0, 8, 0, 1, 0, 0, 0, 12, 0, 21, 0]);
        attributes.extend(77_u64.to_ne_bytes());
        attributes.extend([40, 0, 7, 0]);
        attributes.extend(
            [0, 0, 0, 0, 0, 0, 0, 0, 9_u32]
                .map(u32::to_ne_bytes)
                .concat(),
        );
        attributes.extend([9, 0, 8]);
        datagram.extend(message(SOCK_DIAG_BY_FAMILY, 2, SEQUENCE, &attributes));
        datagram.extend(message(NLMSG_NOOP, 0, SEQUENCE, &[]));
        datagram.extend(message(TCPDIAG_GETSOCK, 2, SEQUENCE - 1, &[]));
        datagram.extend(message(NLMSG_DONE, 2, SEQUENCE, &0_i32.to_ne_bytes()));
        let (entries, read) = read(&datagram).unwrap();
        let listener = Entry {
            family: Family::V4,
            state: State::Listen,
            minisocket: false,
            port: 80,
            address: "127.0.0.9".parse().unwrap(),
            peer_port: 443,
            peer: "192.0.2.7".parse().unwrap(),
            receive_queue: 7,
            send_queue: 128,
            uid: 1000,
            inode: 4711,
            drops: None,
            cgroup: None,
        };
        let minisocket = Entry {
            family: Family::V6,
            state: State::FinWait2,
            minisocket: true,
            port: 65535,
            address: "7f00:9::".parse().unwrap(),
            peer: "c000:207::".parse().unwrap(),
            drops: Some(9),
            cgroup: Some(77),
            ..listener
        };
        assert_eq!(entries, [listener, minisocket]);
        assert_eq!(
            read,
            Read {
                ended: true,
                interrupted: false
            }
        );
    }

    #[test]
    fn more_may_follow_and_dumps_may_be_interrupted() {
        assert_eq!(read(&[]).unwrap().1, Read::default());
        let flags = 2 | NLM_F_DUMP_INTR;
        let entry = message(TCPDIAG_GETSOCK, flags, SEQUENCE, &socket(2, 12, 1, 1));
        let (entries, more) = read(&entry).unwrap();
        assert_eq!(entries[0].state, State::SynRecv);
        assert_eq!(
            more,
            Read {
                ended: false,
                interrupted: true
            }
        );
        let done = read(&message(NLMSG_DONE, 2, SEQUENCE, &[])).unwrap().1;
        assert_eq!(
            done,
            Read {
                ended: true,
                interrupted: false
            }
        );
    }

    #[test]
    fn errors_of_the_kernel_are_told_apart() {
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            let failed = |errno: i32| {
                let payload = (-errno).to_ne_bytes();
                read(&message(kind, 0, SEQUENCE, &payload)).unwrap_err()
            };
            assert!(matches!(failed(libc::ENOENT), Error::Unsupported(_)));
            assert!(matches!(failed(libc::EOPNOTSUPP), Error::Unsupported(_)));
            assert!(matches!(failed(libc::EPERM), Error::Kernel(_)));
            assert!(failed(libc::EPERM).is_permission());
            assert!(!failed(libc::ENOBUFS).is_permission());
        }
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            assert!(read(&message(kind, 0, SEQUENCE, &i32::MIN.to_ne_bytes())).is_err());
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let whole = message(TCPDIAG_GETSOCK, 2, SEQUENCE, &socket(2, 1, 0, 80));
        for length in 1..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length} bytes");
        }
        for length in [0, 1, 15, 17, 87, 89, u32::MAX] {
            let mut bad = whole.clone();
            bad[..4].copy_from_slice(&u32::to_ne_bytes(length));
            assert!(
                matches!(read(&bad), Err(Error::Malformed(_))),
                "length {length}"
            );
        }
        let bad = [
            (TCPDIAG_GETSOCK, socket(1, 1, 0, 80)),
            (TCPDIAG_GETSOCK, socket(2, 0, 0, 80)),
            (TCPDIAG_GETSOCK, socket(2, 13, 0, 80)),
            (TCPDIAG_GETSOCK, vec![2, 1, 0]),
            (4, vec![]),
            (99, socket(2, 1, 0, 80)),
            (NLMSG_ERROR, vec![1, 2, 3]),
        ];
        for (kind, body) in bad {
            let datagram = message(kind, 2, SEQUENCE, &body);
            assert!(
                matches!(read(&datagram), Err(Error::Malformed(_))),
                "{kind} {body:?}"
            );
        }
    }

    #[test]
    fn requests_have_the_port_and_the_states_where_the_kernel_looks() {
        const FLAGS: u16 = 0x301;
        let v2 = one_family(SEQUENCE, Family::V6, 0x1ffe, Some(0x1234));
        let body = &v2[16..];
        assert_eq!(v2, message(SOCK_DIAG_BY_FAMILY, FLAGS, SEQUENCE, body));
        assert_eq!((body.len(), &body[..4]), (56, &[10, 6, 0, 0][..]));
        assert_eq!(body[4..8], 0x1ffe_u32.to_ne_bytes());
        assert_eq!(body[8..10], [0x12, 0x34]);
        let v1 = both_families(SEQUENCE, 0x1060, Some(0x1234));
        let body = &v1[16..];
        assert_eq!(v1, message(TCPDIAG_GETSOCK, FLAGS, SEQUENCE, body));
        assert_eq!((body.len(), &body[4..6]), (60, &[0x12, 0x34][..]));
        assert_eq!(body[52..56], 0x1060_u32.to_ne_bytes());
    }
}
