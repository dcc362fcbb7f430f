//! Who gets a slot where ports are more than slots, against what each namespace lists.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener, TcpStream},
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use tcp_status::snapshot::Snapshot;
use tcp_status_common::state::State;
use tcp_status_testkit::{
    long_tests, netns::Netns, oracle::Counts, raise_fd_limit, turn_of_the_machine,
};

use crate::{
    namespaces::{assert_exact, listen, of},
    subject::{Subject, place, turn},
};

/// Enough for some that go to other namespaces of the host.
const SLOTS: u16 = 256;

/// A host has other namespaces than those of a test, and a machine that is emulated is slow.
const PATIENCE: Duration = Duration::from_secs(20);

fn start() -> Subject {
    Subject::start_changed(|settings| {
        settings.all_namespaces = true;
        settings.limits.ports = SLOTS.into();
    })
}

fn listen_at(ports: Range<u16>) -> Vec<TcpListener> {
    ports.map(|port| listen(port, 0).0).collect()
}

fn rows(snapshot: &Snapshot) -> BTreeSet<u16> {
    let tracked = snapshot.ports.tracked.iter();
    tracked.map(|row| row.port).collect()
}

fn rows_of(subject: &Subject, netns: &Netns) -> BTreeSet<u16> {
    of(subject, netns).as_ref().map(rows).unwrap_or_default()
}

/// Where the rows of a namespace are not what it lists by port, or do not add up, in words.
fn differences(subject: &Subject, netns: &Netns, wanted: &[u16]) -> String {
    let listed = || netns.run(|| Counts::read_by_port().unwrap()).unwrap();
    let before = listed();
    let found = of(subject, netns);
    if listed() != before {
        return "not at rest".into();
    }
    let Some(found) = found else {
        return "not there".into();
    };
    let missing = wanted.iter().filter(|&port| !rows(&found).contains(port));
    let mut text: String = missing
        .map(|port| format!("port {port} has no row; "))
        .collect();
    let mut sums = found.ports.outgoing.unwrap_or_default();
    if let Some(other) = &found.ports.other {
        sums += other;
    }
    for row in &found.ports.tracked {
        let listed = before.get(&row.port).copied().unwrap_or_default();
        for state in State::ALL {
            let (told, listed) = (row.states[state], listed.both(usize::from(state.number())));
            if told != listed {
                text += &format!("port {} {state} {told}, listed {listed}; ", row.port);
            }
        }
        sums += &row.states;
    }
    if found.ports.outgoing.is_some() && sums != found.states {
        text += &format!("together {sums:?}, not {:?}", found.states);
    }
    text
}

/// Waits until these ports of a namespace at rest have rows, and all rows are right.
fn assert_rows(subject: &Subject, netns: &Netns, wanted: &[u16]) {
    let came = Instant::now();
    loop {
        let differences = differences(subject, netns, wanted);
        if differences.is_empty() {
            return;
        }
        assert!(
            came.elapsed() < PATIENCE,
            "{differences} {:?}",
            of(subject, netns)
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// Listens at ever new ports, and leaves connections of some behind.
fn listen_at_new_ports(time: Duration) -> Vec<TcpStream> {
    let (began, mut left) = (Instant::now(), Vec::new());
    for round in 0.. {
        if began.elapsed() >= time {
            break;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (server, _) = listener.accept().unwrap();
        if round % 7 == 0 && left.len() < 500 {
            left.push(server);
        }
        thread::sleep(Duration::from_millis(2));
    }
    left
}

#[test]
fn a_namespace_leaves_slots_to_others() {
    let (Some(own), Some(greedy)) = (place(), place()) else {
        return;
    };
    let (Some(first), Some(second)) = (place(), place()) else {
        return;
    };
    let _turn = (turn(), turn_of_the_machine());
    raise_fd_limit().unwrap();
    let _first = first.run(|| listen(8080, 3)).unwrap();
    own.run(|| {
        let subject = start();
        let held = greedy.run(|| listen_at(1000..1000 + 3 * SLOTS)).unwrap();
        assert_rows(&subject, &greedy, &[]);
        assert_rows(&subject, &first, &[8080]);
        let _second = second.run(|| listen(8080, 3)).unwrap();
        assert_rows(&subject, &second, &[8080]);
        let _own = listen(8080, 1);
        assert_rows(&subject, &own, &[8080]);
        let taken = rows_of(&subject, &greedy).len();
        println!("{taken} of {SLOTS} slots taken");
        assert!((1..=usize::from(SLOTS) * 3 / 4).contains(&taken), "{taken}");
        drop(held);
        let time = Duration::from_secs(if long_tests() { 40 } else { 3 });
        let left = thread::scope(|scope| {
            let churn = scope.spawn(|| greedy.run(|| listen_at_new_ports(time)).unwrap());
            while !churn.is_finished() {
                for netns in [&own, &first, &second] {
                    let found = rows_of(&subject, netns);
                    assert!(found.contains(&8080), "{found:?}");
                }
                thread::sleep(Duration::from_millis(50));
            }
            churn.join().unwrap()
        });
        for netns in [&own, &first, &second] {
            assert_rows(&subject, netns, &[8080]);
        }
        assert_exact(&subject, &greedy);
        assert_rows(&subject, &greedy, &[]);
        drop(left);
    })
    .unwrap();
}

/// Whoever else wants one, however often all is counted again.
#[test]
fn a_port_keeps_its_slot_and_gets_one_when_there_is_room() {
    const KEPT: u16 = 100;
    let (Some(own), Some(other), Some(late)) = (place(), place(), place()) else {
        return;
    };
    let _turn = (turn(), turn_of_the_machine());
    raise_fd_limit().unwrap();
    own.run(|| {
        let _kept = listen_at(1000..1000 + KEPT);
        let kept: Vec<_> = (1000..1000 + KEPT).collect();
        let subject = start();
        assert_rows(&subject, &own, &kept);
        let held = other.run(|| listen_at(2000..2000 + SLOTS)).unwrap();
        assert_rows(&subject, &other, &[]);
        let elsewhere: Vec<_> = rows_of(&subject, &other).into_iter().collect();
        // The tracker's own namespace takes what is left.
        let more = listen_at(3000..3000 + SLOTS);
        let audits = subject.snapshot().drift.audits;
        let mut before: BTreeSet<_> = kept.iter().copied().collect();
        while subject.snapshot().drift.audits < audits + 5 {
            let found = rows(&subject.snapshot());
            let lost: Vec<_> = before.difference(&found).collect();
            assert!(lost.is_empty(), "{lost:?}");
            before = found;
            thread::sleep(Duration::from_millis(20));
        }
        assert_rows(&subject, &own, &kept);
        assert_rows(&subject, &other, &elsewhere);
        let before = rows(&subject.snapshot()).len();
        let _late = late.run(|| listen(8080, 3)).unwrap();
        assert_exact(&subject, &late);
        println!(
            "own {before}, other {}, late {}",
            elsewhere.len(),
            rows_of(&subject, &late).len()
        );

        drop(held);
        let came = Instant::now();
        while rows(&subject.snapshot()).len() == before {
            assert!(came.elapsed() < PATIENCE, "{:?}", subject.snapshot().ports);
            thread::sleep(Duration::from_millis(50));
        }
        assert_rows(&subject, &own, &kept);
        drop(more);
        assert_rows(&subject, &late, &[8080]);
        assert_rows(&subject, &own, &kept);
    })
    .unwrap();
}

/// They are gone before the tracker looks.
#[test]
fn namespaces_that_went_leave_no_slot_taken() {
    const WANTED: u16 = 32;
    let (Some(own), Some(late)) = (place(), place()) else {
        return;
    };
    let _turn = (turn(), turn_of_the_machine());
    raise_fd_limit().unwrap();
    own.run(|| {
        let subject = Subject::start_changed(|settings| {
            settings.all_namespaces = true;
            settings.limits.ports = SLOTS.into();
            settings.pace.interval = Duration::from_secs(4);
        });
        for _ in 0..8 {
            let short_lived = Netns::new().unwrap();
            drop(short_lived.run(|| listen_at(1000..1000 + SLOTS)).unwrap());
        }
        let _late = late.run(|| listen_at(2000..2000 + WANTED)).unwrap();
        let wanted: Vec<_> = (2000..2000 + WANTED).collect();
        assert_rows(&subject, &late, &wanted);
    })
    .unwrap();
}
