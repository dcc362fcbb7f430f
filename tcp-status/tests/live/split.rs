//! The split of minisockets between FIN_WAIT2 and TIME_WAIT: how old it may be, and what peaks make
//! of one that is old.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use tcp_status::{
    serve::{
        Source as _,
        protocol::{Get, Show},
    },
    track::Pace,
};
use tcp_status_common::state::State;
use tcp_status_testkit::{
    oracle::{Counts, st},
    soon,
};

use crate::subject::{Subject, place};

/// Audited once a minute.
fn rarely_audited() -> Subject {
    Subject::start_changed(|settings| {
        settings.pace = Pace {
            interval: Duration::from_secs(60),
            share: 0.005,
        };
        settings.split_interval = Duration::from_millis(500);
    })
}

/// The clients of connections whose other end is a minisocket in FIN_WAIT2.
fn finwait2_minisockets(count: u64) -> Vec<TcpStream> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = |_| {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        drop(listener.accept().unwrap());
        client
    };
    let clients = (0..count).map(client).collect();
    listed(st::FIN_WAIT2, count);
    clients
}

fn listed(state: usize, count: u64) {
    let found = Counts::wait_for(soon(), |counts| counts.both(state) == count).unwrap();
    found.unwrap_or_else(|last| panic!("{count} wanted in state {state}:\n{last}"));
}

#[test]
fn the_split_is_no_older_than_its_interval_however_rare_audits_are() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = rarely_audited();
            let clients = finwait2_minisockets(50);
            subject.assert_exact_within(soon());
            drop(clients);
            listed(st::TIME_WAIT, 50);
            subject.assert_exact_within(soon());
        })
        .unwrap();
}

#[test]
fn a_split_that_is_not_too_old_is_served_without_waiting() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = Subject::start_changed(|settings| {
                settings.split_interval = Duration::from_secs(3600);
            });
            let _clients = finwait2_minisockets(5);
            let try_get = |state: State| {
                subject.tracker.try_get(&Get {
                    state: state.name().into(),
                    port: None,
                    family: None,
                    netns: None,
                    cgroup: None,
                })
            };
            let [finwait2, timewait] = [State::FinWait2, State::TimeWait].map(try_get);
            println!("{finwait2:?} in FIN_WAIT2, {timewait:?} in TIME_WAIT");
            let sum = finwait2.unwrap().unwrap() + timewait.unwrap().unwrap();
            assert_eq!(sum, 5);
            assert!(try_get(State::SynRecv).is_none(), "listeners are walked");
        })
        .unwrap();
}

#[test]
fn a_peak_is_no_older_than_its_window() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = rarely_audited();
            let clients = finwait2_minisockets(100);
            subject.assert_exact_within(soon());
            let known = subject.snapshot().peaks.unwrap().max[State::FinWait2];
            assert_eq!(known, 100, "a peak at rest just after a walk");
            drop(clients);
            listed(st::TIME_WAIT, 100);
            // Events that keep the sampler awake, and no query that would walk.
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(4) {
                drop(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
                thread::sleep(Duration::from_millis(20));
            }
            let show = Show {
                window: Some(2),
                ..Show::default()
            };
            let snapshot = subject.tracker.show(&show).unwrap().remove(0);
            let peaks = snapshot.peaks.unwrap();
            assert_eq!(snapshot.states[State::FinWait2], 0);
            assert_eq!(
                peaks.max[State::FinWait2],
                0,
                "none was listed in the window"
            );
            assert_eq!(peaks.max[State::TimeWait], 100);
            assert_eq!(peaks.min[State::TimeWait], 100);
        })
        .unwrap();
}
