//! Namespaces and ports beyond the limits; namespaces that vanish while they are looked at.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tcp_status::snapshot::Snapshot;
use tcp_status_common::state::State;
use tcp_status_testkit::netns::Netns;

use crate::{
    place,
    tracker::{PATIENCE, Tracker},
};

/// A namespace with a process in it, and a connection.
pub struct Inhabited {
    netns: Netns,
    inhabitant: Child,
    _ends: (TcpListener, TcpStream),
}

impl Inhabited {
    pub fn new() -> Self {
        let netns = Netns::new().unwrap();
        let (inhabitant, ends) = netns
            .run(|| {
                let inhabitant = Command::new("sleep").arg("600").spawn().unwrap();
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                (inhabitant, (listener, client))
            })
            .unwrap();
        Self {
            netns,
            inhabitant,
            _ends: ends,
        }
    }

    pub fn of<'a>(&self, all: &'a [Snapshot]) -> Option<&'a Snapshot> {
        all.iter()
            .find(|snapshot| u64::from(snapshot.netns) == self.netns.inode())
    }
}

impl Drop for Inhabited {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.inhabitant.kill());
        drop(self.inhabitant.wait());
    }
}

/// Connections that are established in a row of [`Tracker::all`].
pub fn established(found: &Snapshot) -> u64 {
    found.states[State::Established]
}

/// The row of all namespaces together that have none of their own.
pub fn overflow(all: &[Snapshot]) -> Option<&Snapshot> {
    all.iter().find(|found| found.netns == 0)
}

/// Waits until each of these namespaces is exact on its own, or counted together with others, and
/// the tracker's own is exact. How many are on their own.
fn assert_none_is_lost(tracker: &Tracker, others: &[Inhabited]) -> usize {
    let began = Instant::now();
    loop {
        let all = tracker.all();
        let shown: Vec<_> = others.iter().filter_map(|place| place.of(&all)).collect();
        let exact = |found: &&Snapshot| found.degraded.is_none() && established(found) == 2;
        let together = overflow(&all).filter(|found| found.degraded.is_none());
        let missing = (others.len() - shown.len()) as u64;
        // Other namespaces of the host are among them.
        let none_lost = missing == 0 || together.map_or(0, established) >= 2 * missing;
        let own = &all[0];
        if shown.iter().all(exact) && none_lost && own.degraded.is_none() {
            return shown.len();
        }
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{shown:?}, {together:?}, own {own:?}"
        );
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn beyond_max_namespaces_all_are_counted_together() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let mut others: Vec<_> = (0..4).map(|_| Inhabited::new()).collect();
            let tracker = Tracker::start(&limited_to("2"));
            let apart = assert_none_is_lost(&tracker, &others);
            assert!(apart <= 2, "{apart}");
            others.extend((0..4).map(|_| Inhabited::new()));
            let apart = assert_none_is_lost(&tracker, &others);
            assert!(apart <= 2, "{apart}");
            tracker.assert_exact("among too many namespaces");
            let before = overflow(&tracker.all()).map_or(0, established);
            others.clear();
            let began = Instant::now();
            while overflow(&tracker.all()).map_or(0, established) + 12 > before {
                assert!(
                    began.elapsed() < Duration::from_secs(20),
                    "{:?}",
                    tracker.all()
                );
                thread::sleep(Duration::from_millis(100));
            }
            let log = tracker.end();
            assert!(!log.contains("audit failed"), "{log}");
        })
        .unwrap();
}

#[test]
fn beyond_max_namespaces_no_count_is_wrong_unmarked() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let before: Vec<_> = (0..4).map(|_| Inhabited::new()).collect();
            let limit = 6;
            let tracker = Tracker::start(&limited_to("6"));
            let after: Vec<_> = (0..limit).map(|_| Inhabited::new()).collect();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let began = Instant::now();
            loop {
                let all = tracker.all();
                let wrong: Vec<_> = before
                    .iter()
                    .chain(&after)
                    .filter_map(|place| place.of(&all))
                    .filter(|found| found.degraded.is_none())
                    .filter(|found| found.states[State::Established] != 2)
                    .collect();
                let own = &all[0].states;
                if wrong.is_empty() && (own[State::Established], own[State::Listen]) == (2, 1) {
                    let marked = all.iter().filter(|one| one.degraded.is_some()).count();
                    println!("limit {limit}: {} shown, {marked} degraded", all.len());
                    break;
                }
                assert!(
                    began.elapsed() < Duration::from_secs(20),
                    "{wrong:?}, own {own:?}"
                );
                thread::sleep(Duration::from_millis(100));
            }
            println!("{}", tracker.end());
        })
        .unwrap();
}

pub const fn limited_to(namespaces: &str) -> [&str; 6] {
    [
        "--backend",
        "ebpf",
        "--netns",
        "all",
        "--max-namespaces",
        namespaces,
    ]
}

#[test]
fn beyond_max_ports_the_totals_are_exact_and_the_rest_is_told() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let tracker = Tracker::start(&["--backend", "ebpf", "--max-ports", "16"]);
            let pairs: Vec<_> = (0..40)
                .map(|_| {
                    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                    (listener, client)
                })
                .collect();
            tracker.assert_exact("forty ports");
            let ports = tracker.snapshot().ports;
            assert_eq!((ports.limit, ports.tracked.len()), (Some(16), 16));
            assert!(
                ports.other.is_some_and(|other| other[State::Listen] == 24),
                "{ports:?}"
            );
            drop(pairs);
            tracker.assert_exact("closed again");
            println!("{}", tracker.end());
        })
        .unwrap();
}

/// Makes namespaces that soon vanish until it is told to stop; how many.
fn come_and_go(stop: &AtomicBool) -> usize {
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        let vanishing: Vec<_> = (0..3).map(|_| Inhabited::new()).collect();
        thread::sleep(Duration::from_millis(made as u64 % 7 * 10));
        made += vanishing.len();
    }
    made
}

#[test]
fn a_namespace_may_vanish_while_it_is_seeded() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let stays = Inhabited::new();
            for round in 0..2 {
                let stop = AtomicBool::new(false);
                let (tracker, made) = thread::scope(|scope| {
                    let others = scope.spawn(|| come_and_go(&stop));
                    let tracker = Tracker::launch(&["--backend", "ebpf", "--netns", "all"]);
                    let status = tracker.settled();
                    stop.store(true, Ordering::Relaxed);
                    let made = others.join().unwrap();
                    assert_eq!(status, None, "{}", tracker.log());
                    (tracker, made)
                });
                assert!(made > 3, "{made}");
                tracker.assert_exact("after namespaces that vanished");
                let all = tracker.all();
                let found = stays.of(&all).expect("it is still there");
                assert_eq!(found.states[State::Established], 2, "{found:?}");
                let log = tracker.end();
                println!("round {round}: {made} namespaces made and gone during the start");
                assert!(!log.contains(" ERROR "), "{log}");
            }
        })
        .unwrap();
}

/// Audits everywhere, as often as can be.
const BUSY: [&str; 8] = [
    "--backend",
    "ebpf",
    "--netns",
    "all",
    "--audit-interval",
    "100ms",
    "--audit-share",
    "100",
];

#[test]
fn a_namespace_may_vanish_while_it_is_counted() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let stays = Inhabited::new();
            let tracker = Tracker::start(&BUSY);
            let began = Instant::now();
            let mut made = 0;
            let few = |made| made <= 20 || tracker.snapshot().drift.audits <= 5;
            while began.elapsed() < Duration::from_secs(5) || few(made) {
                assert!(
                    began.elapsed() < PATIENCE,
                    "{made}, {:?}",
                    tracker.snapshot().drift
                );
                let vanishing: Vec<_> = (0..3).map(|_| Inhabited::new()).collect();
                thread::sleep(Duration::from_millis(made % 7 * 20));
                made += vanishing.len() as u64;
                drop(vanishing);
                let all = tracker.all();
                let found = stays.of(&all).expect("it is still there");
                if found.degraded.is_none() {
                    assert_eq!(found.states[State::Established], 2, "{found:?}");
                }
            }
            tracker.assert_exact("after namespaces that vanished");
            let drift = tracker.snapshot().drift;
            println!("{made} namespaces made and gone, {} audits", drift.audits);
            let log = tracker.end();
            assert!(
                !log.contains("audit failed") && !log.contains(" ERROR "),
                "{log}"
            );
            println!("{log}");
        })
        .unwrap();
}

/// Kilobytes that are the tracker's own.
pub fn own_memory(tracker: &Tracker) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", tracker.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

#[test]
fn what_hundreds_of_namespaces_took_is_given_back_when_they_go() {
    /// What some pages take, in kilobytes, and more than noise.
    const SOME: u64 = 512;
    const MANY: usize = 200;
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let tracker = Tracker::start(&BUSY);
            let before = own_memory(&tracker);
            let wait = |what: &str, until: &dyn Fn() -> bool| {
                let began = Instant::now();
                while !until() {
                    assert!(began.elapsed() < Duration::from_secs(60), "{what}");
                    thread::sleep(Duration::from_millis(500));
                }
            };
            let places: Vec<_> = (0..MANY).map(|_| Inhabited::new()).collect();
            wait("not all are known", &|| {
                let all = tracker.all();
                places.iter().all(|place| place.of(&all).is_some())
            });
            let most = own_memory(&tracker);
            assert!(most > before + SOME, "{before} kB, with them {most}");
            let inodes: Vec<_> = places.iter().map(|place| place.netns.inode()).collect();
            drop(places);
            wait("some are still known", &|| {
                let known = |one: &Snapshot| inodes.contains(&u64::from(one.netns));
                !tracker.all().iter().any(known)
            });
            // The allocator keeps a part.
            wait("memory is kept", &|| {
                let now = own_memory(&tracker);
                println!("{before} kB, with them {most}, now {now}");
                now.saturating_sub(before) < (most - before) / 2
            });
        })
        .unwrap();
}
