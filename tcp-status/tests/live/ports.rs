//! Connections by local port, against the kernel's listing by port. That every scenario of the
//! battery agrees by port as well is for [`crate::subject`] to see.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use rand::RngExt as _;
use socket2::{Domain, Socket, Type};
use tcp_status::{
    kernel::procfs,
    serve::{
        Source as _,
        protocol::{Get, Show},
    },
    snapshot::{Tier, compare::Comparison},
};
use tcp_status_common::state::State;
use tcp_status_testkit::{
    churn::Churn,
    held_sockets::{HeldSockets, SocketPlan},
    oracle::{Counts, Table, st},
    raise_fd_limit, seed, soon,
};

use crate::subject::{Subject, place, turn};

/// As many connections to a listener as are given back, both ends.
fn connect(listener: &TcpListener, count: usize) -> Vec<(TcpStream, TcpStream)> {
    let address = listener.local_addr().unwrap();
    let pair = |_| {
        let client = TcpStream::connect(address).unwrap();
        (client, listener.accept().unwrap().0)
    };
    (0..count).map(pair).collect()
}

fn get(subject: &Subject, port: u16, state: State, family: Option<u8>) -> u64 {
    let query = Get {
        state: state.name().into(),
        port: Some(port),
        family,
        netns: None,
        cgroup: None,
    };
    subject.tracker.get(&query).unwrap()
}

/// What `get` and `show` say of one port is what is listed of it: soon, since a port that no audit
/// has seen yet is answered by a scan that may be a second old.
fn assert_port(subject: &Subject, port: u16) {
    let started = Instant::now();
    loop {
        let differences = differences(subject, port);
        if differences.is_empty() {
            return;
        }
        assert!(started.elapsed() < soon(), "port {port}: {differences}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn differences(subject: &Subject, port: u16) -> String {
    let listed = Counts::read_port(port).unwrap();
    let show = Show {
        port: Some(port),
        ..Show::default()
    };
    let shown = subject.tracker.show(&show).unwrap().remove(0);
    assert_eq!(shown.port, Some(port));
    let mut text = String::new();
    for state in State::ALL {
        let number = usize::from(state.number());
        let mut compare = |what: &str, told: u64, wanted: u64| {
            if told != wanted {
                text += &format!("{what} {state} {told}, listed {wanted}; ");
            }
        };
        let wanted = listed.both(number);
        compare("get", get(subject, port, state, None), wanted);
        compare("show", shown.states[state], wanted);
        for (family, table) in [(4, Table::Tcp), (6, Table::Tcp6)] {
            let told = get(subject, port, state, Some(family));
            compare("get --family", told, listed.get(table, number));
        }
    }
    text
}

#[test]
fn connections_outlive_their_listener_and_stay_at_its_port() {
    let Some(netns) = place() else { return };
    let count = rand::rng().random_range(3..20);
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut pairs = connect(&listener, count);
            subject.assert_exact_within(soon());
            assert_port(&subject, port);
            drop(listener);
            // Half of them closed by the peer, and not by us.
            for (client, _) in &pairs[..count / 2] {
                client.shutdown(Shutdown::Write).unwrap();
            }
            subject.assert_exact_within(soon());
            assert_port(&subject, port);
            assert_eq!(
                get(&subject, port, State::CloseWait, None),
                (count / 2) as u64
            );
            // Across audits, which forget ports that have nothing any more.
            thread::sleep(Duration::from_millis(300));
            subject.assert_exact_within(soon());
            let tracked = |subject: &Subject| {
                let ports = subject.snapshot().ports.tracked;
                ports.iter().any(|tracked| tracked.port == port)
            };
            assert!(tracked(&subject), "a port with connections was forgotten");
            pairs.clear();
            subject.assert_exact_within(soon());
            assert_port(&subject, port);
        })
        .unwrap();
}

#[test]
fn what_is_not_counted_by_port_is_null() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let _pairs = connect(&listener, 3);
            subject.assert_exact_within(soon());
            let show = |port| {
                let show = Show {
                    port,
                    ..Show::default()
                };
                subject.tracker.show(&show).unwrap().remove(0)
            };
            let started = Instant::now();
            while show(Some(port)).tier == Tier::Scan || show(None).rates.is_none() {
                assert!(
                    started.elapsed() < soon(),
                    "no audit has seen port {port}, or there are no samples"
                );
                thread::sleep(Duration::from_millis(50));
            }
            let json = |port| serde_json::to_value(show(port)).unwrap();
            let (all, one) = (json(None), json(Some(port)));
            for unknown in ["transitions", "events", "rates", "peaks", "stale"] {
                assert!(one[unknown].is_null(), "{unknown}: {one}");
                assert!(unknown == "stale" || all[unknown].is_object(), "{all}");
            }
            assert_eq!(all["transitions"]["passive_open"], 3, "{all}");
        })
        .unwrap();
}

#[test]
fn a_listener_that_never_bound_has_a_port_as_well() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.listen(8).unwrap();
            let listener = TcpListener::from(socket);
            let port = listener.local_addr().unwrap().port();
            let _pairs = connect(&listener, 3);
            subject.assert_exact_within(soon());
            assert_port(&subject, port);
            assert_eq!(get(&subject, port, State::Listen, None), 1);
        })
        .unwrap();
}

#[test]
fn connections_that_a_port_had_before_its_listener_are_counted() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            // The slow pace of a large host: between the listener and the audit, a scan answers.
            for attentive in [true, false] {
                let subject = if attentive {
                    Subject::start_attentive()
                } else {
                    Subject::start_changed(|settings| settings.pace.share = 0.000_01)
                };
                let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
                let port = client.local_addr().unwrap().port();
                let (accepted, _) = server.accept().unwrap();
                // The same port at another address.
                let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), port)).unwrap();
                let pairs = connect(&listener, 2);
                assert_port(&subject, port);
                if attentive {
                    subject.assert_exact_within(soon());
                    assert_port(&subject, port);
                } else {
                    assert_eq!(subject.snapshot().ports.unaudited, [port]);
                }
                drop((client, accepted, listener, pairs));
            }
        })
        .unwrap();
}

#[test]
fn connections_that_a_port_had_are_counted_if_its_listener_comes_during_an_audit() {
    let Some(netns) = place() else { return };
    // Others have many files open as well.
    let _turn = turn();
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            let listen = |address, port| TcpListener::bind((address, port)).unwrap();
            let server = listen(Ipv4Addr::LOCALHOST, 0);
            // So many connections, all over the kernel's table, that a walk takes a while.
            let _others = connect(&server, 1_000);
            let ports: Vec<_> = (0..15)
                .map(|_| {
                    let gone = listen(Ipv4Addr::LOCALHOST, 0);
                    let port = gone.local_addr().unwrap().port();
                    (port, connect(&gone, 60))
                })
                .collect();
            // Audits that come at once if half a second has passed. They take 130 ms, a part of
            // which they walk.
            let subject = Subject::start_changed(|settings| {
                settings.pace.interval = Duration::from_millis(20);
                settings.pace.share = 0.05;
            });
            for (port, held) in &ports {
                subject.assert_exact_within(soon());
                thread::sleep(Duration::from_secs(1));
                // What an audit is held for, and where in it the listener comes.
                drop(connect(&server, 1));
                thread::sleep(Duration::from_millis(rand::rng().random_range(50..130)));
                let listener = listen(Ipv4Addr::new(127, 0, 0, 2), *port);
                let pairs = connect(&listener, 2);
                // Until it has ended, and before there is another.
                thread::sleep(Duration::from_millis(120));
                let count = get(&subject, *port, State::Established, None);
                assert_eq!(count, u64::try_from(held.len() + pairs.len()).unwrap());
                drop((listener, pairs));
            }
        })
        .unwrap();
}

#[test]
fn ports_beyond_the_limit_are_counted_together() {
    let Some(netns) = place() else { return };
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            let subject = Subject::start_changed(|settings| settings.limits.ports = 16);
            let listen = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let listeners: Vec<_> = (0..40).map(listen).collect();
            let pairs: Vec<_> = listeners.iter().flat_map(|l| connect(l, 2)).collect();
            thread::sleep(Duration::from_millis(500));
            let ports = subject.snapshot().ports;
            assert_eq!((ports.limit, ports.tracked.len()), (Some(16), 16));
            let listed = Counts::read_by_port().unwrap();
            let apart = |port: &u16| ports.tracked.iter().any(|tracked| tracked.port == *port);
            let other = ports.other.expect("24 ports do not fit");
            for state in [State::Listen, State::Established] {
                let number = usize::from(state.number());
                let served = |counts: &&Counts| counts.both(st::LISTEN) > 0;
                let beyond = listed.iter().filter(|(port, _)| !apart(port));
                let wanted: u64 = beyond
                    .map(|(_, counts)| counts)
                    .filter(served)
                    .map(|counts| counts.both(number))
                    .sum();
                assert_eq!(other[state], wanted, "{state}");
            }
            for listener in &listeners {
                assert_port(&subject, listener.local_addr().unwrap().port());
            }
            drop((pairs, listeners));
        })
        .unwrap();
}

#[test]
fn ports_are_exact_after_churn() {
    let Some(netns) = place() else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let _pairs = connect(&listener, 5);
            let subject = Subject::start();
            let churn = Churn {
                workers: 3,
                connections: None,
                duration: Some(Duration::from_secs(4)),
                seed: seed(),
            };
            let report = churn.run().unwrap();
            assert_eq!(report.failures(), 0, "{report}");
            subject.assert_exact_within(soon());
            assert_port(&subject, listener.local_addr().unwrap().port());
        })
        .unwrap();
}

#[test]
fn a_port_without_sockets_is_zero_and_one_of_a_client_is_scanned() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            assert_port(&subject, 9);
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let pairs = connect(&listener, 1);
            let SocketAddr::V4(client) = pairs[0].0.local_addr().unwrap() else {
                panic!("asked for IPv4");
            };
            assert_port(&subject, client.port());
            assert_eq!(get(&subject, client.port(), State::Established, None), 1);
        })
        .unwrap();
}

/// A row of ports, state by state, out of JSON; one that is not there has nothing.
fn row(of: &serde_json::Value) -> [u64; State::COUNT] {
    State::ALL.map(|state| of[state.name()].as_u64().unwrap_or(0))
}

fn sum(rows: impl Iterator<Item = [u64; State::COUNT]>) -> [u64; State::COUNT] {
    rows.fold([0; State::COUNT], |sum, row| {
        std::array::from_fn(|i| sum[i] + row[i])
    })
}

/// Where the rows of ports differ from what is listed by port, and their sums from the totals.
fn row_differences(subject: &Subject) -> String {
    let snapshot = subject.snapshot();
    let shown = serde_json::to_value(&snapshot.ports).unwrap();
    let listed: BTreeMap<u16, [u64; State::COUNT]> = Counts::read_by_port()
        .unwrap()
        .iter()
        .map(|(&port, counts)| {
            let of = |state: State| counts.both(usize::from(state.number()));
            (port, State::ALL.map(of))
        })
        .collect();
    let tracked: BTreeMap<u16, [u64; State::COUNT]> = shown["tracked"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let port = one["port"]
                .as_u64()
                .and_then(|port| u16::try_from(port).ok());
            (port.unwrap(), row(&one["states"]))
        })
        .collect();
    let untracked = |served: bool| {
        let of = listed.iter().filter(|(port, counts)| {
            !tracked.contains_key(port) && (counts[State::Listen.index()] > 0) == served
        });
        sum(of.map(|(_, counts)| *counts))
    };
    let mut text = String::new();
    let mut compare = |what: &str, told: [u64; State::COUNT], wanted: [u64; State::COUNT]| {
        for state in State::ALL {
            let (told, wanted) = (told[state.index()], wanted[state.index()]);
            if told != wanted {
                text += &format!("{what} {state} {told}, listed {wanted}; ");
            }
        }
    };
    for (port, told) in &tracked {
        let wanted = listed.get(port).copied().unwrap_or_default();
        compare(&port.to_string(), *told, wanted);
    }
    let (outgoing, other) = (row(&shown["outgoing"]), row(&shown["other"]));
    compare("outgoing", outgoing, untracked(false));
    compare("other", other, untracked(true));
    let all = sum(tracked.values().copied().chain([outgoing, other]));
    compare("the sum", all, sum(listed.values().copied()));
    compare("show", State::ALL.map(|state| snapshot.states[state]), all);
    text
}

fn assert_rows_add_up(subject: &Subject) {
    let started = Instant::now();
    loop {
        let differences = row_differences(subject);
        if differences.is_empty() {
            return;
        }
        assert!(started.elapsed() < soon(), "{differences}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn ports_and_outgoing_connections_add_up_to_the_totals_in_every_state() {
    let Some(netns) = place() else { return };
    raise_fd_limit().unwrap();
    let plan = SocketPlan::random(12, seed());
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            let hold = HeldSockets::new(&plan).unwrap();
            hold.wait(Duration::from_secs(10)).unwrap();
            // A leak of the client's side: the server has closed, the client has not.
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let leaked = connect(&listener, 20);
            for (_, server) in &leaked {
                server.shutdown(Shutdown::Write).unwrap();
            }
            subject.assert_exact_within(soon());
            assert_rows_add_up(&subject);
            drop((hold, listener, leaked));
            assert_rows_add_up(&subject);
        })
        .unwrap();
}

/// More than are read from the kernel in one call.
#[test]
fn thousands_of_ports_are_exact() {
    const PORTS: usize = 3_000;
    let Some(netns) = place() else { return };
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            let subject = Subject::start_changed(|settings| settings.limits.ports = 4_096);
            let listen = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let mut listeners: Vec<_> = (0..PORTS).map(listen).collect();
            let _pairs: Vec<_> = listeners.iter().flat_map(|l| connect(l, 1)).collect();
            subject.assert_exact_within(2 * soon());
            listeners.truncate(PORTS / 2);
            subject.assert_exact_within(2 * soon());
        })
        .unwrap();
}

#[test]
fn ports_beyond_the_limit_add_up_as_well() {
    let Some(netns) = place() else { return };
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            let subject = Subject::start_changed(|settings| {
                settings.limits.ports = 4;
                settings.split_interval = Duration::from_millis(50);
            });
            let listen = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let listeners: Vec<_> = (0..12).map(listen).collect();
            let mut pairs: Vec<_> = listeners.iter().flat_map(|l| connect(l, 4)).collect();
            // Of each port: one closed by the server first, which leaves a minisocket there, one
            // by the client first, and one that the client does not close.
            for (i, (client, server)) in pairs.iter().enumerate() {
                match i % 4 {
                    0 => server.shutdown(Shutdown::Both).unwrap(),
                    1 => client.shutdown(Shutdown::Both).unwrap(),
                    2 => server.shutdown(Shutdown::Write).unwrap(),
                    _ => {}
                }
            }
            for (i, (client, server)) in pairs.iter().enumerate() {
                match i % 4 {
                    0 => client.shutdown(Shutdown::Both).unwrap(),
                    1 => server.shutdown(Shutdown::Both).unwrap(),
                    _ => {}
                }
            }
            assert_rows_add_up(&subject);
            pairs.clear();
            assert_rows_add_up(&subject);
            let began = Instant::now();
            loop {
                let snapshot = subject.snapshot();
                let listing = procfs::listing_by_port().unwrap();
                let compared = Comparison::new(&snapshot, &snapshot, &listing, &snapshot);
                if compared.equal && !compared.outgoing.is_empty() && !compared.other.is_empty() {
                    break;
                }
                assert!(began.elapsed() < soon(), "{compared:?}");
            }
        })
        .unwrap();
}
