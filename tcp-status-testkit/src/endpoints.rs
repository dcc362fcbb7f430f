//! The two ends of a connection on loopback: listeners, clients, and how they meet. Does not
//! bring them into states: that is for `hold` and `churn`.

use std::{
    fmt, io,
    mem::MaybeUninit,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use libc::c_int;
use rand::{Rng, RngExt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{context, oracle::Table, sys};

/// How the two ends talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 on 127.0.0.0/8.
    V4 = 0,
    /// IPv6 on `::1`.
    V6 = 1,
    /// A dual-stack listener on `::`, and clients that speak IPv4: from an IPv4 socket, or from
    /// an IPv6 socket with v4-mapped addresses.
    Mapped = 2,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
            Self::Mapped => "mapped",
        })
    }
}

/// A blocking call that takes longer has lost its peer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Buffers of ends whose window is to be filled: the sender must hold more than fits into
/// the receiver. The kernel doubles both.
const SMALL_SEND: usize = 16 * 1024;
const SMALL_RECEIVE: usize = 2 * 1024;

/// One end, and where the kernel lists it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) socket: Socket,
    pub(crate) table: Table,
}

impl Endpoint {
    /// An unbound socket whose blocking calls end after a while.
    pub(crate) fn new(table: Table) -> io::Result<Self> {
        let domain = match table {
            Table::Tcp => Domain::IPV4,
            Table::Tcp6 => Domain::IPV6,
        };
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { socket, table })
    }

    /// A socket bound to a free port of loopback: not listening, so that to connect to it is
    /// refused.
    pub(crate) fn bound(rng: &mut impl Rng, family: Family) -> io::Result<Self> {
        let (table, address) = match family {
            Family::V4 => (Table::Tcp, SocketAddr::from((loopback(rng), 0))),
            Family::V6 => (Table::Tcp6, SocketAddr::from((Ipv6Addr::LOCALHOST, 0))),
            Family::Mapped => (Table::Tcp6, SocketAddr::from((mapped(rng), 0))),
        };
        let end = Self::new(table)?;
        end.socket.bind(&address.into())?;
        Ok(end)
    }

    /// Where to connect to in order to meet this end.
    pub(crate) fn address(&self) -> io::Result<SockAddr> {
        self.socket.local_addr()
    }

    /// Writes one byte.
    pub(crate) fn send_byte(&self) -> io::Result<()> {
        self.socket.send_with_flags(b"x", libc::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// Reads one byte, or nothing if the peer has closed.
    pub(crate) fn read_byte(&self) -> io::Result<()> {
        self.socket.recv(&mut [MaybeUninit::uninit()])?;
        Ok(())
    }

    /// Reads until the peer has closed.
    pub(crate) fn read_to_end(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        while self.socket.recv(&mut buffer)? > 0 {}
        Ok(())
    }

    /// Writes until the peer's window is full and unsent data waits behind it, so that a FIN
    /// cannot go out.
    pub(crate) fn fill(&self) -> io::Result<()> {
        let block = [0; 32 * 1024];
        self.socket.set_nonblocking(true)?;
        let mut full = 0;
        // A write that fails may have been overtaken by an acknowledgement: ask twice.
        while full < 2 {
            match self.socket.send_with_flags(&block, libc::MSG_NOSIGNAL) {
                Ok(_) => full = 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    full = if sys::unsent(&self.socket)? > 0 {
                        full + 1
                    } else {
                        0
                    };
                }
                Err(error) => return Err(error),
            }
        }
        self.socket.set_nonblocking(false)
    }

    /// Makes close() send RST instead of FIN.
    pub(crate) fn reset_on_close(&self) -> io::Result<()> {
        self.socket.set_linger(Some(Duration::ZERO))
    }
}

/// What is special about a listener, and about the clients that are made for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Length of the accept queue, less one.
    pub(crate) backlog: c_int,
    /// Small buffers at both ends.
    pub(crate) small: bool,
    /// `TCP_DEFER_ACCEPT`, in seconds: connections stay half-open until data comes.
    pub(crate) deferred: Option<c_int>,
    /// `SO_REUSEPORT`: other listeners may have the same address.
    pub(crate) shared: bool,
}

impl Style {
    /// A listener like most.
    pub(crate) const PLAIN: Self = Self {
        backlog: 1024,
        small: false,
        deferred: None,
        shared: false,
    };
    /// Small buffers.
    pub(crate) const SMALL: Self = Self {
        small: true,
        ..Self::PLAIN
    };

    /// Small buffers where their windows are to be filled. Before listen or connect: the
    /// window is agreed upon at the handshake.
    fn apply(self, socket: &Socket) -> io::Result<()> {
        if self.small {
            socket.set_send_buffer_size(SMALL_SEND)?;
            socket.set_recv_buffer_size(SMALL_RECEIVE)?;
        }
        Ok(())
    }
}

/// A listener, and what clients need to know of it.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) end: Endpoint,
    family: Family,
    style: Style,
}

impl Listener {
    /// Listens on a random port outside the range from which clients get theirs.
    pub(crate) fn new(rng: &mut impl Rng, family: Family, style: Style) -> io::Result<Self> {
        let mut tries = 100;
        loop {
            match Self::on_port(rng, family, style) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => tries -= 1,
                result => return result.map_err(|e| context("listen, on a random port", &e)),
            }
        }
    }

    /// One more listener with the same address, of the same style, which is a shared one.
    pub(crate) fn sibling(&self) -> io::Result<Self> {
        let address = self.end.address()?;
        Self::at(&address, self.end.table, self.family, self.style)
    }

    fn on_port(rng: &mut impl Rng, family: Family, style: Style) -> io::Result<Self> {
        let port = rng.random_range(1024..32_768);
        let (table, address) = match family {
            Family::V4 => (Table::Tcp, SocketAddr::from((loopback(rng), port))),
            Family::V6 => (Table::Tcp6, SocketAddr::from((Ipv6Addr::LOCALHOST, port))),
            Family::Mapped => (Table::Tcp6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
        };
        Self::at(&address.into(), table, family, style)
    }

    fn at(address: &SockAddr, table: Table, family: Family, style: Style) -> io::Result<Self> {
        let end = Endpoint::new(table)?;
        if table == Table::Tcp6 {
            end.socket.set_only_v6(family == Family::V6)?;
        }
        // Else TIME_WAIT sockets of an earlier listener would keep the port.
        end.socket.set_reuse_address(true)?;
        if let Some(seconds) = style.deferred {
            let level = libc::IPPROTO_TCP;
            sys::set_option(&end.socket, level, libc::TCP_DEFER_ACCEPT, seconds)?;
        }
        end.socket.set_reuse_port(style.shared)?;
        style.apply(&end.socket)?;
        end.socket.bind(address)?;
        end.socket.listen(style.backlog)?;
        Ok(Self { end, family, style })
    }

    /// Listens on the same socket again.
    pub(crate) fn listen_again(&self) -> io::Result<()> {
        self.end.socket.listen(self.style.backlog)
    }

    /// A client for this listener, not connected yet, and the address to connect it to. Comes
    /// from a random source address where there is more than one, so that ports last.
    pub(crate) fn client(&self, rng: &mut impl Rng) -> io::Result<(Endpoint, SockAddr)> {
        let listening = self.end.address()?;
        let port = listening.as_socket().map_or(0, |address| address.port());
        let (table, source, target) = match self.family {
            Family::V4 => {
                let source = SocketAddr::from((loopback(rng), 0));
                (Table::Tcp, Some(source), listening)
            }
            Family::V6 => (Table::Tcp6, None, listening),
            Family::Mapped if rng.random() => {
                let source = SocketAddr::from((loopback(rng), 0));
                let target = SocketAddr::from((loopback(rng), port));
                (Table::Tcp, Some(source), target.into())
            }
            Family::Mapped => {
                let source = SocketAddr::from((mapped(rng), 0));
                let target = SocketAddr::from((mapped(rng), port));
                (Table::Tcp6, Some(source), target.into())
            }
        };
        let end = Endpoint::new(table)?;
        self.style.apply(&end.socket)?;
        if let Some(source) = source {
            // The port is then chosen by connect, which needs only the four-tuple to be free.
            let (level, name) = (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
            sys::set_option(&end.socket, level, name, 1)?;
            end.socket.bind(&source.into())?;
        }
        Ok((end, target))
    }

    /// A client that is connected as far as its own end is concerned.
    pub(crate) fn connect(&self, rng: &mut impl Rng) -> io::Result<Endpoint> {
        let (end, target) = self.client(rng)?;
        let connected = end.socket.connect(&target);
        connected.map_err(|error| context("connect, on loopback", &error))?;
        Ok(end)
    }

    /// A client that has sent its SYN and waits for nothing.
    pub(crate) fn start_connect(&self, rng: &mut impl Rng) -> io::Result<Endpoint> {
        let (end, target) = self.client(rng)?;
        end.socket.set_nonblocking(true)?;
        match end.socket.connect(&target) {
            Ok(()) => Ok(end),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(end),
            Err(error) => Err(context("connect, on loopback", &error)),
        }
    }

    /// The end of the next connection that waits.
    pub(crate) fn accept(&self) -> io::Result<Endpoint> {
        let accepted = self.end.socket.accept();
        let (socket, _) = accepted.map_err(|error| context("accept, on loopback", &error))?;
        let table = self.end.table;
        Ok(Endpoint { socket, table })
    }

    /// Client and accepted end of one connection. Nothing else may wait at the listener.
    pub(crate) fn pair(&self, rng: &mut impl Rng) -> io::Result<(Endpoint, Endpoint)> {
        let client = self.connect(rng)?;
        Ok((client, self.accept()?))
    }
}

/// A listener whose accept queue is full, with the clients that fill it: further SYNs are
/// dropped, and their senders stay in SYN_SENT.
pub(crate) fn full_listener(
    rng: &mut impl Rng,
    family: Family,
) -> io::Result<(Listener, [Endpoint; 2])> {
    // Not 0: with an accept queue of one the kernel would answer the first SYN by a cookie.
    let style = Style {
        backlog: 1,
        ..Style::PLAIN
    };
    let listener = Listener::new(rng, family, style)?;
    let fillers = [listener.connect(rng)?, listener.connect(rng)?];
    let limit = Instant::now() + TIMEOUT;
    // The last step of the handshake may still be on its way.
    while sys::accept_queue(&listener.end.socket)? < 2 {
        if Instant::now() > limit {
            let why = "accept queue, of a listener with backlog 1: does not fill";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        thread::yield_now();
    }
    Ok((listener, fillers))
}

fn loopback(rng: &mut impl Rng) -> Ipv4Addr {
    let [_, a, b, c] = rng.random::<[u8; 4]>();
    // Neither the network's own address nor its broadcast address.
    Ipv4Addr::new(127, a, b, c.clamp(1, 254))
}

fn mapped(rng: &mut impl Rng) -> Ipv6Addr {
    loopback(rng).to_ipv6_mapped()
}
