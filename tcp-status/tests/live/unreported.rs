//! Changes in other namespaces that no event reports, against what each of them lists.

use std::{
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tcp_status_common::state::State;
use tcp_status_testkit::{
    netns::Netns,
    oracle::{Table, st},
    raise_fd_limit, soon,
};

use crate::{
    namespaces::{assert_exact, listed, of, start},
    subject::{Subject, place, turn},
};

/// A connection of IPv6 between addresses of IPv4, as its client, its server and its listener.
pub fn mapped() -> (TcpStream, TcpStream, TcpListener) {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port)).unwrap();
    let server = listener.accept().unwrap().0;
    (client, server, listener)
}

/// Turns a socket of IPv6 into one of IPv4, which no event reports.
pub fn change_family(socket: &TcpStream) {
    let family = libc::AF_INET;
    // SAFETY: the kernel reads as many bytes as it is given.
    let changed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_ADDRFORM,
            (&raw const family).cast(),
            4,
        )
    };
    assert_eq!(changed, 0, "{}", std::io::Error::last_os_error());
}

/// The connections of both families that the tracker and the kernel have in a namespace.
fn established(subject: &Subject, netns: &Netns) -> ([u64; 2], [u64; 2]) {
    let found = of(subject, netns).unwrap();
    let counted = [found.ipv4, found.ipv6].map(|counts| counts[State::Established]);
    let listed = listed(netns);
    let listed = [Table::Tcp, Table::Tcp6].map(|table| listed.get(table, st::ESTABLISHED));
    (counted, listed)
}

/// Changes the family of a socket elsewhere; the tracker has to find that within the time that a
/// host has after coming to rest.
fn assert_change_is_found(subject: &Subject, elsewhere: &Netns) {
    let (_client, server, _listener) = elsewhere.run(mapped).unwrap();
    assert_exact(subject, elsewhere);
    change_family(&server);
    let changed = Instant::now();
    let (_, listed) = established(subject, elsewhere);
    assert_eq!(listed, [1, 1]);
    while established(subject, elsewhere).0 != listed {
        assert!(
            changed.elapsed() < soon(),
            "{:?}",
            established(subject, elsewhere)
        );
        thread::sleep(Duration::from_millis(20));
    }
    println!("found after {:?}", changed.elapsed());
    let found = of(subject, elsewhere).unwrap();
    assert_eq!(found.drift.corrections_by_state[State::Established], 2);
}

#[test]
fn what_no_event_reports_is_found_elsewhere_at_rest() {
    let (Some(own), Some(elsewhere)) = (place(), place()) else {
        return;
    };
    let _turn = turn();
    own.run(|| assert_change_is_found(&start(), &elsewhere))
        .unwrap();
}

#[test]
fn what_no_event_reports_is_found_elsewhere_while_the_own_namespace_is_busy() {
    let (Some(own), Some(elsewhere)) = (place(), place()) else {
        return;
    };
    let _turn = turn();
    raise_fd_limit().unwrap();
    let stop = AtomicBool::new(false);
    own.run(|| {
        let subject = start();
        thread::scope(|scope| {
            scope.spawn(|| own.run(|| trickle(&stop)).unwrap());
            let found = || assert_change_is_found(&subject, &elsewhere);
            let found = panic::catch_unwind(AssertUnwindSafe(found));
            stop.store(true, Ordering::Relaxed);
            found.unwrap_or_else(|failed| panic::resume_unwind(failed));
        });
    })
    .unwrap();
}

/// Opens and closes connections, some hundreds a second, until it is told to stop.
fn trickle(stop: &AtomicBool) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    while !stop.load(Ordering::Relaxed) {
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        drop(listener.accept().unwrap());
        thread::sleep(Duration::from_millis(2));
    }
}
