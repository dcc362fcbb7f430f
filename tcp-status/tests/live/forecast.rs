//! The destination that fills up the ephemeral ports, against connections that a test makes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tcp_status::snapshot::FullestDestination;
use tcp_status_testkit::netns::set_sysctl;

use crate::subject::{Subject, place};

const PORTS: u64 = 200;

/// Walks come once a second, and a machine may stall.
const PATIENCE: Duration = Duration::from_secs(20);

/// The time between two connections, at least.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits for a walk that found this.
fn wait_for(subject: &Subject, is_found: impl Fn(&FullestDestination) -> bool) {
    let started = Instant::now();
    loop {
        let found = subject.snapshot().fullest_destination;
        if found.as_ref().is_some_and(&is_found) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{found:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_destination_has_a_forecast_while_it_fills() {
    fill(Ipv4Addr::LOCALHOST.into());
}

#[test]
fn a_destination_of_ipv6_has_a_forecast_as_well() {
    fill(Ipv6Addr::LOCALHOST.into());
}

fn fill(local: IpAddr) {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            set_sysctl("ipv4/ip_local_port_range", "40000 40199").unwrap();
            let address = SocketAddr::from((local, 8080));
            let listener = TcpListener::bind(address).unwrap();
            let subject = Subject::start_attentive();
            let mut open = Vec::new();
            let mut connect = || {
                open.push((TcpStream::connect(address).unwrap(), listener.accept()));
                open.len() as u64
            };
            while connect() < PORTS / 2 {}
            thread::sleep(Duration::from_secs(2));
            // Fewer than a destination could be short of.
            assert_eq!(subject.snapshot().fullest_destination, None);
            let mut count = connect();
            wait_for(&subject, |found| found.used_ports == count);
            let found = loop {
                let found = subject.snapshot().fullest_destination.unwrap();
                if found.seconds_until_exhausted.is_some() {
                    break found;
                }
                assert!(count < PORTS - 1, "{found:?}");
                thread::sleep(PAUSE);
                count = connect();
            };
            assert_eq!(found.destination, format!("{local} -> {address}"));
            assert_eq!(u64::from(found.ephemeral_ports), PORTS);
            assert!((PORTS / 2..=count).contains(&found.used_ports), "{found:?}");
            let rate = found.ports_per_second.unwrap();
            // One more than in the pauses between two walks.
            assert!(rate > 0.0 && rate < 1.5 / PAUSE.as_secs_f64(), "{found:?}");
            let (used, left) = (found.used_ports, PORTS - found.used_ports);
            let expected = left as f64 / rate - found.walked_seconds_ago as f64;
            let forecast = found.seconds_until_exhausted.unwrap() as f64;
            assert!(
                (expected - 2.0..=expected).contains(&forecast),
                "{used}: {found:?}"
            );
            // What no longer grows has none.
            wait_for(&subject, |found| {
                found.used_ports == count && found.seconds_until_exhausted.is_none()
            });
            // The first failure has a walk of its own.
            while connect() < PORTS {}
            TcpStream::connect(address).unwrap_err();
            wait_for(&subject, |found| found.used_ports == PORTS);
        })
        .unwrap();
}

/// So few connections that no walk would come: programs hold most ports, and do not connect.
#[test]
fn the_first_failure_has_a_walk_however_few_connections_there_are() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            set_sysctl("ipv4/ip_local_port_range", "40000 40003").unwrap();
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
            let listener = TcpListener::bind(address).unwrap();
            let subject = Subject::start_attentive();
            let _held = [40_000, 40_001, 40_002].map(|port| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
                socket.bind(&local.into()).unwrap();
                socket
            });
            let _open = (TcpStream::connect(address).unwrap(), listener.accept());
            thread::sleep(Duration::from_secs(2));
            assert_eq!(subject.snapshot().fullest_destination, None);
            let error = TcpStream::connect(address).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
            wait_for(&subject, |found| {
                found.destination == format!("127.0.0.1 -> {address}") && found.used_ports == 1
            });
        })
        .unwrap();
}
