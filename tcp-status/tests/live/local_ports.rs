//! Connects that fail for want of a local port, and their destinations, against what the kernel says to those
//! who connect.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tcp_status::snapshot::{Ends, NoLocalPortDestination};
use tcp_status_testkit::{netns::set_sysctl, raise_fd_limit, soon};

use crate::{
    ends::{assert_ends, error_of},
    namespaces::{self, Inhabited},
    subject::{Subject, place},
};

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
