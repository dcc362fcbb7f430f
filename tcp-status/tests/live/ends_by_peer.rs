//! Connects that a peer ends, and connections that no longer have a peer.

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, TcpKeepalive, Type};
use tcp_status::snapshot::{ConnectFailures, ConnectionEnds, Ends};
use tcp_status_testkit::{netns::cut_off, raw_peer::RawPeer, soon};

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
