//! Why connections fail and how they end, against what the kernel says to those who use them.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, SockFilter, Socket, Type};
use tcp_status::serve::{Source as _, protocol::Show};
use tcp_status::snapshot::{ConnectFailures, ConnectionEnds, Ends};
use tcp_status_testkit::{
    netns::{allow_fast_open, cut_off, set_sysctl},
    soon, take_fast_open,
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

/// A client that hears no answer to its SYN, which carries data: the listener has a child in SYN_RECV.
fn deaf_client(to: SocketAddr) -> Socket {
    let client = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    // BPF_RET | BPF_K, 0: it keeps nothing of any packet.
    client
        .attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])
        .unwrap();
    client.set_nonblocking(true).unwrap();
    client
        .send_to_with_flags(b"x", &to.into(), libc::MSG_FASTOPEN)
        .unwrap();
    client
}

/// Full sockets that were closed in SYN_RECV.
fn ended_half_open(subject: &Subject) -> u64 {
    let flows = subject.snapshot().transitions.unwrap().flows;
    let closed = flows
        .iter()
        .filter(|(from, to, _)| (&**from, &**to) == ("synrecv", "closed"));
    closed.map(|(_, _, count)| count).sum()
}

/// They are in SYN_RECV, as a socket may be that connects while its peer does.
#[test]
fn children_of_fast_open_are_no_connects() {
    const EACH: u64 = 5;
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            allow_fast_open().unwrap();
            let subject = Subject::start();
            let before = subject.snapshot().ends.unwrap();
            let mut clients = Vec::new();
            for at in BOTH {
                let (listener, address) = listener(at);
                take_fast_open(&listener).unwrap();
                for number in 0..3 * EACH {
                    clients.push(deaf_client(address));
                    match number % 3 {
                        // With data that was not read.
                        0 => drop(listener.accept().unwrap()),
                        1 => without_lingering(listener.accept().unwrap().0),
                        // It waits in the accept queue of a listener that closes.
                        _ => {}
                    }
                }
            }
            assert_eq!(ended_half_open(&subject), 2 * 3 * EACH);
            let expected = Ends {
                connection_ends: ConnectionEnds {
                    reset_locally: 2 * 3 * EACH,
                    ..ConnectionEnds::default()
                },
                ..Ends::default()
            };
            assert_ends(&subject, &before, &expected);
            drop(clients);
        })
        .unwrap();
}

/// Whether they were accepted, waited, or were just being made.
#[test]
fn children_of_a_listener_that_closes_are_no_connects() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = Subject::start();
            let before = subject.snapshot().ends.unwrap();
            let started = Instant::now();
            let mut refused = 0;
            // Of those that were just being made there are few.
            while refused == 0 || (ended_half_open(&subject) == 0 && started.elapsed() < soon()) {
                refused += BOTH.map(refused_by_closing).iter().sum::<u64>();
            }
            println!("{} in SYN_RECV", ended_half_open(&subject));
            let expected = ConnectFailures {
                refused,
                ..ConnectFailures::default()
            };
            let started = Instant::now();
            loop {
                let found = minus(&subject.snapshot().ends.unwrap(), &before);
                if (found.connect_failures, found.no_local_port) == (expected, 0) {
                    break;
                }
                assert!(started.elapsed() < soon(), "{found:?}, not {expected:?}");
                thread::sleep(Duration::from_millis(20));
            }
        })
        .unwrap();
}

/// Opens and closes a listener while others connect; how often that was refused.
fn refused_by_closing(at: IpAddr) -> u64 {
    const CONNECTS: usize = 1000;
    let address = SocketAddr::new(at, 8080);
    let refusals = || {
        let errors = (0..CONNECTS).map(|_| error_of(TcpStream::connect(address)));
        // Others are of connections that were reset at once.
        errors.filter(|error| *error == libc::ECONNREFUSED).count()
    };
    thread::scope(|scope| {
        let clients = [(); 3].map(|()| scope.spawn(refusals));
        let mut accepts = true;
        while clients.iter().any(|client| !client.is_finished()) {
            // A child of the one before may keep the port for a moment.
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            listener.set_nonblocking(true).unwrap();
            thread::sleep(Duration::from_micros(500));
            if accepts {
                drop(listener.accept());
            }
            accepts = !accepts;
        }
        clients.map(|one| one.join().unwrap() as u64).iter().sum()
    })
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
fn ends_in_another_namespace_are_counted_by_port_only() {
    let (Some(own), Some(other)) = (place(), Inhabited::place()) else {
        return;
    };
    own.run(|| {
        let subject = Subject::start_changed(|settings| settings.all_namespaces = true);
        let before = subject.snapshot().ends;
        let ending = other
            .run(|| {
                let mut ending = Ending::new();
                ending.end(5, 3, 2);
                assert_eq!(
                    error_of(TcpStream::connect("127.0.0.1:9")),
                    libc::ECONNREFUSED
                );
                ending
            })
            .unwrap();
        let started = Instant::now();
        loop {
            let found = namespaces::of(&subject, &other).unwrap();
            assert_eq!(found.ends, None);
            let mut rows = found.ports.tracked.into_iter();
            let row = rows.find(|row| row.port == ending.port());
            let ends = row.and_then(|row| row.connection_ends);
            if ends == Some(ending.ended) {
                break;
            }
            assert!(started.elapsed() < soon(), "{ends:?}");
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(subject.snapshot().ends, before);
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
