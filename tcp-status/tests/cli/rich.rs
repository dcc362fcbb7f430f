//! A tracker with much to show: two namespaces, 40 listening sockets, 30 ports, history; and texts
//! that would do harm on a terminal.

use std::sync::atomic::{AtomicU64, Ordering};

use tcp_status::{
    serve::{
        Source,
        protocol::{ApiError, Get, History, Show},
    },
    snapshot::{
        AcceptLatency, CgroupCounts, CgroupName, ConnectFailures, ConnectionEnds, Counts, Ends,
        Flow, FullestDestination, Listener, NoLocalPortDestination, Overflows, Peaks, PortCounts,
        QueueRates, Rates, Snapshot, Stale, Syncookies, Tier, Transitions,
        minutes::{self, Extremes, FullestQueue, Minute},
    },
};
use tcp_status_common::state::State;

/// The tracker's own namespace.
pub(crate) const OWN: u32 = 4_026_531_833;
/// The other one.
pub(crate) const OTHER: u32 = 4_026_532_999;
/// A pod in it.
pub(crate) const POD: &str = "2dd25b02-8d1b-4a36-9b8c-5c1e2f3a4b5c";
/// Its accept queue is full.
pub(crate) const FULL: u16 = 5432;
/// It has many half-open connections.
pub(crate) const FLOODED: u16 = 9100;
/// Four sockets share it, one of which was full.
pub(crate) const SHARED: u16 = 443;
/// What must not reach a terminal as it is.
pub(crate) const HARMFUL: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J";

/// Answers as a busy host would; a little more happens with each reading.
pub(crate) struct Rich {
    readings: AtomicU64,
}

impl Rich {
    /// Has been read so often.
    pub(crate) fn after(readings: u64) -> Self {
        Self {
            readings: AtomicU64::new(readings),
        }
    }
}

impl Source for Rich {
    fn get(&self, query: &Get) -> Result<u64, ApiError> {
        Ok(own(0).states[query.state()?])
    }

    fn history(&self, query: &History) -> Result<minutes::History, ApiError> {
        history(query)
    }

    fn show(&self, query: &Show) -> Result<Vec<Snapshot>, ApiError> {
        let step = self.readings.fetch_add(1, Ordering::Relaxed);
        let all = vec![own(step).with_problems(), other(step).with_problems()];
        if query.all_netns {
            return Ok(all);
        }
        let name = query.netns.clone().unwrap_or_else(|| OWN.to_string());
        let mut one = all
            .into_iter()
            .find(|one| one.netns.to_string() == name)
            .ok_or_else(|| {
                ApiError::bad_argument(format!(
                    "cannot show network namespace {name:?}: not there; look"
                ))
            })?;
        one.port = query.port;
        one.listeners
            .retain(|listener| query.port.is_none_or(|port| port == listener.port));
        Ok(vec![one.with_problems()])
    }
}

/// Two hours of minutes that end now, without twenty of them: 1,500 established, and once 4,321.
fn history(query: &History) -> Result<minutes::History, ApiError> {
    const NOW: u64 = 1_800_014_450;
    let only = query.state()?;
    let since = query.since();
    let extremes = |max: u64, at: u64| Extremes {
        min: max / 2,
        max,
        mean: max as f64 * 0.75,
        max_at: at as f64 + 22.5,
    };
    let minute = |ago: u64| {
        let start = NOW / 60 * 60 - ago * 60;
        let state = |state: State| {
            let max = match (state, ago) {
                (State::Established, 18) => 4321,
                (State::Established, _) => 1500,
                (State::Listen, _) => 40,
                _ => 0,
            };
            (state.name().to_owned(), extremes(max, start))
        };
        let states = State::ALL.into_iter();
        let states = states.filter(|state| only.is_none_or(|only| only == *state));
        let rate = Extremes {
            min: 0.0,
            max: 12.5,
            mean: 3.25,
            max_at: start as f64,
        };
        let whole = only.is_none();
        Minute {
            start,
            seconds: if ago == 0 { 50.0 } else { 60.0 },
            degraded: ago == 17,
            states: states.map(state).collect(),
            rates: whole
                .then(|| ("passive_open".to_owned(), rate))
                .into_iter()
                .collect(),
            accept_queues: whole.then(|| extremes(100, start)),
            fullest_accept_queue: (whole && ago == 18).then_some(FullestQueue {
                port: FULL,
                length: 129,
                limit: 128,
                at: start as f64 + 30.0,
            }),
        }
    };
    let kept = (0..120).rev().filter(|ago| !(30..50).contains(ago));
    let kept = kept.filter(|ago| ago * 60 <= u64::from(since));
    let history = minutes::History {
        schema: 1,
        netns: OWN,
        now: NOW as f64,
        since_seconds: since,
        sample_milliseconds: 100,
        peaks: Default::default(),
        minutes: kept.map(minute).collect(),
    };
    Ok(history.with_peaks())
}

fn own(step: u64) -> Snapshot {
    let ipv4 = counts(&[
        (State::Established, 1500 + step % 7 * 100),
        (State::SynRecv, 3 + step % 3),
        (State::TimeWait, 20_000),
        (State::CloseWait, 41),
        (State::Listen, 31),
    ]);
    let ipv6 = counts(&[(State::Established, 120), (State::Listen, 9)]);
    let mut max = counts(&[(State::SynRecv, 4096), (State::Established, 2300)]);
    for (state, count) in ipv4.iter() {
        max[state] = max[state].max(count + ipv6[state]);
    }
    Snapshot {
        tier_reason: Some(format!(
            "cannot attach to inet_twsk_kill: {HARMFUL}Operation not permitted (os error 1); \
             TIME_WAIT and FIN_WAIT2 are separated by a filtered walk"
        )),
        transitions: Some(transitions(step)),
        peaks: Some(Peaks {
            window_seconds: 60,
            sample_milliseconds: 100,
            min: counts(&[(State::Established, 1490), (State::Listen, 40)]),
            max,
            max_seconds_ago: counts(&[(State::SynRecv, 42)]),
        }),
        rates: Some(Rates {
            window_seconds: 60.0,
            active_open: 5.0,
            passive_open: 1234.5,
            failed_open: 0.4,
            active_close: 20.0,
            passive_close: 1200.0,
            aborted: 2.5,
            events: 7000.0,
        }),
        stale: Some(Stale {
            older_than_seconds: 60,
            closewait: 17,
            finwait2: 2,
            walked_seconds_ago: 4,
        }),
        overflows: Some(Overflows {
            listen_overflows: 700 + step,
            listen_drops: 750 + step,
        }),
        syncookies: Some(Syncookies {
            sent: 40 + 12 * step,
            received: 30,
            failed: 1,
            queue_full_cookies: 40 + 12 * step,
            queue_full_drops: 0,
        }),
        queue_rates: Some(QueueRates {
            window_seconds: 60.0,
            listen_overflows: 1.0,
            listen_drops: 1.5,
            syncookies_sent: 12.0,
            syncookies_failed: 0.05,
        }),
        ends: Some(Ends {
            connect_failures: ConnectFailures {
                refused: 40 + 3 * step,
                timed_out: 2,
                ..ConnectFailures::default()
            },
            no_local_port: 2,
            connection_ends: ConnectionEnds::from_counts(&[900, 8 + 2 * step, 7, 6]),
        }),
        no_local_port_destinations: Some(vec![NoLocalPortDestination {
            address: std::net::Ipv6Addr::LOCALHOST.into(),
            port: 5432,
            failures: 2,
            last_seconds_ago: 400,
        }]),
        ephemeral_ports: Some(28_232),
        reserved_ports: Some(16),
        fullest_destination: Some(FullestDestination {
            destination: "10.0.0.1 -> [::1]:5432".into(),
            used_ports: 20_000,
            ephemeral_ports: 28_232,
            ports_per_second: Some(1.5),
            seconds_until_exhausted: Some(5488),
            walked_seconds_ago: 3,
        }),
        listeners: listeners(),
        ports: ports(),
        cgroups: Some(cgroups()),
        all_netns: true,
        ..Snapshot::of(Tier::Reduced, OWN, [ipv4, ipv6])
    }
}

fn other(step: u64) -> Snapshot {
    let ipv4 = counts(&[(State::Established, 7), (State::Listen, 1)]);
    Snapshot {
        netns_name: Some(format!("web{HARMFUL}\n")),
        transitions: Some(transitions(step)),
        degraded: Some("an audit is due".into()),
        listeners: vec![listener("10.9.8.7", 8888, [0, 16, 1])],
        accept_latency: Some(vec![
            AcceptLatency::new(None, [1; 13], 30.0),
            AcceptLatency::new(Some(8888), [7; 13], 200.0),
        ]),
        cgroups: Some(cgroups_elsewhere()),
        all_netns: true,
        ..Snapshot::of(Tier::Full, OTHER, [ipv4, Counts::default()])
    }
}

fn counts(of: &[(State, u64)]) -> Counts {
    let mut counts = Counts::default();
    for (state, count) in of {
        counts[*state] = *count;
    }
    counts
}

fn transitions(step: u64) -> Transitions {
    let flow = |from, to, count| Flow { from, to, count };
    Transitions::from_flows(&[
        flow(State::Closed, State::SynSent, 500 + 5 * step),
        flow(State::Listen, State::SynRecv, 90_000 + 1200 * step),
        flow(State::Established, State::CloseWait, 80_000 + 1100 * step),
    ])
}

fn listener(address: &str, port: u16, [queue, limit, peak]: [u32; 3]) -> Listener {
    let address: std::net::IpAddr = address.parse().unwrap();
    Listener {
        uid: Some(u32::from(port) % 200),
        reuseport: port == SHARED,
        accept_queue: queue,
        accept_queue_peak: Some(peak),
        syn_queue: Some(queue / 40),
        syn_queue_retransmitted: Some(queue / 150),
        syn_queue_limit: Some(limit),
        drops: Some(peak.saturating_sub(limit) * 3),
        cgroup: Some(4),
        unit: (port == FULL).then(|| "web.service".into()),
        ..Listener::new(address, port, limit)
    }
}

/// 40 of them, on 32 ports.
fn listeners() -> Vec<Listener> {
    let mut all = vec![
        listener("127.0.0.1", FULL, [129, 128, 129]),
        Listener {
            syn_queue: Some(896),
            syn_queue_retransmitted: Some(640),
            ..listener(
                "2001:db8:1234:5678:9abc:def0:1234:5678",
                FLOODED,
                [0, 4096, 0],
            )
        },
    ];
    all.extend((0..4).map(|i| listener("0.0.0.0", SHARED, [i * 90, 511, 100 + i * 150])));
    all.extend((0..4).map(|_| listener("::", SHARED, [0, 511, 2])));
    all.extend((0..28).map(|i| listener("0.0.0.0", 8000 + i, [0, 128, u32::from(i)])));
    all.extend((0..2).map(|i| listener("::", 8000 + i, [0, 128, 0])));
    all
}

/// Two units, a container and one that was removed before it was read.
fn cgroups() -> tcp_status::snapshot::Cgroups {
    let paths = [
        Some(format!("/system.slice/web{HARMFUL}.service")),
        Some(format!("/system.slice/docker-{}.scope", "0a".repeat(32))),
        None,
        Some("/system.slice/orders.service".into()),
    ];
    let one = |(id, path): (u64, Option<String>)| CgroupCounts {
        id,
        name: path.as_deref().map(CgroupName::of).unwrap_or_default(),
        states: counts(&[
            (State::Established, 40 - id),
            (State::CloseWait, u64::from(id == 7) * 41),
            (State::Listen, id % 2),
        ]),
    };
    tcp_status::snapshot::Cgroups {
        limit: 256,
        tracked: (4..).zip(paths).map(one).collect(),
        other: None,
        unattributed: counts(&[(State::TimeWait, 9)]),
    }
}

/// A pod, and the container of the tracker's own namespace.
fn cgroups_elsewhere() -> tcp_status::snapshot::Cgroups {
    let one = |id, path: &str, established, listen| CgroupCounts {
        id,
        name: CgroupName::of(path),
        states: counts(&[(State::Established, established), (State::Listen, listen)]),
    };
    let container = format!("/system.slice/docker-{}.scope", "0a".repeat(32));
    let pod = format!("/kubepods/pod{POD}/{}", "0b".repeat(32));
    tcp_status::snapshot::Cgroups {
        limit: 256,
        tracked: vec![one(5, &container, 2, 0), one(9, &pod, 4, 1)],
        other: None,
        unattributed: counts(&[(State::Established, 1)]),
    }
}

/// 30 of them.
fn ports() -> tcp_status::snapshot::Ports {
    let one = |port| PortCounts {
        port,
        states: counts(&[
            (State::Established, u64::from(port % 97)),
            (State::TimeWait, u64::from(port % 13) * 100),
            (State::CloseWait, u64::from(port == FULL) * 41),
            (State::Listen, 1),
        ]),
        connection_ends: Some(ConnectionEnds::from_counts(&[90, 8, 7, 6])),
    };
    tcp_status::snapshot::Ports {
        limit: Some(30),
        tracked: [SHARED, FULL]
            .into_iter()
            .chain(8000..8028)
            .map(one)
            .collect(),
        outgoing: Some(counts(&[(State::CloseWait, 200), (State::Established, 31)])),
        other: Some(counts(&[(State::Established, 5), (State::Listen, 2)])),
        other_ports: vec![9000, 9001],
        unaudited: vec![FULL],
    }
}
