//! Clients that are slow, many, greedy or mad: they harm themselves only.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tcp_status::{
    serve::{
        Source,
        protocol::{ApiError, Get, Show},
    },
    snapshot::Snapshot,
};
use tcp_status_testkit::seed;

use crate::{
    Options, Running,
    client::{Connection, get},
    fake::{Fixed, Slow, full},
    limits,
};

/// Shorter than everything that would be wrong.
const PATIENCE: Duration = Duration::from_secs(10);

fn assert_served(address: SocketAddr) {
    let began = Instant::now();
    assert_eq!(get(address, "/metrics").status, 200);
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn those_who_trickle_are_cut_off() {
    let server = Running::start(Fixed(vec![full()]));
    let mut slow = Connection::open(server.address);
    let began = Instant::now();
    slow.send("GET /metrics HTTP/1.1\r\n").unwrap();
    // A line every now and then, for ever.
    while slow.send("X-Slow: very\r\n").is_ok() {
        assert!(began.elapsed() < PATIENCE, "it may go on for ever");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(
        began.elapsed() >= limits().timeouts.first_request,
        "{:?}",
        began.elapsed()
    );
    // One that was answered may stay for longer, but not for ever.
    let mut idle = Connection::open(server.address);
    idle.ask("GET", "/", "").unwrap();
    let began = Instant::now();
    assert!(idle.is_closed());
    assert!(
        began.elapsed() + Duration::from_millis(100) >= limits().timeouts.idle,
        "{:?}",
        began.elapsed()
    );
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[test]
fn many_who_say_nothing_make_room() {
    let server = Running::patient(Fixed(vec![full()]));
    let mut prometheus = Connection::open(server.address);
    prometheus.ask("GET", "/metrics", "").unwrap();
    let mut crowd = Vec::new();
    for i in 0..100 {
        let mut connection = Connection::open(server.address);
        if i % 2 == 0 {
            connection.send("GET /metr").unwrap();
        }
        crowd.push(connection);
        if i % 10 == 0 {
            assert_served(server.address);
        }
    }
    let closed = crowd
        .iter_mut()
        .take(90)
        .filter_map(|one| one.is_closed().then_some(()))
        .count();
    assert_eq!(closed, 90);
    // The one that asks now and then is not among those that had to go.
    assert_eq!(prometheus.ask("GET", "/metrics", "").unwrap().status, 200);
}

#[test]
fn many_who_have_asked_make_room_too() {
    let server = Running::patient(Fixed(vec![full()]));
    let mut crowd: Vec<_> = (0..40)
        .map(|_| {
            let mut connection = Connection::open(server.address);
            assert_eq!(connection.ask("GET", "/metrics", "").unwrap().status, 200);
            connection
        })
        .collect();
    assert_served(server.address);
    for one in crowd.iter_mut().take(40 - limits().connections) {
        assert!(one.is_closed());
    }
}

/// While all connections wait for answers there is no room; once they have them, there is.
#[test]
fn those_who_have_been_answered_make_room_for_who_waits() {
    let slow: &'static Slow = Box::leak(Box::new(Slow::new(Duration::from_millis(200))));
    let server = Running::patient(slow);
    let mut crowd: Vec<_> = (0..limits().connections)
        .map(|_| Connection::open(server.address))
        .collect();
    for one in &mut crowd {
        one.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
    }
    thread::sleep(Duration::from_millis(100));
    assert_eq!(get(server.address, "/").status, 200);
}

/// A page whose name resolves to this host (DNS rebinding) reads nothing through a browser.
#[test]
fn a_foreign_host_name_is_refused() {
    let options = Options {
        limits: limits(),
        hosts: vec!["db1.example".into()],
        ..Options::default()
    };
    let server = Running::with(Fixed(vec![full()]), options);
    let ask = |path: &str, host: &str| {
        let mut connection = Connection::open(server.address);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        connection.send(&request).unwrap();
        connection.reply(true).unwrap()
    };
    for path in ["/", "/metrics", "/healthz", "/readyz", "/nothing"] {
        let reply = ask(path, "evil.example:9889");
        assert_eq!(reply.status, 421, "{path}: {}", reply.body);
        assert!(reply.line().contains("--metrics-host"), "{}", reply.body);
    }
    for host in ["db1.example", "127.0.0.1:9889", "localhost:9889", "[::1]"] {
        assert_eq!(ask("/metrics", host).status, 200, "{host}");
    }
}

/// Counts its readings.
struct Counting(&'static AtomicUsize);

impl Source for Counting {
    fn get(&self, _: &Get) -> Result<u64, ApiError> {
        unreachable!("pages are made from readings")
    }

    fn show(&self, _: &Show) -> Result<Vec<Snapshot>, ApiError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(vec![full(); 20])
    }
}

#[test]
fn who_asks_and_does_not_read_is_not_answered_for_ever() {
    static READINGS: AtomicUsize = AtomicUsize::new(0);
    let server = Running::start(Counting(&READINGS));
    let mut greedy = TcpStream::connect(server.address).unwrap();
    greedy
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let requests = "GET /metrics HTTP/1.1\r\n\r\n".repeat(1000);
    let began = Instant::now();
    while greedy.write_all(requests.as_bytes()).is_ok() {
        assert!(began.elapsed() < PATIENCE, "it takes requests for ever");
    }
    let page = get(server.address, "/metrics").body.len();
    let buffered = READINGS.load(Ordering::Relaxed) * page;
    // What the kernel buffers between two sockets, and one page more.
    assert!(
        buffered < 16 << 20,
        "{} readings of {page} bytes",
        READINGS.load(Ordering::Relaxed)
    );
    assert_served(server.address);
    // It does not read, so it does not see the end.
    thread::sleep(limits().timeouts.idle * 2);
    greedy.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    let read = greedy.read_to_end(&mut rest);
    assert!(read.is_ok() || rest.len() < 16 << 20, "{read:?}");
}

#[test]
fn a_source_that_hangs_is_waited_for_by_a_few_only() {
    let slow: &'static Slow = Box::leak(Box::new(Slow::new(Duration::from_secs(4))));
    let server = Running::start(slow);
    let address = server.address;
    let clients: Vec<_> = (0..limits().connections - 1)
        .map(|_| {
            thread::spawn(move || {
                let began = Instant::now();
                let reply = get(address, "/metrics");
                assert_eq!(reply.status, 503);
                assert!(
                    reply.line().contains("no answer within 1.5s"),
                    "{}",
                    reply.body
                );
                assert!(
                    began.elapsed() < Duration::from_millis(3900),
                    "{:?}",
                    began.elapsed()
                );
            })
        })
        .collect();
    // What asks nothing of the source is served all the while.
    thread::sleep(Duration::from_millis(100));
    assert_eq!(get(address, "/").status, 200);
    for client in clients {
        client.join().unwrap();
    }
    assert_eq!(slow.now_and_most.lock().unwrap().1, limits().calls);
}

#[test]
fn scrapes_at_the_same_time_take_turns() {
    let slow: &'static Slow = Box::leak(Box::new(Slow::new(Duration::from_millis(50))));
    let server = Running::start(slow);
    let address = server.address;
    let clients: Vec<_> = (0..limits().connections)
        .map(|_| thread::spawn(move || get(address, "/metrics").status))
        .collect();
    for client in clients {
        assert_eq!(client.join().unwrap(), 200);
    }
    assert_eq!(slow.now_and_most.lock().unwrap().1, limits().calls);
}

/// Sends everything, says that this was all, and reads what comes.
fn talk(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // It may be closed by now, and so may be the rest.
    let _sent: Result<_, _> = stream.write_all(bytes);
    let _shut: Result<_, _> = stream.shutdown(Shutdown::Write);
    let mut said = Vec::new();
    let _read: Result<_, _> = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn what_is_no_request_gets_no_page() {
    let server = Running::start(Fixed(vec![full()]));
    let long = "x".repeat(100_000);
    for request in [
        String::new(),
        "\r\n\r\n".into(),
        "GET\r\n\r\n".into(),
        "GET /metrics\r\n\r\n".into(),
        "GET /metrics HTTP/9.9\r\n\r\n".into(),
        "GET /met\0rics HTTP/1.1\r\n\r\n".into(),
        "GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n".into(),
        "GET /metrics HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".into(),
        "GET /metrics HTTP/1.1\r\nno colon\r\n\r\n".into(),
        "GET /metrics HTTP/1.1\r\n".into(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        "{\"v\":1,\"do\":\"show\"}\n".into(),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}".into(),
        format!("GET /metrics HTTP/1.1\r\nX: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100)),
        long,
    ] {
        let said = talk(server.address, request.as_bytes());
        let shown = &request[..request.len().min(80)];
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 4"),
            "{shown:?}: {said}"
        );
        assert!(!said.contains("tcp_status_"), "{shown:?}: {said}");
    }
    assert_served(server.address);
}

#[test]
fn random_bytes_are_survived() {
    let server = Running::start(Fixed(vec![full()]));
    let mut random = StdRng::seed_from_u64(seed());
    let request =
        b"GET /metrics?window=5 HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain;q=0.5\r\n\r\n";
    for _ in 0..500 {
        let mut bytes = if random.random_bool(0.8) {
            request.to_vec()
        } else {
            Vec::new()
        };
        for _ in 0..random.random_range(1..8) {
            match random.random_range(0..4) {
                0 if !bytes.is_empty() => {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] = random.random();
                }
                1 => bytes.truncate(random.random_range(0..=bytes.len())),
                2 => bytes.extend((0..random.random_range(0..200)).map(|_| random.random::<u8>())),
                _ => bytes.extend_from_slice(request),
            }
        }
        let said = talk(server.address, &bytes);
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 ") || said.starts_with("HTTP/1.0 "),
            "{said}"
        );
    }
    assert_served(server.address);
}
