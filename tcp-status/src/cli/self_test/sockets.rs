//! Sockets in every state on loopback, in the calling thread's network namespace. Needs no privilege.

use std::{
    io::{self, ErrorKind, Read as _},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use nix::{setsockopt_impl, sockopt_impl, sys::socket::setsockopt};
use socket2::{Domain, Socket, Type};
use tcp_status_common::state::Family;

sockopt_impl!(
    /// Seconds for which a connection stays half-open until data comes.
    DeferAccept,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    u32
);

/// A blocking call that takes longer has lost its peer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// For so long nothing may be taken by a peer whose window is full.
const FULL: Duration = Duration::from_millis(20);

/// Buffers of connections whose window is to be filled.
const SEND_BUFFER: usize = 16 * 1024;
const RECEIVE_BUFFER: usize = 2 * 1024;

/// The address family, as it can be used here.
fn loopback(family: Family) -> SocketAddr {
    match family {
        Family::V4 => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        Family::V6 => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
    }
}

/// Whether sockets of a family can be bound to loopback.
pub(super) fn is_available(family: Family) -> bool {
    listen(family, 1, None).is_ok()
}

fn socket(family: Family) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    Ok(socket)
}

fn listen(family: Family, backlog: i32, deferred: Option<u32>) -> io::Result<Socket> {
    let listener = socket(family)?;
    if let Some(seconds) = deferred {
        setsockopt(&listener, DeferAccept, &seconds)?;
    }
    listener.bind(&loopback(family).into())?;
    listener.listen(backlog)?;
    Ok(listener)
}

fn connect(family: Family, listener: &Socket) -> io::Result<TcpStream> {
    let client = socket(family)?;
    client.connect(&listener.local_addr()?)?;
    Ok(client.into())
}

/// Sockets that stay in their states until they are dropped, but for TIME_WAIT.
#[derive(Debug, Default)]
pub(super) struct OpenSockets {
    streams: Vec<TcpStream>,
    others: Vec<Socket>,
}

impl OpenSockets {
    /// Opens at least one socket of each state but CLOSE, which no socket at rest has.
    ///
    /// # Errors
    /// What a system call says.
    pub(super) fn open(&mut self, family: Family) -> io::Result<()> {
        let listener = listen(family, 64, None)?;
        let pair = || -> io::Result<[TcpStream; 2]> {
            let client = connect(family, &listener)?;
            let (server, _) = listener.accept()?;
            server.set_read_timeout(Some(TIMEOUT))?;
            Ok([client, server.into()])
        };
        // ESTABLISHED.
        self.streams.extend(pair()?);
        // FIN_WAIT2 and CLOSE_WAIT.
        let [client, server] = pair()?;
        client.shutdown(Shutdown::Write)?;
        self.streams.extend([client, server]);
        // FIN_WAIT1: the FIN waits behind data that the peer has no room for.
        let [client, server] = pair()?;
        fill(&client)?;
        client.shutdown(Shutdown::Write)?;
        self.streams.extend([client, server]);
        // LAST_ACK: the same after the peer's FIN.
        let [client, mut server] = pair()?;
        client.shutdown(Shutdown::Write)?;
        read_to_end(&mut server)?;
        fill(&server)?;
        server.shutdown(Shutdown::Write)?;
        self.streams.extend([client, server]);
        // CLOSING: the same before the peer's FIN.
        let [client, server] = pair()?;
        fill(&client)?;
        client.shutdown(Shutdown::Write)?;
        server.shutdown(Shutdown::Write)?;
        self.streams.extend([client, server]);
        // TIME_WAIT.
        let [client, mut server] = pair()?;
        drop(client);
        read_to_end(&mut server)?;
        drop(server);
        self.half_open(family)?;
        self.unanswered(family)?;
        self.others.push(listener);
        Ok(())
    }

    /// SYN_RECV: a listener that waits for data.
    fn half_open(&mut self, family: Family) -> io::Result<()> {
        let listener = listen(family, 64, Some(120))?;
        self.streams.push(connect(family, &listener)?);
        self.others.push(listener);
        Ok(())
    }

    /// SYN_SENT: a listener whose accept queue is full.
    fn unanswered(&mut self, family: Family) -> io::Result<()> {
        // Not 0: with an accept queue of one the kernel would answer the first SYN by a cookie.
        let listener = listen(family, 1, None)?;
        for _ in 0..2 {
            self.streams.push(connect(family, &listener)?);
        }
        // The last step of the handshakes may be on its way.
        thread::sleep(FULL);
        let client = socket(family)?;
        client.set_nonblocking(true)?;
        match client.connect(&listener.local_addr()?) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            connected => connected?,
        }
        self.others.extend([client, listener]);
        Ok(())
    }
}

/// Writes until the peer's window is full and data waits behind it.
fn fill(stream: &TcpStream) -> io::Result<()> {
    let block = [0; 32 * 1024];
    stream.set_nonblocking(true)?;
    let mut full = false;
    loop {
        match io::Write::write(&mut &*stream, &block) {
            Ok(_) => full = false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if full {
                    return stream.set_nonblocking(false);
                }
                full = true;
                thread::sleep(FULL);
            }
            Err(error) => return Err(error),
        }
    }
}

fn read_to_end(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}
