//! What is on the page, for readings of every kind.

use std::{collections::BTreeSet, path::Path};

use tcp_status::{
    serve::http::Options,
    snapshot::{Counts, PortCounts, Ports, Snapshot, Tier},
};
use tcp_status_common::state::State;

use crate::{
    Running,
    client::{OPEN_METRICS, ask, get},
    fake::{Fixed, counts, full},
    limits,
    programs::promtool,
    text::Page,
};

/// The page in both formats.
pub(super) fn pages(readings: Vec<Snapshot>, options: Options) -> [String; 2] {
    let server = Running::with(Fixed(readings), options);
    ["", OPEN_METRICS].map(|headers| ask(server.address, "GET", "/metrics?window=30", headers).body)
}

fn parsed(readings: Vec<Snapshot>) -> Page {
    let [text, open_metrics] = pages(readings, Options::default());
    let (page, other) = (Page::parse(&text), Page::parse(&open_metrics));
    let steady = |page: &Page| {
        let samples = page
            .samples
            .iter()
            .filter(|(name, _)| name.starts_with("tcp_status_") && !name.contains("_scrape"));
        samples
            .map(|(name, value)| (name.clone(), *value))
            .collect::<Vec<_>>()
    };
    assert_eq!(steady(&page), steady(&other));
    page
}

/// Each reason has its own number.
fn assert_reasons(page: &Page) {
    for (name, reasons, first) in [
        (
            "connect_failures",
            &[
                "refused",
                "reset",
                "timed_out",
                "unreachable",
                "aborted",
                "other",
            ][..],
            11,
        ),
        (
            "connection_ends",
            &["closed", "reset_by_peer", "reset_locally", "timed_out"],
            21,
        ),
    ] {
        for (reason, expected) in reasons.iter().zip(first..) {
            let value = page.value(&format!("tcp_status_{name}_total{{reason=\"{reason}\"}}"));
            assert!(
                (value - f64::from(expected)).abs() < 0.5,
                "{reason}: {value}"
            );
        }
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_number_is_on_the_page() {
    let page = parsed(vec![full()]);
    for state in State::ALL {
        let number = f64::from(state.number());
        for (series, hundreds) in [
            (
                format!("tcp_status_connections{{state=\"{state}\",family=\"ipv4\"}}"),
                1.0,
            ),
            (
                format!("tcp_status_connections{{state=\"{state}\",family=\"ipv6\"}}"),
                2.0,
            ),
            (
                format!("tcp_status_connections_peak{{state=\"{state}\"}}"),
                9.0,
            ),
            (
                format!("tcp_status_connections_low{{state=\"{state}\"}}"),
                0.0,
            ),
            (
                format!("tcp_status_drift_corrections_total{{state=\"{state}\"}}"),
                1.0,
            ),
        ] {
            assert!(
                (page.value(&series) - (100.0 * hundreds + number)).abs() < 1e-9,
                "{series}"
            );
        }
    }
    for (series, hundreds) in [
        ("port_connections{port=\"22\",", 3.0),
        ("port_connections{port=\"8080\",", 4.0),
        ("port_connections{port=\"other\",", 5.0),
        ("outgoing_connections{", 6.0),
        (
            "cgroup_connections{cgroup=\"/system.slice/web.service\",unit=\"web.service\",\
             container=\"c0ffee\",pod=\"shop/web-0\",",
            7.0,
        ),
        (
            "cgroup_connections{cgroup=\"other\",unit=\"\",container=\"\",pod=\"\",",
            8.0,
        ),
        (
            "cgroup_connections{cgroup=\"unattributed\",unit=\"\",container=\"\",pod=\"\",",
            9.0,
        ),
    ] {
        for state in State::ALL {
            let series = format!("tcp_status_{series}state=\"{state}\"}}");
            if state == State::Closed {
                assert_eq!(page.samples.get(&series), None, "{series}");
                continue;
            }
            let wanted = 100.0 * hundreds + f64::from(state.number());
            assert!((page.value(&series) - wanted).abs() < 1e-9, "{series}");
        }
    }
    for (series, value) in [
        (
            "tcp_status_transitions_total{from=\"closed\",to=\"synsent\"}",
            41.0,
        ),
        (
            "tcp_status_transitions_total{from=\"lastack\",to=\"timewait\"}",
            1.0,
        ),
        (
            "tcp_status_transitions_total{from=\"closewait\",to=\"lastack\"}",
            0.0,
        ),
        ("tcp_status_stale_connections{state=\"closewait\"}", 7.0),
        ("tcp_status_stale_connections{state=\"finwait2\"}", 8.0),
        ("tcp_status_stale_threshold_seconds", 60.0),
        ("tcp_status_stale_age_seconds", 9.0),
        ("tcp_status_peak_window_seconds", 30.0),
        ("tcp_status_ports_limit", 2.0),
        ("tcp_status_ports_unaudited", 1.0),
        ("tcp_status_listen_overflows_total", 10.0),
        ("tcp_status_listen_drops_total", 11.0),
        ("tcp_status_syncookies_sent_total", 12.0),
        ("tcp_status_syncookies_received_total", 13.0),
        ("tcp_status_syncookies_failed_total", 14.0),
        ("tcp_status_syn_queue_full_cookies_total", 15.0),
        ("tcp_status_syn_queue_full_drops_total", 16.0),
        ("tcp_status_ephemeral_ports", 28_232.0),
        (
            "tcp_status_fullest_destination_used_ratio{destination=\"10.0.0.1 -> [fd00::2]:5432\"}",
            0.75,
        ),
        (
            "tcp_status_fullest_destination_full_seconds{destination=\"10.0.0.1 -> [fd00::2]:5432\"}",
            4705.0,
        ),
        ("tcp_status_events_total", 42.0),
        ("tcp_status_missed_events_total", 3.0),
        ("tcp_status_audits_total", 5.0),
        ("tcp_status_audit_age_seconds", 12.0),
        ("tcp_status_audit_duration_seconds", 0.0026),
        ("tcp_status_degraded", 0.0),
        ("tcp_status_tier_info{tier=\"full\"}", 1.0),
        ("tcp_status_scrapes_total", 1.0),
        ("tcp_status_scrape_errors_total", 0.0),
    ] {
        assert!(
            (page.value(series) - value).abs() < 1e-9,
            "{series} is {}",
            page.value(series)
        );
    }
    let version = env!("CARGO_PKG_VERSION");
    page.value(&format!("tcp_status_build_info{{version=\"{version}\"}}"));
    for positive in [
        "tcp_status_scrape_duration_seconds",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    ] {
        assert!(page.value(positive) > 0.0, "{positive}");
    }
    assert_eq!(page.series("tcp_status_connections"), 22);
    assert_eq!(page.series("tcp_status_transitions_total"), 26);
    // One for each reason, happened or not, so that the first one is seen as an increase.
    assert_eq!(page.series("tcp_status_connect_failures_total"), 6);
    assert_eq!(page.series("tcp_status_connection_ends_total"), 4);
    assert_reasons(&page);
    assert_eq!(page.series("tcp_status_port_connection_ends_total"), 8);
    assert_eq!(page.series("tcp_status_no_local_port_total"), 1);
    // Those with the most of twelve.
    let by_destination = "tcp_status_no_local_port_by_destination_total";
    assert_eq!(page.series(by_destination), 10);
    for failures in [3, 12] {
        let labels = format!("address=\"::{failures:x}\",port=\"5432\"");
        let value = page.value(&format!("{by_destination}{{{labels}}}"));
        assert!((value - f64::from(failures)).abs() < 0.5, "{value}");
    }
    assert_eq!(page.series("tcp_status_state_seconds_total"), 11);
}

#[test]
fn sockets_of_one_address_are_one_series() {
    let page = parsed(vec![full()]);
    let group = |metric| page.value(&format!("{metric}{{address=\"127.0.0.1\",port=\"8080\"}}"));
    assert_eq!(
        [
            "tcp_status_listeners",
            "tcp_status_accept_queue_length",
            "tcp_status_accept_queue_limit",
            "tcp_status_accept_queue_peak",
            "tcp_status_accept_queue_peak_ratio",
            "tcp_status_syn_queue_length",
            "tcp_status_syn_queue_retransmitted",
            "tcp_status_syn_queue_limit",
            "tcp_status_listener_drops",
        ]
        .map(group),
        [2.0, 129.0, 256.0, 131.0, 1.0, 258.0, 129.0, 256.0, 3.0]
    );
    assert_eq!(page.series("tcp_status_accept_queue_length"), 3);
    page.value("tcp_status_accept_queue_limit{address=\"::\",port=\"8080\"}");
    // Of one socket the kernel does not tell.
    assert_eq!(page.series("tcp_status_syn_queue_length"), 2);
}

#[test]
fn accept_latency_is_a_histogram_of_each_port() {
    let page = parsed(vec![full()]);
    let kind = page.kinds.get("tcp_status_accept_latency_seconds");
    assert_eq!(kind.map(String::as_str), Some("histogram"));
    let of = |suffix: &str, labels: &str| {
        page.value(&format!(
            "tcp_status_accept_latency_seconds_{suffix}{{port={labels}}}"
        ))
    };
    for (labels, value) in [
        ("\"8080\",le=\"0.001\"", 5.0),
        ("\"8080\",le=\"0.05\"", 5.0),
        ("\"8080\",le=\"0.1\"", 8.0),
        ("\"8080\",le=\"10\"", 8.0),
        ("\"8080\",le=\"+Inf\"", 9.0),
        ("\"other\",le=\"0.01\"", 0.0),
        ("\"other\",le=\"0.025\"", 2.0),
    ] {
        assert_eq!(of("bucket", labels), value, "{labels}");
    }
    assert_eq!(
        (of("count", "\"8080\""), of("sum", "\"8080\"")),
        (9.0, 12.25)
    );
    assert_eq!(
        page.series("tcp_status_accept_latency_seconds_bucket"),
        3 * 13
    );
    // Which ports are listed changes: those that are not are in no sum, which could fall.
    let limited = Options {
        max_ports: 1,
        ..Options::default()
    };
    let [text, _] = pages(vec![full()], limited);
    let page = Page::parse(&text);
    let count = |port: &str| {
        page.value(&format!(
            "tcp_status_accept_latency_seconds_count{{port=\"{port}\"}}"
        ))
    };
    assert_eq!((count("8080"), count("other")), (9.0, 2.0));
    assert_eq!(page.series("tcp_status_accept_latency_seconds_count"), 2);
}

#[test]
fn what_no_sampler_saw_of_accept_queues_has_no_series() {
    let mut unsampled = full();
    for listener in &mut unsampled.listeners {
        listener.accept_queue_peak = None;
    }
    let page = parsed(vec![unsampled]);
    assert_eq!(page.series("tcp_status_accept_queue_length"), 3);
    assert_eq!(page.series("tcp_status_accept_queue_peak"), 0);
    assert_eq!(page.series("tcp_status_accept_queue_peak_ratio"), 0);
}

#[test]
fn a_destination_that_does_not_fill_up_has_no_forecast() {
    let mut snapshot = full();
    let fullest = snapshot.fullest_destination.as_mut().unwrap();
    fullest.seconds_until_exhausted = None;
    let page = parsed(vec![snapshot]);
    assert_eq!(page.series("tcp_status_fullest_destination_used_ratio"), 1);
    assert_eq!(
        page.series("tcp_status_fullest_destination_full_seconds"),
        0
    );
}

#[test]
fn a_port_has_series_only_for_states_that_it_has() {
    let port = |port| PortCounts {
        port,
        states: [(State::Established, 2), (State::Listen, 1)]
            .into_iter()
            .fold(Counts::default(), |mut counts, (state, count)| {
                counts[state] = count;
                counts
            }),
        connection_ends: None,
    };
    let page = parsed(vec![Snapshot {
        ports: Ports {
            tracked: (1..=256).map(port).collect(),
            outgoing: Some(Counts::default()),
            other: Some(Counts::default()),
            ..Ports::default()
        },
        ..full()
    }]);
    assert_eq!(page.series("tcp_status_port_connections"), 2 * 256);
    // There from the start, so that no alert breaks on a missing one.
    assert_eq!(page.series("tcp_status_outgoing_connections"), 10);
}

#[test]
fn what_is_not_known_is_left_out_and_what_is_none_is_zero() {
    let page = parsed(vec![Snapshot {
        tier_reason: Some("no BTF: \"/sys\\x\"\nmissing".into()),
        degraded: Some("3 state changes missed".into()),
        ..Snapshot::of(Tier::Scan, 1, <_>::default())
    }]);
    let value = |series| page.samples.get(series).copied();
    // A code, without the sentence that says why.
    assert_eq!(value("tcp_status_tier_info{tier=\"scan\"}"), Some(1.0));
    assert_eq!(value("tcp_status_degraded"), Some(1.0));
    for (metric, series) in [
        ("tcp_status_connections", 22),
        ("tcp_status_transitions_total", 0),
        ("tcp_status_no_local_port_total", 0),
        ("tcp_status_fullest_destination_used_ratio", 0),
        ("tcp_status_drift_corrections_total", 11),
        ("tcp_status_events_total", 0),
        ("tcp_status_missed_events_total", 0),
        ("tcp_status_audits_total", 1),
        ("tcp_status_connections_peak", 0),
        ("tcp_status_stale_connections", 0),
        ("tcp_status_audit_age_seconds", 0),
        ("tcp_status_listen_overflows_total", 0),
        ("tcp_status_syncookies_sent_total", 0),
        ("tcp_status_outgoing_connections", 0),
        ("tcp_status_ephemeral_ports", 0),
        ("tcp_status_accept_queue_length", 0),
        ("tcp_status_accept_latency_seconds_count", 0),
        ("node_tcp_connection_states", 0),
    ] {
        assert_eq!(page.series(metric), series, "{metric}");
    }
}

#[test]
fn namespaces_are_told_apart_by_name_or_number() {
    let named = |netns, name: Option<&str>| Snapshot {
        netns,
        netns_name: name.map(Into::into),
        ports: Ports::default(),
        ..full()
    };
    let page = parsed(vec![
        named(1, None),
        named(2, Some("blue")),
        named(3, Some("twice")),
        named(4, Some("twice")),
        named(5, Some("")),
    ]);
    assert_eq!(page.series("tcp_status_connections"), 5 * 22);
    for name in ["1", "blue", "3", "4", "5"] {
        for series in [
            format!("tcp_status_connections{{netns=\"{name}\",state=\"listen\",family=\"ipv6\"}}"),
            format!("tcp_status_listen_drops_total{{netns=\"{name}\"}}"),
            format!("tcp_status_tier_info{{netns=\"{name}\",tier=\"full\"}}"),
        ] {
            page.value(&series);
        }
    }
    // What is not of a namespace.
    for series in ["tcp_status_missed_events_total", "tcp_status_scrapes_total"] {
        page.value(series);
    }
    let always = Options {
        label_netns: true,
        ..Options::default()
    };
    let [text, _] = pages(vec![full()], always);
    Page::parse(&text).value("tcp_status_degraded{netns=\"4026531833\"}");
    assert_eq!(parsed(vec![full()]).value("tcp_status_degraded"), 0.0);
}

#[test]
fn node_exporters_names_are_there_where_asked_for() {
    let [text, _] = pages(
        vec![full()],
        Options {
            node_names: true,
            ..Options::default()
        },
    );
    let page = Page::parse(&text);
    // As node_exporter's collector/tcpstat_linux.go spells them, in the kernel's order.
    let spelled = [
        "established",
        "syn_sent",
        "syn_recv",
        "fin_wait1",
        "fin_wait2",
        "time_wait",
        "close",
        "close_wait",
        "last_ack",
        "listen",
        "closing",
    ];
    let mut both = counts(1);
    both += &counts(2);
    for (state, name) in State::ALL.into_iter().zip(spelled) {
        let value = page.value(&format!("node_tcp_connection_states{{state=\"{name}\"}}"));
        assert!((value - u32::try_from(both[state]).map(f64::from).unwrap()).abs() < 1e-9);
    }
    assert_eq!(page.series("node_tcp_connection_states"), 11);
}

#[test]
fn the_two_formats_differ_where_they_must() {
    let [text, open_metrics] = pages(vec![full()], Options::default());
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    for line in [
        "# TYPE tcp_status_transitions_total counter",
        "# HELP tcp_status_transitions_total ",
        "# TYPE tcp_status_build_info gauge",
    ] {
        assert!(text.contains(line), "{line}");
    }
    for line in [
        "# TYPE tcp_status_transitions counter",
        "# HELP tcp_status_transitions State",
        "# TYPE tcp_status_tier info",
        "# UNIT tcp_status_audit_age_seconds seconds",
    ] {
        assert!(open_metrics.contains(line), "{line}");
    }
    assert!(open_metrics.ends_with("\n# EOF\n"));
    let names: BTreeSet<_> = Page::parse(&text).kinds.into_keys().collect();
    for name in names {
        assert!(
            name.starts_with("tcp_status_") || name.starts_with("process_"),
            "{name}"
        );
    }
}

#[test]
fn promtool_finds_nothing_to_mend() {
    let with_all = Options {
        label_netns: true,
        node_names: true,
        limits: limits(),
        ..Options::default()
    };
    let two = vec![full(), Snapshot { netns: 1, ..full() }];
    let server = Running::with(Fixed(two), with_all);
    let page = get(server.address, "/metrics").body;
    let check = ["check", "metrics", "--extended"];
    let Some(counted) = promtool(Path::new("/"), &check, &page) else {
        return;
    };
    assert!(counted.contains("tcp_status_connections "), "{counted}");
}
