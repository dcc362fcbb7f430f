//! Listeners of every namespace, read from outside in one pass, against what each of them lists from
//! inside.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};
use tcp_status::{kernel::sock_diag, snapshot::Listener};
use tcp_status_common::state::State;
use tcp_status_testkit::{
    netns::Netns,
    oracle::{Counts, st},
    raise_fd_limit, soon,
};

use crate::{
    floods::listed_half_open,
    namespaces::{all, assert_exact, of, start},
    subject::{place, turn},
};

/// What both tell of a listener.
type Row = (u8, IpAddr, u16, Option<u32>, u32, u32, Option<u32>);

pub fn rows(listeners: &[Listener]) -> Vec<Row> {
    let row = |one: &Listener| {
        (
            one.family,
            one.address,
            one.port,
            one.uid,
            one.accept_queue,
            one.accept_queue_limit,
            one.drops,
        )
    };
    let mut rows: Vec<_> = listeners.iter().map(row).collect();
    rows.sort_unstable();
    rows
}

/// What `ss -ltn` shows inside.
fn listed(netns: &Netns) -> Vec<Row> {
    rows(&netns.run(|| sock_diag::listeners().unwrap()).unwrap())
}

fn socket(address: &str, port: u16, change: impl FnOnce(&Socket)) -> TcpListener {
    let address: IpAddr = address.parse().unwrap();
    let address = SockAddr::from(SocketAddr::new(address, port));
    let domain = match address.is_ipv4() {
        true => Domain::IPV4,
        false => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    change(&socket);
    socket.bind(&address).unwrap();
    socket.listen(i32::from(port)).unwrap();
    socket.into()
}

/// Listeners of every kind, with what waits at them.
fn hold(number: u16) -> (Vec<TcpListener>, Vec<TcpStream>) {
    let plain = |_: &Socket| {};
    let shared = |socket: &Socket| socket.set_reuse_port(true).unwrap();
    let only = |socket: &Socket| socket.set_only_v6(true).unwrap();
    let mut listeners = vec![
        socket("127.0.0.1", 80, plain),
        socket("0.0.0.0", 443, plain),
        socket("::", 8080, plain),
        socket("::1", 53, only),
        socket("127.0.0.1", 7, defer_accept),
    ];
    listeners.extend((0..number).map(|_| socket("127.0.0.2", 1000, shared)));
    let waiting = (0..number).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, 80)).unwrap());
    let half_open = (0..3).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, 7)).unwrap());
    let full = socket("127.0.0.3", 1, plain);
    let address = full.local_addr().unwrap();
    let filling = (0..2).map(|_| TcpStream::connect(address).unwrap());
    let clients = waiting.chain(half_open).chain(filling).collect();
    for _ in 0..=number / 20 {
        let in_time = TcpStream::connect_timeout(&address, Duration::from_millis(50));
        assert!(in_time.is_err(), "it has room");
    }
    listeners.push(full);
    (listeners, clients)
}

/// Connections stay half-open until data comes.
fn defer_accept(socket: &Socket) {
    let seconds: libc::c_int = 120;
    // SAFETY: the kernel reads as many bytes as it is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            4,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Nothing leads into them, so that none can be entered.
#[test]
fn the_listeners_of_every_namespace_are_those_that_it_lists_inside() {
    let places: Option<Vec<_>> = (0..6).map(|_| place()).collect();
    let Some(mut places) = places else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    let own = places.pop().unwrap();
    let held = |number: usize| {
        let netns = &places[number];
        netns
            .run(|| hold(u16::try_from(number).unwrap() * 20))
            .unwrap()
    };
    let mut held_before: Vec<_> = (0..3).map(held).collect();
    own.run(|| {
        let subject = start();
        held_before.extend((3..5).map(held));
        for netns in &places {
            assert_exact(&subject, netns);
        }
        let check = || {
            for (number, netns) in places.iter().enumerate() {
                let late = || netns.run(|| listed_half_open(7)[1]).unwrap();
                let at_least = late();
                let found = of(&subject, netns).unwrap();
                let retransmitted = found
                    .listeners
                    .iter()
                    .map(|one| one.syn_queue_retransmitted.unwrap());
                let retransmitted: u32 = retransmitted.sum();
                assert!(
                    (at_least..=late()).contains(&retransmitted),
                    "{retransmitted}"
                );
                assert_eq!(rows(&found.listeners), listed(netns));
                assert!(found.listeners.iter().any(|one| one.drops > Some(0)));
                let kernel = netns.run(|| Counts::read().unwrap()).unwrap();
                let half_open: u32 = found.listeners.iter().filter_map(|one| one.syn_queue).sum();
                assert_eq!(u64::from(half_open), kernel.both(st::SYN_RECV), "{number}");
                assert_eq!(found.states[State::SynRecv], kernel.both(st::SYN_RECV));
                let groups = found.listeners.iter().filter(|one| one.reuseport).count();
                assert_eq!(
                    groups,
                    found
                        .listeners
                        .iter()
                        .filter(|one| one.port == 1000)
                        .count()
                );
            }
        };
        check();
        // Of each, one listener goes and one connection is accepted.
        for (listeners, _) in &mut held_before {
            drop(listeners.remove(1));
            listeners[0].set_nonblocking(true).unwrap();
            drop(listeners[0].accept());
        }
        for netns in &places {
            assert_exact(&subject, netns);
            let started = Instant::now();
            while netns.run(|| listed_half_open(7)).unwrap() != [3, 3] {
                assert!(
                    started.elapsed() < Duration::from_secs(10),
                    "no timer fires"
                );
                thread::sleep(Duration::from_millis(50));
            }
        }
        check();
    })
    .unwrap();
}

/// A listing in which chains change under way is repeated.
#[test]
fn listeners_that_come_and_go_disturb_no_other_namespace() {
    let places: Option<Vec<_>> = (0..4).map(|_| place()).collect();
    let Some(places) = places else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    let [own, restless, at_rest @ ..] = &places[..] else {
        unreachable!("four");
    };
    let _held: Vec<_> = at_rest
        .iter()
        .map(|netns| netns.run(|| hold(60)).unwrap())
        .collect();
    let stop = AtomicBool::new(false);
    own.run(|| {
        let subject = start();
        for netns in at_rest {
            assert_exact(&subject, netns);
        }
        let wanted: Vec<_> = at_rest.iter().map(listed).collect();
        thread::scope(|scope| {
            let churn = scope.spawn(|| {
                let come_and_go = || {
                    let mut made = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let shared = |socket: &Socket| socket.set_reuse_port(true).unwrap();
                        drop(
                            (0..8)
                                .map(|_| socket("127.0.0.2", 1000, shared))
                                .collect::<Vec<_>>(),
                        );
                        made += 8;
                    }
                    made
                };
                restless.run(come_and_go).unwrap()
            });
            let began = Instant::now();
            let mut readings = 0;
            let mut wrong = 0;
            while began.elapsed() < 2 * soon() {
                let found = all(&subject);
                for (netns, wanted) in at_rest.iter().zip(&wanted) {
                    let one = found
                        .iter()
                        .find(|one| u64::from(one.netns) == netns.inode());
                    wrong += u32::from(rows(&one.unwrap().listeners) != *wanted);
                }
                readings += 1;
                thread::sleep(Duration::from_millis(1));
            }
            stop.store(true, Ordering::Relaxed);
            let made: u32 = churn.join().unwrap();
            println!("{readings} readings, {made} listeners made, {wrong} wrong");
            assert_eq!(wrong, 0);
            assert!(made > 100 && readings > 20, "{made}, {readings}");
        });
    })
    .unwrap();
}
