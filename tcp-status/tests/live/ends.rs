//! Why connections fail and how they end, against what the kernel says to those who use them.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tcp_status::serve::{Source as _, protocol::Show};
use tcp_status::snapshot::{ConnectFailures, ConnectionEnds, Ends, NoLocalPortDestination};
use tcp_status_testkit::{
    netns::{cut_off, set_sysctl},
    soon,
};

use crate::{
    namespaces::{self, Inhabited},
    subject::{Subject, place},
};

/// Both families' loopback.
pub const BOTH: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

fn listener(at: IpAddr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((at, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn pair(at: IpAddr) -> (TcpStream, TcpStream) {
    let (listener, address) = listener(at);
    let client = TcpStream::connect(address).unwrap();
    (client, listener.accept().unwrap().0)
}

/// A listener whose accept queue is full, and those that fill it.
fn deaf(at: IpAddr) -> (Socket, SocketAddr, Vec<TcpStream>) {
    let any = SocketAddr::new(at, 0);
    let socket = Socket::new(Domain::for_address(any), Type::STREAM, None).unwrap();
    socket.bind(&any.into()).unwrap();
    // Not 0: the kernel would answer the first SYN with a cookie.
    socket.listen(1).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let fill = || TcpStream::connect(address).unwrap();
    let fillers = vec![fill(), fill()];
    (socket, address, fillers)
}

/// Closes it by a reset.
fn without_lingering(stream: TcpStream) {
    let socket = Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

pub fn error_of(result: io::Result<impl Sized>) -> i32 {
    result.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}

/// What came since `before`, once it is what is `expected`.
pub fn assert_ends(subject: &Subject, before: &Ends, expected: &Ends) {
    let started = Instant::now();
    loop {
        let now = subject.snapshot().ends.unwrap();
        let found = minus(&now, before);
        if found == *expected {
            return;
        }
        assert!(started.elapsed() < soon(), "{found:?}, not {expected:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn minus(now: &Ends, before: &Ends) -> Ends {
    let (failures, earlier) = (now.connect_failures, before.connect_failures);
    let (ends, ended) = (now.connection_ends, before.connection_ends);
    Ends {
        connect_failures: ConnectFailures {
            refused: failures.refused - earlier.refused,
            reset: failures.reset - earlier.reset,
            timed_out: failures.timed_out - earlier.timed_out,
            unreachable: failures.unreachable - earlier.unreachable,
            aborted: failures.aborted - earlier.aborted,
            other: failures.other - earlier.other,
        },
        no_local_port: now.no_local_port - before.no_local_port,
        connection_ends: ConnectionEnds {
            closed: ends.closed - ended.closed,
            reset_by_peer: ends.reset_by_peer - ended.reset_by_peer,
            reset_locally: ends.reset_locally - ended.reset_locally,
            timed_out: ends.timed_out - ended.timed_out,
        },
    }
}

#[test]
fn failed_connects_are_counted_by_reason() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            set_sysctl("ipv4/tcp_syn_retries", "1").unwrap();
            let subject = Subject::start();
            let before = subject.snapshot().ends.unwrap();
            for at in BOTH {
                let (closed, refusing) = listener(at);
                drop(closed);
                for _ in 0..5 {
                    assert_eq!(error_of(TcpStream::connect(refusing)), libc::ECONNREFUSED);
                }
                let (deaf, silent, fillers) = deaf(at);
                assert_eq!(error_of(TcpStream::connect(silent)), libc::ETIMEDOUT);
                for _ in 0..3 {
                    let given_up =
                        Socket::new(Domain::for_address(silent), Type::STREAM, None).unwrap();
                    given_up.set_nonblocking(true).unwrap();
                    assert_eq!(
                        error_of(given_up.connect(&silent.into())),
                        libc::EINPROGRESS
                    );
                }
                // It resets what waits there while that is open.
                drop(deaf);
                drop(fillers);
            }
            let expected = Ends {
                connect_failures: ConnectFailures {
                    refused: 2 * 5,
                    timed_out: 2,
                    aborted: 2 * 3,
                    ..ConnectFailures::default()
                },
                // Those that filled the queues, and what waited there.
                connection_ends: ConnectionEnds {
                    reset_by_peer: 2 * 2,
                    reset_locally: 2 * 2,
                    ..ConnectionEnds::default()
                },
                ..Ends::default()
            };
            assert_ends(&subject, &before, &expected);
        })
        .unwrap();
}

#[test]
fn connects_without_a_local_port_are_counted() {
    const PORTS: usize = 4;
    const FAILED: u64 = 3;
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            set_sysctl("ipv4/ip_local_port_range", "40000 40003").unwrap();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 8080)).unwrap();
            let address = listener.local_addr().unwrap();
            let subject = Subject::start();
            let before = subject.snapshot().ends.unwrap();
            let _open: Vec<_> = (0..PORTS)
                .map(|_| TcpStream::connect(address).unwrap())
                .collect();
            for _ in 0..FAILED {
                assert_eq!(error_of(TcpStream::connect(address)), libc::EADDRNOTAVAIL);
            }
            let expected = Ends {
                no_local_port: FAILED,
                ..Ends::default()
            };
            assert_ends(&subject, &before, &expected);
        })
        .unwrap();
}

/// How often connects failed for want of a local port, by destination, and connections that keep
/// the ports.
#[derive(Default)]
struct Failed {
    counts: BTreeMap<(IpAddr, u16), u64>,
    _open: Vec<Socket>,
}

impl Failed {
    /// Connects until so many connects have failed.
    fn connect(&mut self, domain: Domain, to: SocketAddr, failures: u64) {
        let destination = (to.ip().to_canonical(), to.port());
        while self.counts.get(&destination) < Some(&failures) {
            let socket = Socket::new(domain, Type::STREAM, None).unwrap();
            match error_of(socket.connect(&to.into())) {
                0 => self._open.push(socket),
                errno => {
                    assert_eq!(errno, libc::EADDRNOTAVAIL);
                    *self.counts.entry(destination).or_default() += 1;
                }
            }
        }
    }

    /// What a tracker found is what connects said.
    fn assert_found(&self, found: Vec<NoLocalPortDestination>) {
        assert!(
            found.iter().all(|one| one.last_seconds_ago < 60),
            "{found:?}"
        );
        let found = found.into_iter();
        let found = found.map(|one| ((one.address, one.port), one.failures));
        assert_eq!(found.collect::<BTreeMap<_, _>>(), self.counts);
    }
}

/// Connects of both families to several destinations of the calling thread's namespace.
fn fail_by_destination() -> Failed {
    set_sysctl("ipv4/ip_local_port_range", "40000 40003").unwrap();
    let (v4, v6) = (Domain::IPV4, Domain::IPV6);
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8080)).unwrap();
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 5432)).unwrap();
    let at = |address: IpAddr| SocketAddr::new(address, 8080);
    let mut failed = Failed::default();
    failed.connect(v4, other.local_addr().unwrap(), 31);
    failed.connect(v4, at(Ipv4Addr::LOCALHOST.into()), 3);
    failed.connect(v4, at(Ipv4Addr::new(127, 0, 0, 9).into()), 1);
    failed.connect(v6, at(Ipv6Addr::LOCALHOST.into()), 4);
    // To where a socket of IPv4 wanted as well.
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    failed.connect(v6, at(mapped.into()), 5);
    drop((listener, other));
    failed
}

#[test]
fn connects_without_a_local_port_are_counted_by_destination() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = Subject::start();
            let failed = fail_by_destination();
            let snapshot = subject.snapshot();
            let total = snapshot.ends.unwrap().no_local_port;
            let destinations = snapshot.no_local_port_destinations.unwrap();
            assert_eq!(total, failed.counts.values().sum::<u64>());
            let last = &destinations[0];
            assert_eq!(
                (last.address, last.port),
                (Ipv4Addr::LOCALHOST.into(), 8080)
            );
            failed.assert_found(destinations);
        })
        .unwrap();
}

#[test]
fn destinations_of_other_namespaces_are_told_apart() {
    let (Some(own), Some(other)) = (place(), Inhabited::place()) else {
        return;
    };
    own.run(|| {
        let subject = Subject::start_changed(|settings| settings.all_namespaces = true);
        let failed = other.run(fail_by_destination).unwrap();
        let found = namespaces::of(&subject, &other).unwrap();
        failed.assert_found(found.no_local_port_destinations.unwrap());
        let own = subject.snapshot().no_local_port_destinations;
        assert_eq!(own, Some(Vec::new()));
    })
    .unwrap();
}

#[test]
fn only_the_last_destinations_are_kept() {
    const KEPT: usize = 64;
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            set_sysctl("ipv4/ip_local_port_range", "40000 40000").unwrap();
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap();
            let subject = Subject::start_attentive();
            let mut failed = Failed::default();
            let to: Vec<_> = (1..=100)
                .map(|last| SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 8080)))
                .collect();
            for to in &to {
                failed.connect(Domain::IPV4, *to, 1);
            }
            let found = subject.snapshot().no_local_port_destinations.unwrap();
            let addresses = found.iter().map(|one| one.address);
            let last = to.iter().rev().take(KEPT).map(SocketAddr::ip);
            assert_eq!(addresses.collect::<Vec<_>>(), last.collect::<Vec<_>>());
            // What was forgotten counts anew; each is tried once, for then it is among the last.
            let started = Instant::now();
            let forgotten = to.iter().any(|to| {
                thread::sleep(Duration::from_millis(100));
                failed.connect(Domain::IPV4, *to, 2);
                let found = subject.snapshot().no_local_port_destinations.unwrap();
                assert_eq!((found.len(), found[0].address), (KEPT, to.ip()));
                assert!(started.elapsed() < soon(), "{found:?}");
                found[0].failures == 1
            });
            assert!(forgotten);
            drop(listener);
        })
        .unwrap();
}

#[test]
fn a_socket_that_had_a_port_before_fails_for_want_of_one() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            set_sysctl("ipv4/ip_local_port_range", "40000 40000").unwrap();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 8080)).unwrap();
            let refusing = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
            let subject = Subject::start();
            let again = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            assert_eq!(
                error_of(again.connect(&refusing.into())),
                libc::ECONNREFUSED
            );
            let address = listener.local_addr().unwrap();
            let _open = TcpStream::connect(address).unwrap();
            let errno = error_of(again.connect(&address.into()));
            let ends = subject.snapshot().ends.unwrap();
            assert_eq!(
                (errno, ends.no_local_port),
                (libc::EADDRNOTAVAIL, 1),
                "{ends:?}"
            );
        })
        .unwrap();
}

/// A listener, connections of which end at its port for different reasons.
struct Ending {
    listener: TcpListener,
    ended: ConnectionEnds,
}

impl Ending {
    fn new() -> Self {
        Self {
            listener: listener(BOTH[0]).0,
            ended: ConnectionEnds::default(),
        }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    fn pair(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        (client, self.listener.accept().unwrap().0)
    }

    fn end(&mut self, closed: u64, reset_by_peer: u64, reset_locally: u64) {
        for i in 0..closed {
            let (mut first, mut second) = self.pair();
            if i % 2 == 0 {
                (first, second) = (second, first);
            }
            first.shutdown(Shutdown::Write).unwrap();
            second.read_to_end(&mut Vec::new()).unwrap();
        }
        let reset = |resetting: TcpStream, mut other: TcpStream| {
            let linger = Some(Duration::ZERO);
            Socket::from(resetting).set_linger(linger).unwrap();
            assert_eq!(error_of(other.read(&mut [0])), libc::ECONNRESET);
        };
        for _ in 0..reset_by_peer {
            let (client, server) = self.pair();
            reset(client, server);
        }
        for _ in 0..reset_locally {
            let (client, server) = self.pair();
            reset(server, client);
        }
        self.ended.closed += closed;
        self.ended.reset_by_peer += reset_by_peer;
        self.ended.reset_locally += reset_locally;
    }

    /// The peer is silent for too long.
    fn time_out(&mut self) {
        let (_client, mut server) = self.pair();
        let limited = Socket::from(server.try_clone().unwrap());
        let limit = Some(Duration::from_millis(300));
        limited.set_tcp_user_timeout(limit).unwrap();
        cut_off().unwrap();
        server.write_all(b"x").unwrap();
        assert_eq!(error_of(server.read(&mut [0])), libc::ETIMEDOUT);
        self.ended.timed_out += 1;
    }

    /// Waits until both the reading of all ports and that of this one are right.
    fn assert_counted(&self, subject: &Subject) {
        let started = Instant::now();
        loop {
            let all = subject.snapshot();
            let port = Some(self.port());
            let show = Show {
                port,
                ..Show::default()
            };
            let alone = subject.tracker.show(&show).unwrap().remove(0);
            let found = [all, alone].map(|one| {
                let mut rows = one.ports.tracked.into_iter();
                rows.find(|row| Some(row.port) == port)?.connection_ends
            });
            if found == [Some(self.ended); 2] {
                return;
            }
            let expected = self.ended;
            assert!(started.elapsed() < soon(), "{found:?}, not {expected:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn ends_of_connections_are_counted_by_port_across_audits() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let mut before = Ending::new();
            let subject = Subject::start_attentive();
            let mut after = Ending::new();
            let mut audits = 0;
            for round in 0..3 {
                before.end(5 + round, 3, 2);
                after.end(1, 4, 6 + round);
                for one in [&before, &after] {
                    one.assert_counted(&subject);
                }
                // What was counted before a bank is switched, is part of what is counted after it.
                let started = Instant::now();
                while subject.snapshot().drift.audits <= audits {
                    assert!(started.elapsed() < 10 * soon(), "no audit");
                    thread::sleep(Duration::from_millis(20));
                }
                audits = subject.snapshot().drift.audits;
                for one in [&before, &after] {
                    one.assert_counted(&subject);
                }
            }
            before.time_out();
            before.assert_counted(&subject);
            after.assert_counted(&subject);
        })
        .unwrap();
}

#[test]
fn ends_of_connections_are_counted_by_reason() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = Subject::start();
            let before = subject.snapshot().ends.unwrap();
            // Both ends of each are counted.
            for at in BOTH {
                for _ in 0..4 {
                    let (client, mut server) = pair(at);
                    client.shutdown(Shutdown::Write).unwrap();
                    server.read_to_end(&mut Vec::new()).unwrap();
                }
                for _ in 0..3 {
                    let (client, mut server) = pair(at);
                    without_lingering(client);
                    assert_eq!(error_of(server.read(&mut [0])), libc::ECONNRESET);
                }
                // To close with data that was not read is a reset as well.
                let (mut client, server) = pair(at);
                client.write_all(b"x").unwrap();
                server.peek(&mut [0]).unwrap();
                drop(server);
                assert_eq!(error_of(client.read(&mut [0])), libc::ECONNRESET);
                // And so are both after this side has said that it sends no more.
                for _ in 0..2 {
                    let (client, mut server) = pair(at);
                    client.shutdown(Shutdown::Write).unwrap();
                    server.read_to_end(&mut Vec::new()).unwrap();
                    without_lingering(client);
                    assert_eq!(error_of(server.write_all(b"x")), libc::EPIPE);
                }
                let (client, mut server) = pair(at);
                client.shutdown(Shutdown::Write).unwrap();
                server.read_to_end(&mut Vec::new()).unwrap();
                server.write_all(b"x").unwrap();
                client.peek(&mut [0]).unwrap();
                drop(client);
                assert_eq!(error_of(server.write_all(b"x")), libc::EPIPE);
            }
            let expected = Ends {
                connection_ends: ConnectionEnds {
                    closed: 2 * 2 * 4,
                    reset_by_peer: 2 * (3 + 1 + 2 + 1),
                    reset_locally: 2 * (3 + 1 + 2 + 1),
                    timed_out: 0,
                },
                ..Ends::default()
            };
            assert_ends(&subject, &before, &expected);
            // A peer that is silent for too long.
            let (mut client, _server) = pair(BOTH[0]);
            let before = subject.snapshot().ends.unwrap();
            let client_socket = Socket::from(client.try_clone().unwrap());
            client_socket
                .set_tcp_user_timeout(Some(Duration::from_millis(300)))
                .unwrap();
            cut_off().unwrap();
            client.write_all(b"x").unwrap();
            let _ = client.read(&mut [0]);
            let expected = Ends {
                connection_ends: ConnectionEnds {
                    timed_out: 1,
                    ..ConnectionEnds::default()
                },
                ..Ends::default()
            };
            assert_ends(&subject, &before, &expected);
        })
        .unwrap();
}
