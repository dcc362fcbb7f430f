//! The real binary: its page against the kernel's listing, its addresses, its end.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::{
    signal::Signal,
    socket::{Backlog, listen},
};
use tcp_status_common::state::State;
use tcp_status_testkit::{
    cgroup::{Cgroup, Traffic},
    held_sockets::{HeldSockets, SocketPlan},
    netns::Netns,
    oracle::{Counts, Table},
    seed, skip_unprepared,
};

use crate::{
    client::{Connection, get},
    text::Page,
    tracker::{Tracker, printed, refused},
};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn the_page_has_the_kernels_numbers() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    netns
        .run(|| {
            for backend in ["scan", "auto"] {
                let hold = HeldSockets::new(&SocketPlan::random(4, seed())).unwrap();
                hold.wait(PATIENCE).unwrap();
                let tracker = Tracker::start(&["--backend", backend, "--metrics", "127.0.0.1:0"]);
                // Both ends of it are counted as well: it stays open, so that nothing changes.
                let mut connection = Connection::open(tracker.address());
                connection.ask("GET", "/", "").unwrap();
                assert_equal_to_the_listing(&mut connection);
            }
        })
        .unwrap();
}

/// All 22 gauges, between two equal listings.
fn assert_equal_to_the_listing(connection: &mut Connection) {
    let started = Instant::now();
    loop {
        let before = Counts::read().unwrap();
        let page = Page::parse(&connection.ask("GET", "/metrics", "").unwrap().body);
        let after = Counts::read().unwrap();
        let mut counts = Counts::default();
        for (table, family) in Table::ALL.into_iter().zip(["ipv4", "ipv6"]) {
            for state in State::ALL {
                let series =
                    format!("tcp_status_connections{{state=\"{state}\",family=\"{family}\"}}");
                let value = page.value(&series).to_string();
                counts.0[table as usize][usize::from(state.number())] = value.parse().unwrap();
            }
        }
        if before == after && counts == before {
            let held = State::ALL
                .iter()
                .filter(|state| counts.both(usize::from(state.number())) > 0);
            assert!(held.count() >= 10, "{counts}");
            return;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{}",
            counts.differences(&after)
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Whether a page is made with eBPF; says so if not.
fn is_by_events(page: &Page) -> bool {
    let scans = page.samples.keys().any(|series| {
        series.starts_with("tcp_status_tier_info") && series.contains("tier=\"scan\"")
    });
    if scans {
        skip_unprepared("http: no eBPF here, so neither peaks nor other namespaces");
    }
    !scans
}

#[test]
fn a_full_accept_queue_is_seen() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    netns
        .run(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listen(&listener, Backlog::new(1).unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            let tracker = Tracker::start(&["--metrics", "127.0.0.1:0"]);
            let labels = format!("{{address=\"127.0.0.1\",port=\"{}\"}}", address.port());
            let page = || Page::parse(&get(tracker.address(), "/metrics").body);
            let value = |metric: &str| page().value(&format!("{metric}{labels}")).to_string();
            assert_eq!(value("tcp_status_accept_queue_length"), "0");
            assert_eq!(value("tcp_status_accept_queue_limit"), "1");
            // One more than the limit is let in.
            let _waiting = [(); 2].map(|()| TcpStream::connect(address).unwrap());
            assert_eq!(value("tcp_status_accept_queue_length"), "2");
            assert_eq!(value("tcp_status_listeners"), "1");
            TcpStream::connect_timeout(&address, Duration::from_millis(100)).unwrap_err();
            let page = page();
            assert!(page.value("tcp_status_listen_drops_total") > 0.0);
            if is_by_events(&page) {
                let ratio = format!("tcp_status_accept_queue_peak_ratio{labels}");
                assert_eq!(page.value(&ratio).to_string(), "1");
                let port = address.port();
                let waiting =
                    format!("tcp_status_port_connections{{port=\"{port}\",state=\"established\"}}");
                assert_eq!(page.value(&waiting).to_string(), "2");
            }
        })
        .unwrap();
}

/// Where the tier has it, as a series; elsewhere the option is accepted, and the log and the JSON say
/// why it has none.
#[test]
fn accept_latency_has_a_series_or_a_reason() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    netns
        .run(|| {
            for backend in ["scan", "auto"] {
                let options = [
                    "--accept-latency",
                    "--backend",
                    backend,
                    "--metrics",
                    "127.0.0.1:0",
                ];
                let tracker = Tracker::start(&options);
                let socket = tracker.socket.to_str().unwrap();
                let listed = || -> serde_json::Value {
                    let text = printed(&["listeners", "--json", "--socket", socket]);
                    serde_json::from_str(&text).unwrap()
                };
                let began = Instant::now();
                while listed()["accept_latency_reason"] == "attaching" {
                    assert!(began.elapsed() < PATIENCE);
                }
                // The first page is of a connection that was accepted by then.
                let page = || Page::parse(&get(tracker.address(), "/metrics").body);
                drop(page());
                let series = page().series("tcp_status_accept_latency_seconds_count");
                let listed = listed();
                let Some(reason) = listed["accept_latency_reason"].as_str() else {
                    assert!(
                        series > 0 && listed["accept_latency"].is_array(),
                        "{listed}"
                    );
                    continue;
                };
                assert_eq!(
                    (series, &listed["accept_latency"]),
                    (0, &serde_json::Value::Null)
                );
                assert!(reason.contains("tier"), "{reason}");
                let text = printed(&["listeners", "--socket", socket]);
                assert!(!text.contains("p99"), "{text}");
                if backend == "scan" {
                    let warned = tracker
                        .log
                        .iter()
                        .filter(|line| line.contains("accept latency"));
                    assert_eq!(warned.count(), 1, "{:?}", tracker.log);
                }
            }
        })
        .unwrap();
}

#[test]
fn the_busiest_cgroups_have_series_and_the_rest_is_other() {
    let (Some(netns), Some(busy), Some(calm)) = (
        Netns::for_test(),
        Cgroup::for_test(None, "busy.service"),
        Cgroup::for_test(None, "calm.service"),
    ) else {
        return;
    };
    netns
        .run(|| {
            let mut traffic = [busy.spawn(&["bulk", "9"]), calm.spawn(&["bulk", "4"])];
            traffic.iter_mut().for_each(|one| one.hold());
            for (max, listed) in [("off", 0), ("1", 1), ("2", 2), ("256", 3)] {
                let arguments = ["--metrics", "127.0.0.1:0", "--metrics-cgroups", max];
                let tracker = Tracker::start(&arguments);
                // Both ends belong to the cgroup of this test.
                let mut connection = Connection::open(tracker.address());
                let page = Page::parse(&connection.ask("GET", "/metrics", "").unwrap().body);
                if !is_by_events(&page) {
                    return;
                }
                assert_cgroups(&mut connection, &[&busy, &calm][..listed.min(2)], listed);
            }
            traffic.into_iter().for_each(Traffic::end);
        })
        .unwrap();
}

/// The page lists so many cgroups, `named` ones among them, and all series add up to the kernel's listing.
fn assert_cgroups(connection: &mut Connection, named: &[&Cgroup], listed: usize) {
    let started = Instant::now();
    loop {
        let before = Counts::read().unwrap();
        let page = Page::parse(&connection.ask("GET", "/metrics", "").unwrap().body);
        let after = Counts::read().unwrap();
        let mut sums = [0.0; State::COUNT + 1];
        let mut paths = BTreeSet::new();
        for (series, value) in &page.samples {
            let Some(labels) = series.strip_prefix("tcp_status_cgroup_connections{") else {
                continue;
            };
            let mut labels = labels.split('"').skip(1).step_by(2);
            let [path, _unit, _container, _pod, state] = [(); 5].map(|()| labels.next().unwrap());
            sums[usize::from(state.parse::<State>().unwrap().number())] += value;
            paths.insert(path);
        }
        let all = State::ALL.map(|state| usize::from(state.number()));
        let is_all = all.iter().all(|&st| sums[st] == before.both(st) as f64);
        let has = |cgroup: &&Cgroup| paths.contains(&*format!("/{}", cgroup.name()));
        let own = paths
            .iter()
            .filter(|path| !["other", "unattributed"].contains(path));
        if before == after && is_all && named.iter().all(has) && own.count() == listed {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{sums:?}, {paths:?}; {after}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn with_all_namespaces_every_series_names_its_own() {
    let (Some(own), Some(other)) = (Netns::for_test(), Netns::for_test()) else {
        return;
    };
    // A namespace is known by who lives there.
    let sleep = || Command::new("sleep").arg("60").spawn();
    let mut inhabitant = other.run(sleep).unwrap().unwrap();
    let listeners = [Ipv4Addr::LOCALHOST; 2].map(|address| {
        other
            .run(|| TcpListener::bind((address, 0)).unwrap())
            .unwrap()
    });
    own.run(|| {
        let tracker = Tracker::start(&["--metrics", "127.0.0.1:0", "--netns", "all"]);
        let page = Page::parse(&get(tracker.address(), "/metrics").body);
        if !is_by_events(&page) {
            return;
        }
        for (netns, listening) in [(&own, "1"), (&other, "2")] {
            let labels = format!(
                "netns=\"{}\",state=\"listen\",family=\"ipv4\"",
                netns.inode()
            );
            let series = format!("tcp_status_connections{{{labels}}}");
            assert_eq!(page.value(&series).to_string(), listening);
        }
        for listener in &listeners {
            let labels = format!(
                "netns=\"{}\",address=\"127.0.0.1\",port=\"{}\"",
                other.inode(),
                listener.local_addr().unwrap().port()
            );
            page.value(&format!("tcp_status_accept_queue_limit{{{labels}}}"));
        }
    })
    .unwrap();
    inhabitant.kill().unwrap();
    inhabitant.wait().unwrap();
}

#[test]
fn an_address_that_cannot_be_is_refused_before_anything_starts() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (address, parts) in [
        (
            &*taken,
            [
                "address already in use",
                "; stop what listens there, or choose another port",
            ],
        ),
        // Of the documentation's addresses, which no host has.
        (
            "192.0.2.1:9889",
            [
                "cannot assign requested address",
                "; use an address of this host",
            ],
        ),
        (
            "localhost:9889",
            ["not an address and port", "such as 127.0.0.1:9889"],
        ),
    ] {
        let output = refused(&["--metrics", address]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), said.lines().count()),
            (Some(2), 1),
            "{said}"
        );
        let lower = said.to_lowercase();
        assert!(
            said.starts_with("tcp-status: ") && said.contains(address),
            "{said}"
        );
        assert!(parts.iter().all(|part| lower.contains(part)), "{said}");
    }
    let output = refused(&["--metrics-compat", "node"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn an_address_that_others_reach_is_warned_of_once() {
    let about = |tracker: &Tracker| {
        tracker
            .log
            .iter()
            .filter(|line| line.contains("without authentication"))
            .count()
    };
    let open = Tracker::start(&["--backend", "scan", "--metrics", "0.0.0.0:0"]);
    assert_eq!(about(&open), 1, "{:?}", open.log);
    let port = open.address().port();
    assert_eq!(
        get((Ipv4Addr::LOCALHOST, port).into(), "/healthz").line(),
        "ok"
    );
    let closed = Tracker::scanning();
    assert_eq!(about(&closed), 0, "{:?}", closed.log);
}

#[test]
fn without_the_option_nothing_listens() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    netns
        .run(|| {
            let tracker = Tracker::start(&["--backend", "scan"]);
            assert_eq!(Counts::read().unwrap().total(), 0);
            let socket = tracker.socket.to_str().unwrap();
            assert_eq!(printed(&["get", "listen", "--socket", socket]), "0\n");
        })
        .unwrap();
}

#[test]
fn a_crowd_at_the_page_does_not_disturb_the_socket() {
    let tracker = Tracker::scanning();
    // More than the page serves at a time.
    let crowd: Vec<_> = (0..400)
        .map(|_| TcpStream::connect(tracker.address()).unwrap())
        .collect();
    for _ in 0..20 {
        let began = Instant::now();
        drop(UnixStream::connect(&tracker.socket).unwrap());
        printed(&[
            "get",
            "established",
            "--socket",
            tracker.socket.to_str().unwrap(),
        ]);
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(get(tracker.address(), "/metrics").status, 200);
    }
    let open = fs::read_dir(Path::new("/proc").join(tracker.id().to_string()).join("fd")).unwrap();
    assert!(
        open.count() < 320,
        "256 connections, and what it has open itself"
    );
    drop(crowd);
}

#[test]
fn signals_end_it_with_clients_connected() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let tracker = Tracker::scanning();
        let address = tracker.address();
        let mut idle = Connection::open(address);
        idle.ask("GET", "/metrics", "").unwrap();
        let began = Instant::now();
        assert_eq!(tracker.end(signal).code(), Some(0));
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        assert!(idle.is_closed());
        TcpStream::connect(address).unwrap_err();
    }
}
