//! Sources that say what a test wants, and readings with something in every field.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tcp_status::{
    serve::{
        Source,
        protocol::{ApiError, Get, Show},
    },
    snapshot::{
        AcceptLatency, CgroupCounts, CgroupName, Cgroups, ConnectFailures, ConnectionEnds, Counts,
        Drift, Ends, Events, Flow, FullestDestination, Listener, NoLocalPortDestination, Overflows,
        Peaks, PortCounts, Ports, Snapshot, Stale, StateSeconds, Syncookies, Tier, Transitions,
    },
};
use tcp_status_common::{accept::BUCKETS, state::State};

/// A different number for each state: 100 times `factor` and the state's own.
pub(crate) fn counts(factor: u64) -> Counts {
    let mut counts = Counts::default();
    for state in State::ALL {
        counts[state] = 100 * factor + u64::from(state.number());
    }
    counts
}

pub(crate) fn listener(address: IpAddr, port: u16, [queue, limit, peak]: [u32; 3]) -> Listener {
    Listener {
        uid: Some(0),
        reuseport: true,
        accept_queue: queue,
        accept_queue_peak: Some(peak),
        syn_queue: Some(queue * 2),
        syn_queue_retransmitted: Some(queue),
        syn_queue_limit: Some(limit),
        drops: Some(peak.saturating_sub(limit) * 3),
        ..Listener::new(address, port, limit)
    }
}

/// Numbers of connections by bucket.
fn waited(filled: &[(usize, u64)]) -> [u64; BUCKETS] {
    let mut buckets = [0; BUCKETS];
    for &(bucket, count) in filled {
        buckets[bucket] = count;
    }
    buckets
}

fn port(port: u16, factor: u64) -> PortCounts {
    PortCounts {
        port,
        states: counts(factor),
        connection_ends: Some(ConnectionEnds {
            reset_by_peer: factor - 3,
            ..ConnectionEnds::default()
        }),
    }
}

fn destination(failures: u64) -> NoLocalPortDestination {
    NoLocalPortDestination {
        address: Ipv6Addr::from_bits(failures.into()).into(),
        port: 5432,
        failures,
        last_seconds_ago: 3,
    }
}

/// Each number is another one.
const fn ends() -> Ends {
    Ends {
        connect_failures: ConnectFailures {
            refused: 11,
            reset: 12,
            timed_out: 13,
            unreachable: 14,
            aborted: 15,
            other: 16,
        },
        no_local_port: 2,
        connection_ends: ConnectionEnds {
            closed: 21,
            reset_by_peer: 22,
            reset_locally: 23,
            timed_out: 24,
        },
    }
}

/// A namespace in which everything is known.
pub(crate) fn full() -> Snapshot {
    let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into());
    let flow = |from, to, count| Flow { from, to, count };
    Snapshot {
        tier_reason: None,
        transitions: Some(Transitions::from_flows(&[
            flow(State::Closed, State::SynSent, 41),
            flow(State::LastAck, State::TimeWait, 1),
        ])),
        events: Some(Events {
            counted: 42,
            missed: 3,
        }),
        ends: Some(ends()),
        no_local_port_destinations: Some((1..=12).map(destination).collect()),
        drift: Drift {
            corrections: 1166,
            corrections_by_state: counts(1),
            audits: 5,
            last_audit_seconds_ago: Some(12),
            last_audit_microseconds: Some(2600),
        },
        state_seconds: Some(StateSeconds::default()),
        peaks: Some(Peaks {
            max_seconds_ago: Counts::default(),
            window_seconds: 60,
            sample_milliseconds: 100,
            min: counts(0),
            max: counts(9),
        }),
        stale: Some(Stale {
            older_than_seconds: 60,
            closewait: 7,
            finwait2: 8,
            walked_seconds_ago: 9,
        }),
        overflows: Some(Overflows {
            listen_overflows: 10,
            listen_drops: 11,
        }),
        syncookies: Some(Syncookies {
            sent: 12,
            received: 13,
            failed: 14,
            queue_full_cookies: 15,
            queue_full_drops: 16,
        }),
        ephemeral_ports: Some(28_232),
        fullest_destination: Some(FullestDestination {
            destination: "10.0.0.1 -> [fd00::2]:5432".into(),
            used_ports: 21_174,
            ephemeral_ports: 28_232,
            ports_per_second: Some(1.5),
            seconds_until_exhausted: Some(4705),
            walked_seconds_ago: 3,
        }),
        listeners: vec![
            listener(v4, 8080, [128, 128, 129]),
            listener(v4, 8080, [1, 128, 2]),
            listener(v6, 8080, [0, 4096, 0]),
            Listener {
                syn_queue: None,
                ..listener(v4, 22, [0, 0, 0])
            },
        ],
        ports: Ports {
            limit: Some(2),
            tracked: vec![port(22, 3), port(8080, 4)],
            outgoing: Some(counts(6)),
            other: Some(counts(5)),
            other_ports: vec![9091],
            unaudited: vec![9090],
        },
        cgroups: Some(Cgroups {
            limit: 256,
            tracked: vec![CgroupCounts {
                id: 7,
                name: CgroupName {
                    container: Some("c0ffee".into()),
                    pod: Some("shop/web-0".into()),
                    ..CgroupName::of("/system.slice/web.service")
                },
                states: counts(7),
            }],
            other: Some(counts(8)),
            unattributed: counts(9),
        }),
        accept_latency: Some(vec![
            AcceptLatency::new(None, waited(&[(3, 2)]), 0.04),
            AcceptLatency::new(Some(22), waited(&[(0, 1)]), 0.0),
            AcceptLatency::new(Some(8080), waited(&[(0, 5), (5, 3), (12, 1)]), 12.25),
        ]),
        ..Snapshot::of(Tier::Full, 4_026_531_833, [counts(1), counts(2)])
    }
}

/// Readings that are always the same; an error if there are none.
pub(crate) struct Fixed(pub(crate) Vec<Snapshot>);

impl Source for Fixed {
    fn get(&self, _: &Get) -> Result<u64, ApiError> {
        unreachable!("pages are made from readings")
    }

    fn show(&self, query: &Show) -> Result<Vec<Snapshot>, ApiError> {
        assert!(query.all_netns && query.port.is_none() && query.netns.is_none());
        if self.0.is_empty() {
            return Err(ApiError::unavailable(
                "read counters, on a map:\ngone; start again".into(),
            ));
        }
        let mut all = self.0.clone();
        for peaks in all.iter_mut().filter_map(|one| one.peaks.as_mut()) {
            peaks.window_seconds = query.window.unwrap_or(0);
        }
        Ok(all)
    }
}

/// Takes its time; counts how many readings there were at the same time at most.
pub(crate) struct Slow {
    pub(crate) time: Duration,
    pub(crate) now_and_most: Mutex<(usize, usize)>,
}

impl Slow {
    pub(crate) fn new(time: Duration) -> Self {
        Self {
            time,
            now_and_most: Mutex::new((0, 0)),
        }
    }
}

impl Source for &'static Slow {
    fn get(&self, _: &Get) -> Result<u64, ApiError> {
        unreachable!("pages are made from readings")
    }

    fn show(&self, _: &Show) -> Result<Vec<Snapshot>, ApiError> {
        {
            let mut guard = self.now_and_most.lock().unwrap();
            guard.0 += 1;
            guard.1 = guard.1.max(guard.0);
        }
        thread::sleep(self.time);
        self.now_and_most.lock().unwrap().0 -= 1;
        Ok(vec![full()])
    }
}

/// Fails once.
pub(crate) struct FailsFirst(pub(crate) AtomicBool);

impl Source for FailsFirst {
    fn get(&self, _: &Get) -> Result<u64, ApiError> {
        unreachable!("pages are made from readings")
    }

    fn show(&self, _: &Show) -> Result<Vec<Snapshot>, ApiError> {
        if self.0.swap(true, Ordering::Relaxed) {
            Ok(vec![full()])
        } else {
            Err(ApiError::unavailable("not yet; try again".into()))
        }
    }
}

/// Has a bug.
pub(crate) struct Panics;

impl Source for Panics {
    fn get(&self, _: &Get) -> Result<u64, ApiError> {
        unreachable!("pages are made from readings")
    }

    fn show(&self, _: &Show) -> Result<Vec<Snapshot>, ApiError> {
        panic!("a bug in the source, on purpose")
    }
}
