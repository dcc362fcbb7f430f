//! How large the page becomes.

use std::collections::BTreeSet;

use tcp_status::{
    serve::http::Options,
    snapshot::{
        CgroupCounts, CgroupName, Cgroups, ConnectionEnds, Counts, PortCounts, Snapshot, Tier,
    },
};
use tcp_status_common::state::State;

use crate::{
    fake::{counts, full},
    limits,
    page::pages,
    text::Page,
};

/// A namespace with 1,000 listening ports that have connections in all states but one.
fn crowded() -> Snapshot {
    let mut states = counts(5);
    states[State::Closed] = 0;
    let one = |port| PortCounts {
        port,
        states: match port {
            2999 => counts(90),
            _ => states,
        },
        connection_ends: Some(ConnectionEnds::from_counts(&[4, 3, 2, 1])),
    };
    // An idle port on which a connection waits.
    let queue = |port| {
        if port == 1500 {
            [1, 4096, 1]
        } else {
            [0, 4096, 0]
        }
    };
    let address = std::net::Ipv6Addr::LOCALHOST.into();
    let mut snapshot = full();
    snapshot.listeners = (2000..3000)
        .chain([1500])
        .map(|port| crate::fake::listener(address, port, queue(port)))
        .collect();
    snapshot.ports.tracked = (2000..3000).map(one).collect();
    snapshot
}

#[test]
fn the_page_is_bounded_however_many_ports_listen() {
    let with = |max_ports| Options {
        limits: limits(),
        max_ports,
        ..Options::default()
    };
    let sum = |page: &Page, state: State| {
        let state = format!("state=\"{state}\"");
        let series = page.samples.iter().filter(|(name, _)| {
            name.starts_with("tcp_status_port_connections{") && name.contains(&state)
        });
        series.map(|(_, value)| value).sum::<f64>()
    };
    let ports = |page: &Page| {
        let names = page.samples.keys();
        let of_ports = names.filter(|name| name.starts_with("tcp_status_port_connections{"));
        let label = |name: &String| name.split('"').nth(1).unwrap().to_owned();
        of_ports.map(label).collect::<BTreeSet<_>>()
    };
    let whole = Page::parse(&pages(vec![crowded()], with(65_535))[0]);
    assert_eq!(ports(&whole).len(), 1001);
    for (max_ports, listed) in [(256, 256), (10, 10), (0, 1)] {
        let [text, _] = pages(vec![crowded()], with(max_ports));
        assert!(text.len() < 1_000_000, "{max_ports}: {} bytes", text.len());
        let page = Page::parse(&text);
        for state in State::ALL {
            let (all, some) = (sum(&whole, state), sum(&page, state));
            assert!(
                (all - some).abs() < 0.5,
                "{max_ports}, {state}: {some} of {all}"
            );
        }
        let ports = ports(&page);
        // One of the listed ones has a queue, and no connections.
        assert_eq!(ports.len(), listed, "{max_ports}");
        assert!(ports.contains("other"), "{ports:?}");
        let waits =
            text.contains("tcp_status_accept_queue_length{address=\"::1\",port=\"1500\"} 1\n");
        assert_eq!(waits, max_ports > 0);
        assert_eq!(ports.contains("2999"), max_ports > 0);
        assert!(!text.contains("port=\"2000\",state=\"closed\""));
        let ends = page.series("tcp_status_port_connection_ends_total");
        assert_eq!(ends, 4 * (listed - 1), "{max_ports}");
    }
}

/// A namespace with so many cgroups, each with one connection more than the one before.
fn pods(netns: u32, cgroups: u64) -> Snapshot {
    let one = |at| {
        let mut states = Counts::default();
        states[State::Established] = u64::from(netns) + at;
        CgroupCounts {
            id: at,
            name: CgroupName::of(&format!("/{at}.service")),
            states,
        }
    };
    Snapshot {
        netns,
        cgroups: Some(Cgroups {
            tracked: (0..cgroups).map(one).collect(),
            ..Cgroups::default()
        }),
        ..full()
    }
}

#[test]
fn cgroups_of_all_namespaces_are_bounded_together() {
    let all = vec![pods(1, 300), pods(2, 0), pods(1000, 300)];
    let total = |netns: u32| u64::from(netns) * 300 + 299 * 300 / 2;
    for (max_cgroups, rows_of_1, rows_of_1000) in [(600, 300, 300), (310, 10, 300), (7, 0, 7)] {
        let options = Options {
            max_cgroups,
            ..Options::default()
        };
        let page = Page::parse(&pages(all.clone(), options)[0]);
        for (netns, rows, sum) in [
            (1, rows_of_1, total(1)),
            (2, 0, 0),
            (1000, rows_of_1000, total(1000)),
        ] {
            let family = format!("tcp_status_cgroup_connections{{netns=\"{netns}\",");
            let series = page.samples.iter();
            let series: Vec<_> = series
                .filter(|(name, _)| name.starts_with(&family))
                .collect();
            let others = series.iter();
            let others = others
                .filter(|(name, _)| name.contains("cgroup=\"other\""))
                .count();
            assert_eq!(series.len() - others, rows, "{max_cgroups}, {netns}");
            assert_eq!(others, usize::from(rows < 300 && sum > 0));
            let found: f64 = series.iter().map(|(_, value)| **value).sum();
            assert!((found - sum as f64).abs() < 0.5, "{found} of {sum}");
        }
    }
}

#[test]
fn a_thousand_ports_fit_into_a_megabyte() {
    let mut snapshot = crowded();
    for one in &mut snapshot.ports.tracked {
        // What a web server has: the other states pass.
        let (established, timewait) = (one.states[State::Established], one.states[State::TimeWait]);
        one.states = Counts::default();
        one.states[State::Listen] = 1;
        one.states[State::Established] = established;
        one.states[State::TimeWait] = timewait;
    }
    let options = Options {
        max_ports: 1000,
        ..Options::default()
    };
    let [text, _] = pages(vec![snapshot], options);
    assert!(text.len() < 1_000_000, "{} bytes", text.len());
    println!("1,000 ports: {} bytes", text.len());
}

#[test]
fn a_thousand_namespaces_make_a_bounded_page() {
    let namespace = |netns: u32| {
        let mut ipv4 = Counts::default();
        ipv4[State::Established] = netns.into();
        let mut found = Snapshot::of(Tier::Full, netns, [ipv4, Counts::default()]);
        found.degraded = (netns == 7).then(|| "3 state changes missed".into());
        found.cgroups = pods(netns, 1).cgroups;
        found
    };
    // The tracker's own first, with the fewest connections.
    let all: Vec<_> = (1..=1001).map(namespace).collect();
    let total: u64 = all.iter().map(|one| one.states.total()).sum();
    for max_namespaces in [0, 1, 3, 256, 1000] {
        let limited = Options {
            limits: limits(),
            max_namespaces,
            max_cgroups: 10,
            ..Options::default()
        };
        let [text, _] = pages(all.clone(), limited);
        let page = Page::parse(&text);
        let is_all = max_namespaces == 1000;
        assert_eq!(page.series("tcp_status_degraded"), 1 + max_namespaces);
        let rows = 1 + max_namespaces + usize::from(!is_all);
        assert_eq!(page.series("tcp_status_connections"), 22 * rows);
        let is = |netns: &str| {
            page.samples.keys().any(|name| {
                name.contains(&format!("netns=\"{netns}\""))
                    && name.starts_with("tcp_status_degraded")
            })
        };
        assert!(is("1"), "the tracker's own");
        // What is amiss, then what has the most connections.
        assert_eq!(
            [is("7"), is("1001"), is("900")],
            [1, 2, 103].map(|room| max_namespaces >= room)
        );
        let sum_of = |metric: &str| -> f64 {
            let series = page
                .samples
                .iter()
                .filter(|(name, _)| name.starts_with(metric));
            series.map(|(_, value)| value).sum()
        };
        #[expect(clippy::cast_precision_loss, reason = "half a million")]
        let wanted = total as f64;
        assert!((sum_of("tcp_status_connections{") - wanted).abs() < 0.5);
        assert!((sum_of("tcp_status_cgroup_connections{") - wanted).abs() < 0.5);
        // Rows of their own, and two of each namespace that is listed.
        assert!(page.series("tcp_status_cgroup_connections") <= 10 + 2 * rows);
        assert!(is_all || text.len() < 1_000_000, "{} bytes", text.len());
    }
}
