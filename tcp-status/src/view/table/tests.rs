//! Tables of made-up readings.

use std::collections::BTreeMap;

use tcp_status_common::state::State;

use super::Details;
use crate::{
    snapshot::{
        ConnectionEnds, Counts, Events, Overflows, Peaks, PortCounts, Ports, Rates, Snapshot,
        Stale, Tier, Transitions,
        minutes::{Extremes, History, Minute},
    },
    view::ports::{self, Selection, Sort},
};

fn render(snapshot: &Snapshot) -> String {
    super::render(snapshot, &Details::default())
}

fn verbose(snapshot: &Snapshot) -> String {
    let details = Details {
        verbose: true,
        ..Details::default()
    };
    super::render(snapshot, &details)
}

fn snapshot() -> Snapshot {
    let (mut ipv4, mut ipv6) = (Counts::default(), Counts::default());
    ipv4[State::Established] = u64::from(u32::MAX);
    ipv6[State::Established] = 10;
    ipv6[State::Listen] = 3;
    Snapshot::of(Tier::Full, 4_026_531_833, [ipv4, ipv6])
}

#[test]
fn numbers_stand_below_each_other() {
    let text = render(&snapshot());
    let expected = "\
verdict   healthy
netns     4026531833
tier      full

state             total       ipv4       ipv6
established  4294967305 4294967295         10
";
    assert!(text.starts_with(expected), "{text}");
    for state in State::ALL {
        assert!(text.contains(&format!("\n{state} ")), "{text}");
    }
    assert!(
        text.ends_with("\nall          4294967308 4294967295         13\n"),
        "{text}"
    );
}

#[test]
fn doubts_are_shown_and_nothing_is_wider_than_a_terminal() {
    let mut snapshot = snapshot();
    snapshot.tier = Tier::Reduced;
    snapshot.tier_reason = Some("the kernel \u{1b}[31mrefuses fexit programs; ".repeat(8));
    snapshot.degraded = Some("an audit is due".into());
    snapshot.port = Some(443);
    snapshot.drift.corrections = 1;
    snapshot.drift.last_audit_seconds_ago = Some(12);
    snapshot.drift.last_audit_microseconds = Some(1250);
    let text = verbose(&snapshot);
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    for line in [
        "tier      reduced: the kernel",
        "DEGRADED  an audit is due",
        "port      443",
        "drift     1 correction, last audit 12 s ago, took 1.2 ms",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(!text.contains('\u{1b}'));
}

fn with_history() -> Snapshot {
    let now = snapshot();
    let mut max = now.states;
    max[State::SynRecv] = 5000;
    Snapshot {
        peaks: Some(Peaks {
            window_seconds: 60,
            sample_milliseconds: 100,
            min: Counts::default(),
            max,
            max_seconds_ago: Counts::default(),
        }),
        rates: Some(Rates {
            window_seconds: 60.2,
            active_open: 12.04,
            passive_open: 1e6,
            ..Rates::default()
        }),
        stale: Some(Stale {
            older_than_seconds: 60,
            closewait: 3,
            finwait2: 0,
            walked_seconds_ago: 4,
        }),
        overflows: Some(Overflows {
            listen_overflows: 7,
            listen_drops: 9,
        }),
        netns_name: Some("blue\u{1b}[2J\nred".into()),
        transitions: Some(Transitions {
            active_open: 12,
            aborted: 1,
            ..Transitions::default()
        }),
        events: Some(Events {
            counted: 24,
            missed: 2,
        }),
        ports: Ports {
            outgoing: Some(max),
            ..Ports::default()
        },
        ephemeral_ports: Some(28_232),
        ..now
    }
}

#[test]
fn history_is_shown_where_there_is_some() {
    let text = verbose(&with_history());
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    for part in [
        "netns     4026531833 (blue[2J red)\n",
        "opened    12 active, 0 passive, 0 failed\n",
        "closed    0 by this side, 0 by the peer, 1 aborted\n",
        "events    24 counted, 2 missed\n",
        "opened/s  12.0 active, 1000000.0 passive, 0.0 failed, over 60 s\n",
        "closed/s  0.0 by this side, 0.0 by the peer, 0.0 aborted\n",
        "stale     3 in closewait, 0 in finwait2 for over 60 s; walked 4 s ago\n",
        "outgoing  4294972308: 4294967305 established, 5000 synrecv, 3 listen; 28232\n          \
         ephemeral ports\n",
        "overflows 7 for a full accept queue, 9 drops in all\n",
        "peaks     min and max of the last 60 s, sampled every 100 ms\n",
        "\nstate             total       ipv4       ipv6        min        max\n",
        "\nsynrecv               0          0          0          0       5000\n",
    ] {
        assert!(text.contains(part), "{part}{text}");
    }
}

#[test]
fn one_port_has_no_history() {
    let port = Snapshot {
        port: Some(443),
        transitions: None,
        events: None,
        ..with_history()
    };
    let bare = Snapshot {
        port: Some(443),
        netns_name: port.netns_name.clone(),
        ..snapshot()
    };
    assert_eq!(verbose(&port), verbose(&bare));
}

#[test]
fn counts_are_compared_with_the_last_whole_minute() {
    let minute = |start, mean| Minute {
        start,
        seconds: 60.0,
        degraded: false,
        states: [(
            "listen".to_owned(),
            Extremes {
                min: 0,
                max: 9,
                mean,
                max_at: 0.0,
            },
        )]
        .into(),
        rates: BTreeMap::default(),
        accept_queues: None,
        fullest_accept_queue: None,
    };
    let mut history = History {
        schema: 1,
        netns: 1,
        now: 300.0,
        since_seconds: 180,
        sample_milliseconds: 100,
        peaks: BTreeMap::default(),
        minutes: vec![minute(120, 8.0), minute(180, 5.2), minute(241, 3.0)],
    };
    let last_minute = history.last_whole_minute();
    assert_eq!(last_minute.map(|minute| minute.start), Some(180));
    let details = Details {
        last_minute,
        ..Details::default()
    };
    let text = super::render(&snapshot(), &details);
    for part in [
        "\nstate             total     change       ipv4       ipv6\n",
        "\nlisten                3         -2          0          3\n",
        "\nclosing               0          -          0          0\n",
        "\nall          4294967308            4294967295         13\n",
    ] {
        assert!(text.contains(part), "{part}{text}");
    }
    history.now = 400.0;
    assert_eq!(history.last_whole_minute(), None);
}

#[test]
fn each_namespace_has_a_row() {
    let mut flooded = with_history();
    flooded.ephemeral_ports = None;
    flooded.states[State::SynRecv] = 300;
    flooded.degraded = Some("an audit is due".into());
    let mut scanned = snapshot();
    scanned.netns = 7;
    let all = [scanned, flooded.with_problems()];
    let text = super::render_all(&all, &Details::default());
    let expected = "\
WARNING   netns 4026531833: 300 connections are half-open
tier      full
DEGRADED  netns 4026531833: an audit is due

netns             total established synrecv  listen  name
7             4294967308  4294967305       0       3
4026531833    4294967608  4294967305     300       3  blue[2Jred
all           8589934916  8589934610     300       6

other network";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn a_port_says_why_its_connections_ended() {
    let ends = |closed, reset_by_peer| ConnectionEnds {
        closed,
        reset_by_peer,
        ..ConnectionEnds::default()
    };
    let port = |port, connection_ends| PortCounts {
        port,
        states: Counts::default(),
        connection_ends,
    };
    let mut snapshot = Snapshot {
        port: Some(443),
        ..snapshot()
    };
    snapshot.ports.tracked = vec![port(80, Some(ends(9, 9))), port(443, Some(ends(17, 3)))];
    let text = verbose(&snapshot);
    assert!(
        text.contains("\nends      17 closed, 3 reset by peer\n"),
        "{text}"
    );
    assert!(!render(&snapshot).contains("ends"));
    snapshot.ports.tracked = vec![port(443, None)];
    assert!(!verbose(&snapshot).contains("ends"));

    let selection = Selection {
        sort: Sort::Total,
        limit: Some(1),
        all: false,
    };
    assert!(!ports::render(&snapshot, &selection).contains("aborted"));
    let few = [(80, 9, 0), (443, 17, 3), (8080, 0, 9)];
    let few = few.map(|(number, closed, reset)| port(number, Some(ends(closed, reset))));
    snapshot.ports.tracked = few.into();
    let text = ports::render(&snapshot, &selection);
    let expected = "\naborted   8080: 9 reset by peer; 443: 3 reset by peer\n\nport ";
    assert!(text.contains(expected), "{text}");
}
