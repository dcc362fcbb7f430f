//! Namespaces in great number, against what each of them lists.

use std::{
    collections::BTreeMap,
    net::TcpStream,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tcp_status::kernel::sock_diag;
use tcp_status_common::state::State;
use tcp_status_testkit::{long_tests, netns::Netns, raise_fd_limit, soon, turn_of_the_machine};

use crate::{
    listeners_elsewhere::rows,
    namespaces::{Inhabited, all, assert_exact, compare, listed, listen, of, start},
    subject::{Subject, is_virtual, place, turn},
    unreported::{change_family, mapped},
};

/// Waits until no namespace at rest is degraded, and compares the counts with what each lists. How long
/// it took since they `came` to rest.
fn assert_all_exact(came: Instant, subject: &Subject, places: &[Netns]) -> Duration {
    let found = loop {
        let found: BTreeMap<_, _> = all(subject)
            .into_iter()
            .map(|one| (u64::from(one.netns), one))
            .collect();
        let is_exact = |netns: &Netns| {
            let found = found.get(&netns.inode());
            found.is_some_and(|found| found.degraded.is_none())
        };
        if places.iter().all(is_exact) {
            break found;
        }
        assert!(
            came.elapsed() < 10 * soon(),
            "not all are there, or some are degraded"
        );
        thread::sleep(Duration::from_millis(20));
    };
    let elapsed = came.elapsed();
    for netns in places {
        let found = &found[&netns.inode()];
        assert_eq!(compare(found, &listed(netns)), "", "{found:?}");
        let listeners = netns.run(|| sock_diag::listeners().unwrap()).unwrap();
        assert_eq!(rows(&found.listeners), rows(&listeners));
    }
    elapsed
}

/// The tracker's own namespace waits for none.
#[test]
fn among_a_hundred_namespaces_all_are_exact_soon() {
    const MANY: usize = 100;
    let (Some(own), Some(first)) = (place(), place()) else {
        return;
    };
    let _turn = (turn(), turn_of_the_machine());
    raise_fd_limit().unwrap();
    let mut others = vec![first];
    others.extend((1..MANY).map(|_| Netns::new().unwrap()));
    let halves = others.split_at(MANY / 2);
    let listens = |netns: &Netns| netns.run(|| listen(8080, 1)).unwrap();
    let _before: Vec<_> = halves.0.iter().map(listens).collect();
    own.run(|| {
        let subject = start();
        let _after: Vec<_> = halves.1.iter().map(listens).collect();
        let came = Instant::now();
        let took = assert_all_exact(came, &subject, &others);
        println!("{MANY} namespaces are exact after {took:?}");
        assert!(took < soon(), "{took:?}");
        let (_client, server, _listener) = mapped();
        subject.assert_exact_within(soon());
        change_family(&server);
        subject.assert_exact_within(soon());
        let (_client, server, _listener) = others[MANY - 1].run(mapped).unwrap();
        assert_exact(&subject, &others[MANY - 1]);
        change_family(&server);
        assert_exact(&subject, &others[MANY - 1]);
    })
    .unwrap();
}

/// A listener and a connection in each. Those that come later come at once.
#[test]
fn all_namespaces_of_a_large_host_are_exact() {
    let many = if long_tests() { 1_000 } else { 300 };
    let (Some(own), Some(first)) = (place(), place()) else {
        return;
    };
    let _turn = (turn(), turn_of_the_machine());
    raise_fd_limit().unwrap();
    let mut others = vec![first];
    others.extend((1..many).map(|_| Netns::new().unwrap()));
    let halves = others.split_at(many / 2);
    let listens = |netns: &Netns| netns.run(|| listen(8080, 1)).unwrap();
    let _before: Vec<_> = halves.0.iter().map(listens).collect();
    own.run(|| {
        let subject = Subject::start_changed(|settings| {
            settings.all_namespaces = true;
            settings.limits.namespaces = 2 * u32::try_from(many).unwrap();
        });
        let _after: Vec<_> = halves.1.iter().map(listens).collect();
        let came = Instant::now();
        let took = assert_all_exact(came, &subject, &others);
        println!("{many} namespaces are exact after {took:?}");
    })
    .unwrap();
}

/// There are fewer slots for ports than namespaces that had a listener. One of them keeps another.
#[test]
fn ports_without_a_socket_give_back_their_slots() {
    const SLOTS: u16 = 64;
    let (Some(own), Some(empty), Some(other)) = (place(), place(), place()) else {
        return;
    };
    let _turn = (turn(), turn_of_the_machine());
    own.run(|| {
        let subject = Subject::start_changed(|settings| {
            settings.all_namespaces = true;
            settings.limits.ports = SLOTS.into();
        });
        let listen = |ports: Range<u16>| ports.map(|port| listen(port, 0)).collect::<Vec<_>>();
        let tracked = |netns: &Netns| of(&subject, netns).unwrap().ports.tracked.len();
        let wait_for_slots = |netns: &Netns, kept: usize| {
            assert_exact(&subject, netns);
            let came = Instant::now();
            while tracked(netns) > kept {
                assert!(came.elapsed() < soon(), "{:?}", of(&subject, netns));
                thread::sleep(Duration::from_millis(50));
            }
        };
        // More than half of the slots: were they not given back, nobody else could have as many.
        let occupy = |netns: &Netns, kept: usize, ports: Range<u16>| {
            let came = Instant::now();
            loop {
                let held = netns.run(|| listen(ports.clone())).unwrap();
                assert_exact(&subject, netns);
                let slots = tracked(netns);
                if slots > usize::from(SLOTS / 2) {
                    return held;
                }
                // Other namespaces of the host have listeners too, at times very many.
                assert!(came.elapsed() < 10 * soon(), "{slots} of {SLOTS}");
                drop(held);
                wait_for_slots(netns, kept);
                thread::sleep(Duration::from_millis(500));
            }
        };
        let first = occupy(&empty, 0, 1000..1000 + SLOTS);
        drop(first);
        wait_for_slots(&empty, 0);
        let _kept = other.run(|| listen(900..901)).unwrap();
        let second = occupy(&other, 1, 2000..2000 + SLOTS);
        let ports = of(&subject, &other).unwrap().ports;
        assert!(
            ports
                .tracked
                .iter()
                .all(|one| one.states[State::Listen] == 1),
            "{ports:?}"
        );
        // One that listens again is found again.
        drop(second);
        wait_for_slots(&other, 1);
        let _third = occupy(&empty, 0, 1000..1000 + SLOTS);
    })
    .unwrap();
}

/// A connection every `pause`: the namespace is never at rest, however busy the host is.
fn trickle(stop: &AtomicBool, port: u16, pause: Duration) {
    // In a machine of its own it has no neighbours, and would take all from the tracker.
    if !is_virtual() {
        // SAFETY: changes nothing but when this thread runs.
        let raised = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
        assert_eq!(raised, 0, "{}", std::io::Error::last_os_error());
    }
    let (listener, _) = listen(port, 0);
    while !stop.load(Ordering::Relaxed) {
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        drop(listener.accept().unwrap());
        thread::sleep(pause);
    }
}

/// Runs `check` while connections come and go in a namespace.
fn beside_trickle(netns: &Netns, workers: u16, pause: Duration, check: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in 0..workers {
            let stop = &stop;
            scope.spawn(move || netns.run(|| trickle(stop, 7 + worker, pause)).unwrap());
        }
        let checked = panic::catch_unwind(AssertUnwindSafe(check));
        stop.store(true, Ordering::Relaxed);
        checked.unwrap_or_else(|failed| panic::resume_unwind(failed));
    });
}

/// Rest is that of the tracker's namespace, whatever others do.
#[test]
fn traffic_elsewhere_causes_no_audit_here() {
    let (Some(own), Some(busy)) = (place(), place()) else {
        return;
    };
    let _turn = (turn(), turn_of_the_machine());
    own.run(|| {
        let subject = Subject::start_changed(|settings| {
            settings.all_namespaces = true;
            settings.pace.share = 0.005;
        });
        let _held = listen(8080, 3);
        subject.assert_exact_within(soon());
        beside_trickle(&busy, 1, Duration::from_millis(20), || {
            // What was to be audited was.
            thread::sleep(2 * soon());
            let before = subject.snapshot().drift.audits;
            thread::sleep(Duration::from_secs(5));
            let audits = subject.snapshot().drift.audits - before;
            assert!(audits <= 1, "{audits} audits at rest");
        });
    })
    .unwrap();
}

/// Between two events there is room for a pass.
#[test]
fn a_namespace_that_never_rests_is_corrected_all_the_same() {
    let (Some(own), Some(busy)) = (place(), place()) else {
        return;
    };
    let _turn = (turn(), turn_of_the_machine());
    own.run(|| {
        let subject = start();
        let (_client, server, _listener) = busy.run(mapped).unwrap();
        assert_exact(&subject, &busy);
        beside_trickle(&busy, 1, Duration::from_millis(60), || {
            thread::sleep(Duration::from_millis(500));
            change_family(&server);
            let changed = Instant::now();
            let corrected = || {
                let found = of(&subject, &busy).unwrap();
                found.drift.corrections_by_state[State::Established]
            };
            while corrected() < 2 {
                assert!(changed.elapsed() < Duration::from_secs(20), "not corrected");
                thread::sleep(Duration::from_millis(100));
            }
            println!("corrected after {:?}", changed.elapsed());
        });
        assert_exact(&subject, &busy);
    })
    .unwrap();
}

/// Only what was walked from inside tells how long its connections have been silent.
#[test]
fn a_namespace_too_busy_for_passes_is_counted_again_alone() {
    let (Some(own), Some(busy), Some(other)) = (place(), Inhabited::place(), Inhabited::place())
    else {
        return;
    };
    let _turn = (turn(), turn_of_the_machine());
    own.run(|| {
        let subject = start();
        let _held = other.run(|| listen(8080, 3)).unwrap();
        assert_exact(&subject, &other);
        let row = || of(&subject, &other).unwrap().ports;
        let before = row();
        beside_trickle(&busy, 4, Duration::ZERO, || {
            let came = Instant::now();
            while of(&subject, &busy).is_none_or(|found| found.stale.is_none()) {
                assert!(
                    came.elapsed() < Duration::from_secs(60),
                    "never counted again"
                );
                thread::sleep(Duration::from_millis(200));
            }
            println!("counted again after {:?}", came.elapsed());
        });
        for netns in [&busy, &other] {
            assert_exact(&subject, netns);
        }
        assert_eq!(
            of(&subject, &other).unwrap().stale,
            None,
            "it was counted again too"
        );
        let came = Instant::now();
        while row() != before {
            assert!(came.elapsed() < 2 * soon(), "{:?}, not {before:?}", row());
            thread::sleep(Duration::from_millis(50));
        }
    })
    .unwrap();
}
