//! Requests of well-behaved clients.

use std::{
    sync::atomic::AtomicBool,
    thread,
    time::{Duration, Instant},
};

use tcp_status::snapshot::Snapshot;

use crate::{
    Options, Running,
    client::{Connection, OPEN_METRICS, ask, get},
    fake::{FailsFirst, Fixed, Panics, full},
    limits,
    text::Page,
};

#[test]
fn formats_are_negotiated() {
    let server = Running::start(Fixed(vec![full()]));
    for (headers, content_type) in [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "Accept: */*\r\n",
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        (
            "Accept: \u{ff}\r\n",
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        (
            OPEN_METRICS,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        (
            "Accept: text/plain;q=0.2\r\nAccept: application/openmetrics-text;q=0.3\r\n",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ] {
        let reply = ask(server.address, "GET", "/metrics", headers);
        assert_eq!(
            (reply.status, reply.content_type()),
            (200, content_type),
            "{headers}"
        );
        assert_eq!(
            reply.body.ends_with("# EOF\n"),
            content_type.starts_with("app"),
            "{headers}"
        );
    }
}

#[test]
fn head_is_the_same_without_the_body() {
    let server = Running::start(Fixed(vec![full()]));
    for target in ["/", "/metrics", "/healthz", "/readyz", "/nothing"] {
        let mut connection = Connection::open(server.address);
        let head = connection.ask("HEAD", target, "").unwrap();
        let get = get(server.address, target);
        assert_eq!(
            (head.status, head.content_type()),
            (get.status, get.content_type())
        );
        let length = |text: &str| text.parse::<usize>().unwrap();
        let (said, is) = (length(&head.headers["content-length"]), get.body.len());
        // The duration of a scrape has as many digits as it has.
        assert!(said.abs_diff(is) < 20, "{target}: {said} {is}");
        assert_eq!(head.body, "");
    }
}

#[test]
fn what_is_not_there_or_not_allowed_is_said_in_one_line() {
    let server = Running::start(Fixed(vec![full()]));
    for (method, target, headers, status, part) in [
        ("GET", "/metric", "", 404, "there are /metrics"),
        (
            "POST",
            "/nothing",
            "Content-Length: 3\r\n",
            404,
            "there are /metrics",
        ),
        (
            "POST",
            "/metrics",
            "Content-Length: 3\r\n",
            405,
            "use GET or HEAD",
        ),
        ("DELETE", "/healthz", "", 405, "use GET or HEAD"),
        ("GET", "/metrics", "Content-Length: 3\r\n", 413, "no body"),
        (
            "GET",
            "/metrics",
            "Transfer-Encoding: chunked\r\n",
            413,
            "no body",
        ),
        (
            "GET",
            "/metrics?window=0",
            "",
            400,
            "window=1 to window=86400",
        ),
    ] {
        let mut connection = Connection::open(server.address);
        let reply = connection.ask(method, target, headers).unwrap();
        assert_eq!(reply.status, status, "{method} {target}");
        assert!(reply.line().contains(part), "{}", reply.body);
        assert_eq!(
            reply.headers.get("allow").map(String::as_str),
            (status == 405).then_some("GET, HEAD")
        );
        // A body that may follow is not taken for the next request.
        assert_eq!(reply.headers["connection"], "close", "{method} {target}");
        assert!(connection.is_closed(), "{method} {target}");
    }
    assert!(get(server.address, "/").line().contains("/metrics"));
}

#[test]
fn one_connection_serves_many_scrapes() {
    let server = Running::start(Fixed(vec![full()]));
    let mut connection = Connection::open(server.address);
    for scrape in 1..=20 {
        let reply = connection.ask("GET", "/metrics?window=600", "").unwrap();
        let page = Page::parse(&reply.body);
        assert!((page.value("tcp_status_scrapes_total") - f64::from(scrape)).abs() < 1e-9);
        assert!((page.value("tcp_status_peak_window_seconds") - 600.0).abs() < 1e-9);
    }
    // For longer than one may stay that asks nothing.
    thread::sleep(limits().timeouts.first_request + Duration::from_millis(200));
    assert_eq!(connection.ask("GET", "/healthz", "").unwrap().status, 200);
}

#[test]
fn probes_tell_doubt_from_death() {
    let healthy = Running::start(Fixed(vec![full()]));
    let doubtful = Running::start(Fixed(vec![
        full(),
        Snapshot {
            degraded: Some("3 state changes\nmissed; the next audit corrects it".into()),
            ..full()
        },
    ]));
    let broken = Running::start(Fixed(Vec::new()));
    let doubt = "degraded: 3 state changes missed; the next audit corrects it";
    let gone = "read counters, on a map: gone; start again";
    for (server, path, status, line) in [
        (&healthy, "/healthz", 200, "ok"),
        (&healthy, "/readyz", 200, "ok"),
        (&doubtful, "/healthz", 200, &*format!("ok, {doubt}")),
        (&doubtful, "/readyz", 503, doubt),
        (&broken, "/healthz", 503, gone),
        (&broken, "/readyz", 503, gone),
        (&broken, "/metrics", 503, gone),
    ] {
        let reply = get(server.address, path);
        assert_eq!((reply.status, reply.line()), (status, line), "{path}");
    }
}

#[test]
fn scrapes_that_fail_are_counted() {
    let server = Running::start(FailsFirst(AtomicBool::new(false)));
    assert_eq!(get(server.address, "/metrics").status, 503);
    let page = Page::parse(&get(server.address, "/metrics").body);
    for (series, value) in [
        ("tcp_status_scrapes_total", "2"),
        ("tcp_status_scrape_errors_total", "1"),
    ] {
        assert_eq!(page.value(series).to_string(), value, "{series}");
    }
}

#[test]
fn a_bug_in_the_source_ends_one_answer() {
    // With the usual time for a call: a panic takes its own to print a backtrace.
    let server = Running::with(Panics, Options::default());
    for _ in 0..5 {
        let reply = get(server.address, "/metrics");
        assert_eq!(reply.status, 503);
        assert!(reply.line().contains("internal error"), "{}", reply.body);
    }
}

#[test]
fn idle_connections_do_not_hold_up_the_end() {
    // The best of some: a machine that does much else takes its time.
    let times = (0..5).map(|_| {
        let server = Running::start(Fixed(vec![full()]));
        let mut idle = Connection::open(server.address);
        let mut answered = Connection::open(server.address);
        answered.ask("GET", "/metrics", "").unwrap();
        let began = Instant::now();
        server.stop();
        let time = began.elapsed();
        assert!(idle.is_closed() && answered.is_closed());
        time
    });
    assert!(times.min().unwrap() < Duration::from_millis(200));
}
