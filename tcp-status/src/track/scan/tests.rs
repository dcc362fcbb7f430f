//! Scans of a made-up host.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use tcp_status_common::state::{Family, State};

use super::{
    ApiErrorKind, CachedWalk, FRESH, Get, MAX_CACHED, Scan, ScanKey, Show, Source as _, USABLE,
    Walk, WalkCache, lock,
};

const SHARE: f64 = 0.05;

fn get(state: &str) -> Get {
    Get {
        state: state.into(),
        port: None,
        family: None,
        netns: None,
        cgroup: None,
    }
}

const fn key(netns: u32, port: u16) -> ScanKey {
    ScanKey {
        netns,
        port: Some(port),
    }
}

fn cached(began: Instant) -> CachedWalk {
    CachedWalk {
        began,
        walk: Arc::default(),
    }
}

#[test]
fn a_walk_over_all_ports_answers_for_each() {
    let mut walk = Walk::default();
    walk.listing.add(Family::V6, State::Listen, 80);
    walk.listing.add(Family::V4, State::Listen, 80);
    walk.listing.add(Family::V6, State::TimeWait, 50_000);
    let ports = walk.ports();
    assert_eq!(ports.tracked.len(), 1);
    assert_eq!(ports.outgoing.unwrap()[State::TimeWait], 1);
    assert_eq!(walk.listing(Some(80)).of(Family::V6)[State::Listen], 1);
    assert_eq!(walk.listing(Some(81)).total().total(), 0);
    assert_eq!(walk.listing(None).total().total(), 3);
}

#[test]
fn walks_serve_for_a_while() {
    let began = Instant::now();
    let mut walks = WalkCache::default();
    let (port, all) = (
        key(1, 80),
        ScanKey {
            netns: 1,
            port: None,
        },
    );
    walks.insert(port, cached(began));
    let find = |walks: &WalkCache, key| walks.find(key, FRESH, began + FRESH / 2);
    assert_eq!(find(&walks, port), Some(cached(began)));
    assert_eq!(walks.find(port, FRESH, began + FRESH), None);
    assert_eq!(walks.find(port, USABLE, began + FRESH), Some(cached(began)));
    for other in [key(1, 81), key(2, 80), all] {
        assert_eq!(find(&walks, other), None);
    }
    assert!(walks.has_fresh(1, began) && !walks.has_fresh(2, began));
    walks.insert(all, cached(began));
    assert!(find(&walks, key(1, 81)).is_some());
    // What nobody may use is not kept.
    walks.insert(key(2, 80), cached(began + USABLE));
    assert_eq!(walks.0.len(), 1);
}

#[test]
fn the_oldest_walk_makes_room() {
    let began = Instant::now();
    let mut walks = WalkCache::default();
    for port in 1..=100 {
        walks.insert(key(1, port), cached(began));
    }
    assert_eq!(walks.0.len(), MAX_CACHED);
    assert_eq!(walks.find(key(1, 1), FRESH, began), None);
    assert!(walks.find(key(1, 100), FRESH, began).is_some());
}

/// Whatever is asked for: here another port each time, without a pause.
#[test]
fn scans_stay_within_their_share() {
    let scan = Scan::new("test".into(), SHARE);
    // What was saved up would hide the rest.
    scan.spend(Duration::from_secs(1));
    let began = Instant::now();
    let mut refused = 0;
    for port in (1..=u16::MAX).cycle() {
        if began.elapsed() >= Duration::from_secs(2) {
            break;
        }
        let query = Get {
            port: Some(port),
            ..get("listen")
        };
        if let Err(refusal) = scan.get(&query) {
            assert!(refusal.message.contains("5 % of one core"), "{refusal}");
            refused += 1;
        }
    }
    // One walk may cost more than is saved up, which on a busy host is little.
    let debt = lock(&scan.budget).wait(Duration::ZERO, Instant::now());
    let debt = debt.mul_f64(SHARE);
    println!("{refused} refused, {debt:?} beyond the share");
    assert!(debt < Duration::from_millis(500), "{debt:?}");
}

/// Nothing samples accept queues.
#[test]
fn a_scan_reports_no_peak_of_an_accept_queue() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let show = Show {
        port: Some(listener.local_addr().unwrap().port()),
        ..Show::default()
    };
    let shown = Scan::new("test".into(), SHARE).show(&show).unwrap();
    let queues = shown[0].listeners.iter();
    let peaks: Vec<_> = queues.map(|queue| queue.accept_queue_peak).collect();
    assert_eq!(peaks, [None]);
}

#[test]
fn what_cannot_be_is_a_bad_argument() {
    let scan = Scan::new("test".into(), SHARE);
    let bad = [
        Get {
            port: Some(0),
            ..get("listen")
        },
        Get {
            family: Some(5),
            ..get("listen")
        },
        Get {
            netns: Some("../x".into()),
            ..get("listen")
        },
        Get {
            netns: Some("no-such-namespace".into()),
            ..get("listen")
        },
        get("open"),
    ];
    for query in bad {
        let refusal = scan.get(&query).unwrap_err();
        assert_eq!(refusal.kind, ApiErrorKind::BadArgument, "{refusal}");
    }
    let show = Show {
        port: Some(0),
        ..Show::default()
    };
    assert_eq!(
        scan.show(&show).unwrap_err().kind,
        ApiErrorKind::BadArgument
    );
}
