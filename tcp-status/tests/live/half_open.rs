//! Half-open connections: counted when their listener closes, under a flood and where the kernel
//! migrates them, and their peaks.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tcp_status::{
    serve::{Source as _, protocol::Show},
    snapshot::Snapshot,
};
use tcp_status_common::state::State;
use tcp_status_testkit::{
    Family,
    held_sockets::{HeldSockets, SocketKind, SocketPlan},
    netns::set_sysctl,
    oracle::{Counts, st},
    raise_fd_limit,
    raw_peer::RawPeer,
    seed, skip, soon,
};

use crate::subject::{Subject, is_virtual, place, turn};

#[test]
fn half_open_connections_outlive_their_listener() {
    let Some(netns) = place() else { return };
    let number = 7;
    netns
        .run(|| {
            let subject = Subject::start();
            let plan = Family::ALL
                .into_iter()
                .fold(SocketPlan::empty(seed()), |plan, family| {
                    plan.with(family, SocketKind::SynRecv, number)
                });
            let hold = HeldSockets::new(&plan).unwrap();
            hold.wait(Duration::from_secs(10)).unwrap();
            subject.assert_exact_within(soon());
            drop(hold);
            let left = Counts::read().unwrap().both(st::SYN_RECV);
            println!("{left} half-open connections without a listener");
            subject.assert_exact_within(soon());
        })
        .unwrap();
}

/// A listener that takes as many half-open connections as come; `at` shares its address.
fn listener(at: Option<SocketAddrV4>) -> (Socket, SocketAddrV4) {
    let any = SocketAddrV4::new([127, 0, 0, 1].into(), 0);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket
        .bind(&SocketAddr::V4(at.unwrap_or(any)).into())
        .unwrap();
    socket.listen(65_535).unwrap();
    let address = socket.local_addr().unwrap().as_socket_ipv4().unwrap();
    (socket, address)
}

fn allow_many() {
    for name in ["core/somaxconn", "ipv4/tcp_max_syn_backlog"] {
        set_sysctl(name, "65535").unwrap();
    }
}

fn half_open_within(limit: Duration, wanted: u64) {
    let found = Counts::wait_for(limit, |counts| counts.both(st::SYN_RECV) == wanted).unwrap();
    found.unwrap_or_else(|last| panic!("{wanted} half-open connections wanted:\n{last}"));
}

/// The half-open connections of one port, or of all, in a reading between two listings; nothing if
/// it lies between them, and what it is where it does not.
fn outside(subject: &Subject, port: Option<u16>) -> Option<String> {
    let list = || Counts::read_by_port().unwrap();
    let (before, snapshot, after) = (list(), subject.snapshot(), list());
    let ports: Vec<u16> = match port {
        Some(port) => vec![port],
        None => before
            .keys()
            .chain(after.keys())
            .copied()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect(),
    };
    let (mut low, mut high) = (0, 0);
    for port in &ports {
        let [a, b] = [&before, &after]
            .map(|listing| listing.get(port).map_or(0, |at| at.both(st::SYN_RECV)));
        low += a.min(b);
        high += a.max(b);
    }
    let read = match port {
        None => snapshot.states[State::SynRecv],
        // Forgotten by an audit: its connections are in no row of ports any more.
        Some(port) => {
            snapshot
                .ports
                .tracked
                .iter()
                .find(|row| row.port == port)?
                .states[State::SynRecv]
        }
    };
    let inside = (low..=high).contains(&read);
    (!inside).then(|| format!("port {port:?}: {read} read, {low} to {high} listed"))
}

/// How often in a row a reading has to lie outside of the listings around it: a segment that is being
/// processed may be in a reading and in no listing. What is counted wrong stays so.
const LOOKS: usize = 2;

/// Compares for `time`.
fn assert_between_listings(subject: &Subject, ports: &[Option<u16>], time: Duration) {
    let (started, mut readings, mut found) = (Instant::now(), 0, Vec::new());
    while started.elapsed() < time {
        for &port in ports {
            readings += 1;
            let mut looks = (0..LOOKS).map_while(|_| outside(subject, port));
            found.extend(looks.nth(LOOKS - 1));
        }
    }
    let (count, first) = (found.len(), found.first());
    println!("{count} of {readings} readings outside: {first:?}");
    assert!(
        found.is_empty(),
        "{count} of {readings} readings outside: {first:?}"
    );
}

#[test]
fn a_listener_that_closes_under_a_flood_keeps_its_half_open_connections() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            allow_many();
            let subject = Subject::start();
            let silent = RawPeer::new().unwrap();
            let ((closing, at_closing), (_flooded, at_flooded)) = (listener(None), listener(None));
            for number in 0..3 {
                silent.open(at_closing, number).unwrap();
            }
            half_open_within(soon(), 3);
            subject.assert_exact_within(soon());
            // Behind their second timer, so that the third is seconds away.
            thread::sleep(Duration::from_millis(3_200));
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    for number in 3..20_000 {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        silent.open(at_flooded, number).unwrap();
                        thread::sleep(Duration::from_micros(250));
                    }
                });
                thread::sleep(Duration::from_millis(500));
                drop(closing);
                let ports = [None, Some(at_closing.port())];
                let compared = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    assert_between_listings(&subject, &ports, Duration::from_millis(2_500));
                }));
                over.store(true, Ordering::Relaxed);
                compared.unwrap_or_else(|payload| std::panic::resume_unwind(payload));
            });
        })
        .unwrap();
}

/// Closes `many` listeners with one half-open connection each. False if these have ended by then.
fn close_with_half_open(silent: &RawPeer, many: u32) -> bool {
    // Those of a try that was too slow end by their timers.
    half_open_within(Duration::from_secs(60), 0);
    let listeners: Vec<_> = (0..many).map(|_| listener(None)).collect();
    for (number, (_, at)) in (0..).zip(&listeners) {
        silent.open(*at, number).unwrap();
    }
    half_open_within(soon(), many.into());
    // Behind their second timer: the third, four seconds later, ends what has no listener.
    thread::sleep(Duration::from_millis(3_200));
    drop(listeners);
    Counts::read().unwrap().both(st::SYN_RECV) == u64::from(many)
}

/// Sockets that send later what they have: another protocol's, in the kernel's memory of those before.
fn corked(number: usize) -> Vec<Socket> {
    let cork = |_| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let (one, length): (libc::c_int, _) = (1, 4);
        // SAFETY: the option is an int, of which the address and the size are given.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_UDP,
                libc::UDP_CORK,
                (&raw const one).cast(),
                length,
            )
        };
        assert_eq!(set, 0);
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        socket.send_to(b"later", &nobody.into()).unwrap();
        socket
    };
    (0..number).map(cork).collect()
}

/// The last request socket frees its closed listener. Before the tracker looks again, the memory may
/// be another socket's of the same namespace.
#[test]
fn memory_that_was_a_closed_listener_is_not_read_as_one() {
    /// Several pages of each processor.
    const MANY: u32 = 1_000;
    let Some(netns) = place() else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            let subject = Subject::start_attentive().alone();
            let silent = RawPeer::new().unwrap();
            let closed = (0..3).any(|_| close_with_half_open(&silent, MANY));
            assert!(closed, "this machine is too slow to close {MANY} listeners");
            half_open_within(Duration::from_secs(60), 0);
            // The kernel frees pages of sockets after a grace period.
            thread::sleep(Duration::from_secs(1));
            let _others = corked(12_000);
            let (read, listed) = (subject.snapshot(), Counts::read().unwrap());
            assert_eq!(
                (read.states[State::SynRecv], listed.both(st::SYN_RECV)),
                (0, 0)
            );
        })
        .unwrap();
}

#[test]
fn closed_listeners_beyond_those_that_are_recorded_are_marked() {
    /// 4,096 are recorded.
    const MANY: u32 = 4_200;
    let Some(netns) = place() else { return };
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            let silent = RawPeer::new().unwrap();
            let closed = (0..3).any(|_| close_with_half_open(&silent, MANY));
            assert!(closed, "this machine is too slow to close {MANY} listeners");
            let (started, mut readings, mut marked) = (Instant::now(), 0, None);
            let mut differences = 0;
            loop {
                let list = || Counts::read().unwrap().both(st::SYN_RECV);
                let (a, snapshot, b) = (list(), subject.snapshot(), list());
                let read = snapshot.states[State::SynRecv];
                readings += 1;
                if snapshot.degraded.is_some() {
                    marked = marked.or_else(|| snapshot.degraded.clone());
                } else {
                    let listed = a.min(b)..=a.max(b);
                    if listed.contains(&read) {
                        differences = 0;
                        if b == 0 {
                            break;
                        }
                    } else {
                        // The kernel first lists a request socket no more, then counts it no more, and may be
                        // interrupted between the two.
                        differences += 1;
                        assert!(differences < 3, "unmarked: {read}, {listed:?} listed");
                        thread::sleep(Duration::from_millis(20));
                    }
                }
                assert!(started.elapsed() < Duration::from_secs(120), "{snapshot:?}");
            }
            println!("{readings} readings, {marked:?}");
            assert!(marked.is_some_and(|why| why.contains("closed listeners")));
            // There is room again.
            assert!(close_with_half_open(&silent, 40));
            assert_between_listings(&subject, &[None], Duration::from_millis(500));
            assert_eq!(subject.snapshot().degraded, None);
        })
        .unwrap();
}

#[test]
fn migrated_half_open_connections_are_counted_once() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            // The setting alone proves nothing: 5.10.223 has it, and does not migrate.
            let counters = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
            if !counters.contains("TCPMigrateReqSuccess") {
                return skip("this kernel does not migrate: no counter TCPMigrateReqSuccess");
            }
            set_sysctl("ipv4/tcp_migrate_req", "1").unwrap();
            allow_many();
            let subject = Subject::start();
            let silent = RawPeer::new().unwrap();
            let (closing, at) = listener(None);
            let (_stays, _) = listener(Some(at));
            for number in 0..40 {
                silent.open(at, number).unwrap();
            }
            half_open_within(soon(), 40);
            subject.assert_exact_within(soon());
            drop(closing);
            assert_between_listings(&subject, &[None], Duration::from_millis(3_500));
            assert_eq!(Counts::read().unwrap().both(st::SYN_RECV), 40);
            subject.assert_exact_within(soon());
        })
        .unwrap();
}

fn within(subject: &Subject, window: u32) -> Snapshot {
    let show = Show {
        window: Some(window),
        ..Show::default()
    };
    subject.tracker.show(&show).unwrap().remove(0)
}

#[test]
fn a_short_spike_of_half_open_connections_is_seen_at_rest() {
    const SPIKE: u32 = 300;
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            allow_many();
            let subject = Subject::start();
            let silent = RawPeer::new().unwrap();
            let (_listener, at) = listener(None);
            subject.assert_exact_within(soon());
            let mut seen = Vec::new();
            let rounds = if is_virtual() { 2 } else { 6 };
            for round in 0..rounds {
                // Long enough for the sampler to come to rest; each round ends elsewhere in its second.
                thread::sleep(Duration::from_millis(4_000 + round * 170));
                (0..SPIKE).for_each(|number| silent.open(at, number).unwrap());
                half_open_within(soon(), SPIKE.into());
                // Samples are rarer where one costs much, as on an emulated machine.
                let period = within(&subject, 3).peaks.unwrap().sample_milliseconds;
                let spike = Duration::from_millis((3 * u64::from(period)).max(310));
                thread::sleep(spike);
                (0..SPIKE).for_each(|number| silent.reset(at, number).unwrap());
                half_open_within(soon(), 0);
                let window = 3 + u32::try_from(spike.as_secs()).unwrap();
                seen.push(within(&subject, window).peaks.unwrap().max[State::SynRecv]);
            }
            let all = seen.iter().all(|&peak| peak == u64::from(SPIKE));
            assert!(all, "peaks of {SPIKE} each: {seen:?}");
        })
        .unwrap();
}
