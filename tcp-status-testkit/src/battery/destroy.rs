//! `SOCK_DESTROY`: an administrator ends sockets of others (`ss -K`), in any state.

use std::{
    io::{self, Read},
    net::IpAddr,
};

use rand::RngExt;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Stage, Verdict};
use crate::{
    context,
    held_sockets::{HeldSockets, SocketPlan},
    kernel_listing::{ListedSocket, sockets},
    oracle::{NAMES, Table, st},
};

/// Of `include/uapi/linux/sock_diag.h` and `netlink.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const LENGTH: u32 = 72;

/// So many sockets of each kind and family.
const EACH: u32 = 2;

/// Not the open ones first: with them go the peers that are to be found in the other states.
const ORDER: [usize; 10] = [
    st::SYN_SENT,
    st::FIN_WAIT1,
    st::CLOSING,
    st::LAST_ACK,
    st::FIN_WAIT2,
    st::CLOSE_WAIT,
    st::SYN_RECV,
    st::ESTABLISHED,
    st::TIME_WAIT,
    st::LISTEN,
];

/// Destroys everything, one state after the other.
pub(super) fn destroyed(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let diag = Diag::new()?;
    if !Diag::knows_tcp()? {
        let proof =
            "dump of TCP sockets over sock_diag: ENOENT (CONFIG_INET_TCP_DIAG, tcp_diag.ko)";
        return Ok(Verdict::Lacking(proof.to_owned()));
    }
    // An earlier run has destroyed them.
    stage.ctx.forget_listeners();
    if let Err(error) = try_one(stage, &diag) {
        return match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Ok(Verdict::Lacking(format!(
                "SOCK_DESTROY of an open connection: {error} (CONFIG_INET_DIAG_DESTROY)"
            ))),
            _ => Err(context("SOCK_DESTROY, of an open connection", &error)),
        };
    }
    let plan = SocketPlan::uniform(EACH, stage.ctx.rng.random());
    let hold = HeldSockets::new(&plan)?;
    hold.wait(super::LIMIT)?;
    // Not every socket is a connection, and most connections are two sockets.
    stage.ctx.count(hold.expected().total() / 2);
    stage.rest("every state");
    for state in ORDER {
        let mut done = 0;
        for socket in sockets()?.iter().filter(|socket| socket.st == state) {
            match diag.destroy(socket) {
                Ok(()) => done += 1,
                // Gone with its peer; or a minisocket, which older kernels do not destroy.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error)
                    if matches!(state, st::FIN_WAIT2 | st::TIME_WAIT)
                        && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(context("SOCK_DESTROY", &error)),
            }
        }
        if done == 0 && state != st::TIME_WAIT {
            let why = format!("SOCK_DESTROY, of {}: none was destroyed", NAMES[state]);
            return Err(io::Error::other(why));
        }
        stage.rest(&format!("{} destroyed", NAMES[state]));
    }
    Ok(Verdict::Done)
}

fn try_one(stage: &mut Stage<'_>, diag: &Diag) -> io::Result<()> {
    let (client, server) = stage.ctx.pair()?;
    let local = client.address()?.as_socket().expect("it is connected");
    let listed = sockets()?;
    let open = |socket: &&ListedSocket| {
        // The listing shows v4-mapped addresses as such, as the socket does.
        socket.st == st::ESTABLISHED && socket.local == local
    };
    let socket = listed.iter().find(open).expect("it is listed");
    diag.destroy(socket)?;
    drop((client, server));
    Ok(())
}

/// A socket to the kernel's sock_diag.
struct Diag(Socket);

impl Diag {
    fn new() -> io::Result<Self> {
        let domain = Domain::from(libc::AF_NETLINK);
        let protocol = Protocol::from(libc::NETLINK_SOCK_DIAG);
        Ok(Self(Socket::new(domain, Type::RAW, Some(protocol))?))
    }

    fn destroy(&self, socket: &ListedSocket) -> io::Result<()> {
        self.0
            .send(&request(SOCK_DESTROY, NLM_F_ACK, Some(socket)))?;
        match self.error()? {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(-code)),
            None => Err(io::Error::other("answer of sock_diag: no error message")),
        }
    }

    /// Whether the kernel has the module that serves TCP. Over a socket of its own, since the
    /// answer, if there is one, is not read to its end.
    fn knows_tcp() -> io::Result<bool> {
        let dump = Self::new()?;
        dump.0
            .send(&request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, None))?;
        Ok(dump.error()? != Some(-libc::ENOENT))
    }

    /// The code of an error message; none if the answer is something else.
    fn error(&self) -> io::Result<Option<i32>> {
        let mut answer = [0; 32 * 1024];
        let length = (&self.0).read(&mut answer)?;
        let answer = &answer[..length];
        let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok());
        let code = answer.get(16..20).and_then(|code| code.try_into().ok());
        let is_error = kind.map(u16::from_ne_bytes) == Some(NLMSG_ERROR);
        Ok(code.map(i32::from_ne_bytes).filter(|_| is_error))
    }
}

/// `nlmsghdr` and `inet_diag_req_v2`, for one socket or all of IPv4.
fn request(kind: u16, flags: u16, socket: Option<&ListedSocket>) -> Vec<u8> {
    let family = match socket.map(|socket| socket.table) {
        None | Some(Table::Tcp) => libc::AF_INET,
        Some(Table::Tcp6) => libc::AF_INET6,
    };
    let mut bytes = Vec::new();
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number, sender.
    bytes.extend([0; 8]);
    bytes.push(u8::try_from(family).expect("families are small"));
    bytes.push(u8::try_from(libc::IPPROTO_TCP).expect("it is 6"));
    bytes.extend([0; 2]);
    // All states.
    bytes.extend(u32::MAX.to_ne_bytes());
    match socket {
        Some(socket) => {
            bytes.extend(socket.local.port().to_be_bytes());
            bytes.extend(socket.remote.port().to_be_bytes());
            bytes.extend(octets(socket.local.ip()));
            bytes.extend(octets(socket.remote.ip()));
        }
        None => bytes.extend([0; 36]),
    }
    // Any interface, any cookie.
    bytes.extend([0; 4]);
    bytes.extend([0xFF; 8]);
    bytes
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
        IpAddr::V6(address) => address.octets(),
    }
}
