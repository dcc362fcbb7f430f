//! A real tracker beside mixed churn, for long: a quarter of a minute in every run of the tests,
//! and as long as `cargo xtask soak --minutes N` says. Its memory and its file descriptors stay
//! as they are, and in the end it equals the kernel's listing.

mod samples;
mod tracker;

use std::{
    env, thread,
    time::{Duration, Instant},
};

use tcp_status::serve::protocol::Show;
use tcp_status_testkit::{
    churn::{Churn, Report},
    netns::Netns,
    oracle::Counts,
    raise_fd_limit, seed,
};

use samples::Samples;
use tracker::Tracker;

/// Set by `cargo xtask soak`.
const MINUTES: &str = "TCP_STATUS_SOAK_MINUTES";
const RATE: &str = "TCP_STATUS_SOAK_RATE";

/// Connections in each second: enough to meet every way of opening and closing in a minute, and
/// little enough to leave a machine of two cores to others. An emulated one makes fewer.
const PER_SECOND: u64 = 300;

/// Every so many seconds, a part of them is in a namespace that has just been made.
const ELSEWHERE: u64 = 5;

/// How soon after the end it must be exact; a listing that is not at rest does not count.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn memory_and_files_stay_flat_and_the_counts_exact() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    raise_fd_limit().unwrap();
    let minutes = env::var(MINUTES).ok().map(|text| text.parse::<f64>());
    let duration = Duration::from_secs_f64(minutes.map_or(15.0, |minutes| minutes.unwrap() * 60.0));
    let rate = env::var(RATE).ok().map(|text| text.parse().unwrap());
    netns
        .run(|| soak(duration, rate.unwrap_or(PER_SECOND)))
        .unwrap();
}

fn soak(duration: Duration, rate: u64) {
    let tracker = Tracker::start();
    let began = Instant::now();
    let mut samples = Samples::default();
    let (mut connections, mut failures, mut namespaces) = (0, 0, 0);
    let (mut pages, mut refused) = (0, 0);
    let mut add = |report: &Report| {
        connections += report.connections();
        failures += report.failures();
    };
    println!("{}", Samples::HEADING);
    for (second, seed) in (1..).zip(seed()..) {
        let next = began + Duration::from_secs(second);
        add(&churn(rate, seed));
        if second % ELSEWHERE == 0 {
            let elsewhere = Netns::new().unwrap();
            add(&elsewhere.run(|| churn(rate / 4, seed)).unwrap());
            namespaces += 1;
        }
        pages += 1;
        refused += u32::from(!tracker.page());
        let sample = tracker.sample(began.elapsed());
        // Some sixty lines, and one in two minutes at least: who waits for a word may lose patience.
        if second % (duration.as_secs() / 60).clamp(1, 120) == 0 {
            println!("{sample}");
        }
        samples.add(sample);
        if began.elapsed() >= duration {
            break;
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    println!(
        "{connections} connections, {failures} scenarios failed, {namespaces} namespaces made, \
         in {:.0?}",
        began.elapsed()
    );
    println!("{pages} pages asked for, {refused} refused because the host was overloaded");
    assert!(refused <= pages / 100);
    exact(&tracker);
    tracker.verify();
    let last = tracker.show(&Show::default());
    println!("{:?}\n{:?}", last.events, last.drift);
    for line in tracker.end() {
        println!("log: {line}");
    }
    samples.assert_flat();
}

fn churn(connections: u64, seed: u64) -> Report {
    let churn = Churn {
        workers: 2,
        connections: Some(connections),
        duration: None,
        seed,
    };
    churn.run().unwrap()
}

/// Waits until the tracker equals the kernel's listing.
fn exact(tracker: &Tracker) {
    let began = Instant::now();
    loop {
        let before = Counts::read().unwrap();
        let snapshot = tracker.show(&Show::default());
        let at_rest = Counts::read().unwrap() == before;
        let mut differences = String::new();
        for (state, count) in snapshot.states.iter() {
            let listed = before.both(usize::from(state.number()));
            if listed != count {
                differences += &format!("{state} {count}, listed {listed}; ");
            }
        }
        if at_rest && differences.is_empty() {
            println!("exact after {:.1?}", began.elapsed());
            return;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{differences} at rest: {at_rest}; {snapshot:?}"
        );
        thread::sleep(Duration::from_millis(100));
    }
}
