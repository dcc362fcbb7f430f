//! Connects that a peer or a lack of ports ends, and connections that no longer have a peer.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, TcpKeepalive, Type};
use tcp_status::snapshot::{ConnectFailures, ConnectionEnds, Ends};
use tcp_status_testkit::{
    netns::{cut_off, set_sysctl},
    raise_fd_limit,
    raw_peer::RawPeer,
    soon,
};

use crate::{
    ends::{assert_ends, error_of},
    subject::{Subject, place},
};

/// A socket that connects to a peer of [`RawPeer`].
fn connecting() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let local = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    socket.bind(&local.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let peer = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 7), 80);
    assert_eq!(error_of(socket.connect(&peer.into())), libc::EINPROGRESS);
    socket
}

/// What the kernel says of a connect, once it has failed.
fn failure(socket: &Socket) -> i32 {
    let started = Instant::now();
    loop {
        if let Some(error) = socket.take_error().unwrap() {
            return error.raw_os_error().unwrap();
        }
        assert!(started.elapsed() < soon(), "it goes on connecting");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn connects_that_a_peer_ends_are_counted_by_reason() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let peer = RawPeer::new().unwrap();
            let subject = Subject::start();
            let before = subject.snapshot().ends.unwrap();
            // Network, host, protocol; the host's network does not know it.
            for (code, error) in [
                (0, libc::ENETUNREACH),
                (1, libc::EHOSTUNREACH),
                (2, libc::ENOPROTOOPT),
                (8, libc::ENONET),
            ] {
                let socket = connecting();
                let attempt = peer.next_attempt().unwrap();
                peer.unreachable(&attempt, code).unwrap();
                assert_eq!(failure(&socket), error);
            }
            for _ in 0..2 {
                let socket = connecting();
                peer.meet_and_reset(&peer.next_attempt().unwrap()).unwrap();
                assert_eq!(failure(&socket), libc::ECONNRESET);
            }
            // A reset of what was only asked for is "refused"; after both sides have begun, a connection ends.
            let expected = Ends {
                connect_failures: ConnectFailures {
                    unreachable: 3,
                    other: 1,
                    ..ConnectFailures::default()
                },
                connection_ends: ConnectionEnds {
                    reset_by_peer: 2,
                    ..ConnectionEnds::default()
                },
                ..Ends::default()
            };
            assert_ends(&subject, &before, &expected);
        })
        .unwrap();
}

#[test]
fn connections_whose_peer_is_gone_time_out_by_keepalive() {
    const MANY: u64 = 3;
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = Subject::start();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let second = Duration::from_secs(1);
            let keepalive = TcpKeepalive::new().with_time(second).with_interval(second);
            let open = (0..MANY).map(|_| {
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                (Socket::from(client), listener.accept().unwrap())
            });
            let open: Vec<_> = open.collect();
            let before = subject.snapshot().ends.unwrap();
            for (client, _) in &open {
                client
                    .set_tcp_keepalive(&keepalive.clone().with_retries(1))
                    .unwrap();
            }
            cut_off().unwrap();
            let started = Instant::now();
            while open.iter().any(|(client, _)| client.peer_addr().is_ok()) {
                assert!(started.elapsed() < 10 * second, "they are still connected");
                thread::sleep(Duration::from_millis(50));
            }
            let expected = Ends {
                connection_ends: ConnectionEnds {
                    timed_out: MANY,
                    ..ConnectionEnds::default()
                },
                ..Ends::default()
            };
            assert_ends(&subject, &before, &expected);
        })
        .unwrap();
}

/// A socket at a source address, whose port `connect()` chooses, or `bind()`.
fn at(source: IpAddr, by_connect: bool) -> io::Result<Socket> {
    let address = SocketAddr::new(source, 0);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    let on: libc::c_int = by_connect.into();
    // SAFETY: the kernel reads the integer, whose size it is told.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            libc::socklen_t::try_from(size_of_val(&on)).unwrap(),
        )
    };
    assert_eq!(set, 0);
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Each source address has the whole range for each destination.
#[test]
fn two_thousand_ports_are_used_up_from_each_source_address() {
    const PORTS: usize = 2_000;
    const FAILED: u64 = 5;
    let Some(netns) = place() else { return };
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            set_sysctl("ipv4/ip_local_port_range", "40000 41999").unwrap();
            set_sysctl("core/somaxconn", "65535").unwrap();
            let subject = Subject::start();
            let before = subject.snapshot().ends.unwrap();
            let (mut open, mut failed) = (Vec::new(), 0);
            for (local, sources) in [
                (
                    IpAddr::from(Ipv4Addr::LOCALHOST),
                    vec![[127, 0, 0, 2].into(), [127, 0, 0, 3].into()],
                ),
                (
                    Ipv6Addr::LOCALHOST.into(),
                    vec![IpAddr::from(Ipv6Addr::LOCALHOST)],
                ),
            ] {
                let address = SocketAddr::new(local, 8080);
                let listener =
                    Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
                listener.bind(&address.into()).unwrap();
                listener.listen(65_535).unwrap();
                for source in sources {
                    for _ in 0..PORTS {
                        let socket = at(source, true).unwrap();
                        socket.connect(&address.into()).unwrap();
                        open.push(socket);
                    }
                    for _ in 0..FAILED {
                        let socket = at(source, true).unwrap();
                        let error = error_of(socket.connect(&address.into()));
                        assert_eq!(error, libc::EADDRNOTAVAIL);
                        failed += 1;
                    }
                    // There the port is lacking before there is a connect, and no event.
                    assert_eq!(error_of(at(source, false)), libc::EADDRINUSE);
                }
                open.push(listener);
            }
            let expected = Ends {
                no_local_port: failed,
                ..Ends::default()
            };
            assert_ends(&subject, &before, &expected);
            subject.assert_exact_within(soon());
        })
        .unwrap();
}
