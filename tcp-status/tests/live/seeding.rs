//! Where the iterator is no help: a kernel that refuses it, and one that passes over sockets.

use std::{
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tcp_status::kernel::plan::{EbpfPlan, SeedMethod};
use tcp_status_common::state::State;
use tcp_status_testkit::{
    churn::{Churn, Ctx, SCENARIOS},
    held_sockets::{HeldSockets, SocketPlan},
    netns::set_sysctl,
    raise_fd_limit, seed, soon,
};

use crate::{
    namespaces::{Inhabited, assert_exact, compare, listed, of, start},
    subject::{Subject, place, turn},
};

fn procfs(plan: EbpfPlan) -> EbpfPlan {
    EbpfPlan {
        seed: SeedMethod::Procfs,
        ..plan.reduced("the test wants no iterator".into())
    }
}

#[test]
fn without_the_iterator_procfs_seeds_and_the_audit_settles_the_doubt() {
    let Some(netns) = place() else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    let plan = SocketPlan::random(20, seed());
    netns
        .run(|| {
            let hold = HeldSockets::new(&plan).unwrap();
            hold.wait(Duration::from_secs(10)).unwrap();
            let churn = Churn {
                workers: 2,
                connections: None,
                duration: None,
                seed: seed(),
            };
            let churn = churn.start().unwrap();
            let subject = Subject::start_with(procfs, 0.05);
            let doubt = subject
                .snapshot()
                .degraded
                .expect("a seed from procfs is in doubt");
            assert!(doubt.contains("procfs"), "{doubt}");
            churn.stop().unwrap();
            subject.assert_exact_within(2 * soon());
            subject.exact_snapshot_within(2 * soon());
        })
        .unwrap();
}

/// From 5.15 to 6.16, `iter/tcp` passes over the first bucket of connections where nothing listens:
/// so many that some are in it.
const MANY: usize = 4000;

/// Runs `test` in a namespace where nothing is but this listener of both families.
fn with_a_listener(test: impl FnOnce(TcpListener) + Send) {
    let Some(netns) = place() else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    netns
        .run(|| test(TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap()))
        .unwrap();
}

/// Connections to one listener, of both families, so that one for the other shows.
fn pairs(listener: &TcpListener) -> Vec<(TcpStream, TcpStream)> {
    let port = listener.local_addr().unwrap().port();
    let pair = |number: usize| {
        let to = if number.is_multiple_of(2) {
            "::1"
        } else {
            "127.0.0.1"
        };
        let client = TcpStream::connect((to, port)).unwrap();
        (client, listener.accept().unwrap().0)
    };
    (0..MANY).map(pair).collect()
}

#[test]
fn connections_without_any_listener_are_all_counted() {
    with_a_listener(|listener| {
        let mut pairs = pairs(&listener);
        drop(listener);
        let subject = Subject::start();
        subject.assert_exact_within(2 * soon());
        subject.exact_snapshot_within(2 * soon());
        // What was counted by events is not passed over by audits either.
        pairs.truncate(MANY / 2);
        thread::sleep(2 * soon());
        subject.assert_exact_within(soon());
        subject.exact_snapshot_within(2 * soon());
        let drift = subject.snapshot().drift;
        println!("{drift:?}");
        assert!(drift.audits > 0, "{drift:?}");
    });
}

#[test]
fn a_port_keeps_its_connections_when_nothing_listens_any_more() {
    with_a_listener(|listener| {
        let subject = Subject::start();
        let mut pairs = pairs(&listener);
        drop(listener);
        let audits = || subject.snapshot().drift.audits;
        let before = audits();
        // A walk costs an emulated host a second, and audits have a budget.
        let began = Instant::now();
        while audits() == before {
            assert!(began.elapsed() < 30 * soon(), "no audit without a listener");
            thread::sleep(soon() / 10);
        }
        // By port as well.
        subject.assert_exact_within(2 * soon());
        pairs.truncate(MANY / 2);
        thread::sleep(2 * soon());
        subject.assert_exact_within(2 * soon());
        subject.exact_snapshot_within(30 * soon());
    });
}

/// So many minisockets in another namespace are more than a seeding grows to from what a small host has.
const MINISOCKETS: usize = 60_000;

/// How long opening them may take: they are gone after 60 s.
const OPENING: Duration = Duration::from_secs(35);

/// Opens connections in the calling thread's namespace and closes them, client first: how many, and the last
/// listener.
fn leave_minisockets() -> (usize, TcpListener) {
    const ADDRESSES: usize = 4;
    set_sysctl("ipv4/ip_local_port_range", "1024 65000").unwrap();
    // Else the kernel gives the ports of minisockets again.
    set_sysctl("ipv4/tcp_tw_reuse", "0").unwrap();
    set_sysctl("ipv4/tcp_max_tw_buckets", "200000").unwrap();
    let began = Instant::now();
    let mut left = 0;
    let mut last = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    while left < MINISOCKETS && began.elapsed() < OPENING {
        if left.is_multiple_of(MINISOCKETS / ADDRESSES) {
            let number = u8::try_from(1 + left / (MINISOCKETS / ADDRESSES)).unwrap();
            last = TcpListener::bind((Ipv4Addr::new(127, 0, 0, number), 80)).unwrap();
        }
        drop(TcpStream::connect(last.local_addr().unwrap()).unwrap());
        drop(last.accept().unwrap());
        left += 1;
    }
    (left, last)
}

/// In the full tier they are seeded as well: the map of seen sockets has room for them.
#[test]
fn many_minisockets_elsewhere_are_seeded_at_the_start() {
    let (Some(own), Some(elsewhere)) = (place(), Inhabited::place()) else {
        return;
    };
    let _turn = turn();
    let (left, _listener) = elsewhere.run(leave_minisockets).unwrap();
    println!("{left} minisockets");
    own.run(|| {
        // Without room, the start fails.
        let subject = start();
        let found = of(&subject, &elsewhere).expect("it has sockets");
        let differences = compare(&found, &listed(&elsewhere));
        let timewait = found.states[State::TimeWait];
        println!("{timewait} are left; {differences}");
        if left == MINISOCKETS {
            assert!(timewait > 0, "{found:?}");
        }
        assert_exact(&subject, &elsewhere);
    })
    .unwrap();
}

/// Sockets that connect to themselves need no listener: audits under this churn have only walks that
/// pass over something, and no rest for a listing.
#[test]
fn churn_without_any_listener_is_exact_at_rest() {
    let (_, scenario) = SCENARIOS
        .iter()
        .find(|(name, _)| *name == "simultaneous_open")
        .unwrap();
    with_a_listener(|listener| {
        let resident = Subject::start_with(|plan| plan, 0.5);
        let _held = pairs(&listener);
        drop(listener);
        let over = AtomicBool::new(false);
        let contexts = (0..3).map(|number| Ctx::new(seed() + number, None).unwrap());
        let contexts: Vec<_> = contexts.collect();
        let late = thread::scope(|scope| {
            for mut context in contexts {
                let over = &over;
                // Threads inherit the namespace.
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        scenario(&mut context).unwrap();
                    }
                });
            }
            thread::sleep(soon());
            let late = Subject::start_with(|plan| plan, 0.5);
            thread::sleep(2 * soon());
            over.store(true, Ordering::Relaxed);
            late
        });
        for subject in [&resident, &late] {
            subject.assert_exact_within(2 * soon());
            subject.exact_snapshot_within(2 * soon());
        }
        let end = resident.snapshot();
        println!("{:?} {:?}", end.events, end.drift);
        assert!(end.events.unwrap().counted > 1000, "{:?}", end.events);
    });
}
