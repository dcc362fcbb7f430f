//! Clients that wait until a number is above or below a bound.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tcp_status::{
    serve::{
        Source,
        client::request,
        protocol::{ApiError, Get, Query, Request, Response, Show, Wait, encode},
    },
    snapshot::Snapshot,
};
use tokio::sync::watch;

use crate::{Running, bind, limits};

/// How often a waiter looks where nothing tells it of a change.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Gauge {
    value: AtomicU64,
    reads: AtomicU64,
    changed: watch::Sender<()>,
}

impl Gauge {
    fn set(&self, value: u64) {
        self.value.store(value, Ordering::SeqCst);
        self.changed.send_replace(());
    }
}

impl Source for Gauge {
    fn get(&self, _: &Get) -> Result<u64, ApiError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        Ok(self.value.load(Ordering::SeqCst))
    }

    fn changes(&self, _query: &Get) -> Option<watch::Receiver<()>> {
        Some(self.changed.subscribe())
    }

    fn show(&self, _: &Show) -> Result<Vec<Snapshot>, ApiError> {
        Err(ApiError::unavailable("not needed here".into()))
    }
}

fn established() -> Get {
    Get {
        state: "established".into(),
        port: None,
        family: None,
        netns: None,
        cgroup: None,
    }
}

fn below(bound: u64) -> Wait {
    Wait {
        of: established(),
        above: None,
        below: Some(bound),
        hold: 0,
        timeout: Some(20_000),
    }
}

fn served(test: impl FnOnce(&Path, &Gauge)) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let gauge = Arc::new(Gauge::default());
    let running = Running::serve_source(&path, bind(&path).unwrap(), gauge.clone());
    test(&path, &gauge);
    running.stop();
}

/// Answers, and how long they took.
fn timed(path: &Path, wait: Wait) -> (Response, Duration) {
    let started = Instant::now();
    let response = request(path, &Query::Wait(wait)).unwrap();
    (response, started.elapsed())
}

fn met(value: u64) -> Response {
    Response::Waited { met: true, value }
}

#[test]
fn a_waiter_is_woken_by_the_change() {
    served(|path, gauge| {
        assert_eq!(timed(path, below(1)).0, met(0));
        gauge.set(7);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| timed(path, below(3)));
            thread::sleep(PAUSE / 5);
            gauge.set(3);
            thread::sleep(PAUSE / 10);
            let changed = Instant::now();
            gauge.set(2);
            let (response, _) = waiter.join().unwrap();
            assert_eq!(response, met(2));
            // It would have looked by itself much later.
            assert!(changed.elapsed() < PAUSE / 2, "{:?}", changed.elapsed());
        });
        let above = Wait {
            above: Some(1),
            below: None,
            ..below(0)
        };
        assert_eq!(timed(path, above).0, met(2));
    });
}

#[test]
fn a_bound_has_to_last_and_a_wait_has_an_end() {
    served(|path, gauge| {
        let lasting = Wait {
            hold: 600,
            ..below(1)
        };
        thread::scope(|scope| {
            let waiter = scope.spawn(|| timed(path, lasting));
            thread::sleep(Duration::from_millis(300));
            gauge.set(1);
            thread::sleep(Duration::from_millis(50));
            let holds = Instant::now();
            gauge.set(0);
            let (response, _) = waiter.join().unwrap();
            assert_eq!(response, met(0));
            assert!(holds.elapsed() >= Duration::from_millis(600));
        });
        gauge.set(4);
        let short = Wait {
            timeout: Some(200),
            ..below(1)
        };
        let (response, took) = timed(path, short);
        let late = Response::Waited {
            met: false,
            value: 4,
        };
        assert_eq!(response, late);
        assert!(took >= Duration::from_millis(200), "{took:?}");
    });
}

#[test]
fn waiters_cost_little_and_leave_room_for_others() {
    served(|path, gauge| {
        gauge.set(1);
        let most = limits().connections / 2;
        let line = encode(&Request::new(Query::Wait(below(1)))).unwrap();
        let open = || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(&line).unwrap();
            stream
        };
        let mut waiters: Vec<_> = (0..most).map(|_| open()).collect();
        thread::sleep(PAUSE / 2);
        // Each read when it came; then one reads for all.
        let before = gauge.reads.load(Ordering::SeqCst);
        assert!((1..=most as u64).contains(&before), "{before} reads");
        gauge.set(2);
        thread::sleep(PAUSE / 2);
        let reads = gauge.reads.load(Ordering::SeqCst) - before;
        assert!(
            (1..=most as u64).contains(&reads),
            "{reads} reads after a change"
        );
        let before = gauge.reads.load(Ordering::SeqCst);
        thread::sleep(2 * PAUSE);
        let reads = gauge.reads.load(Ordering::SeqCst) - before;
        assert!(reads <= 3, "{reads} reads at rest");

        let mut answer = String::new();
        open().read_to_string(&mut answer).unwrap();
        assert!(answer.contains("too many clients wait already"), "{answer}");
        let get = request(path, &Query::Get(established())).unwrap();
        assert_eq!(get, Response::Value(2));

        // Those that leave make room.
        waiters.truncate(1);
        let started = Instant::now();
        let mut next = open();
        gauge.set(0);
        answer.clear();
        next.read_to_string(&mut answer).unwrap();
        while answer.contains("too many clients wait already") {
            assert!(started.elapsed() < 10 * PAUSE, "{answer}");
            answer.clear();
            open().read_to_string(&mut answer).unwrap();
        }
        assert_eq!(answer, "{\"waited\":{\"met\":true,\"value\":0}}\n");
    });
}
