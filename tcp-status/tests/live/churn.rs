//! Connections that open and close in every order, while the tracker starts, runs and audits.

use std::{
    thread,
    time::{Duration, Instant},
};

use tcp_status::snapshot::Snapshot;
use tcp_status_testkit::{
    churn::{CONTRARY, Churn, SCENARIOS},
    raise_fd_limit, seed, soon,
};

use crate::{
    subject::{Subject, place, turn},
    witness::Witness,
};

fn churn() -> Churn {
    Churn {
        workers: 4,
        connections: None,
        duration: None,
        seed: seed(),
    }
}

/// How often the tracker starts under churn.
const STARTS: u32 = 20;

/// The most churn for each start: to attach to a function, the kernel waits until every task has
/// slept once (`synchronize_rcu_tasks()`), which on a machine that churn fills may be never.
const CHURN: Duration = Duration::from_secs(8);

/// After so long a few starts are enough: an emulated machine needs some ten seconds for each.
const LONG: Duration = Duration::from_secs(45);
const FEW: u32 = 4;

#[test]
fn twenty_starts_under_churn_are_all_exact_at_rest() {
    let Some(netns) = place() else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            let mut connections = 0;
            let began = Instant::now();
            for start in 0..STARTS {
                if start >= FEW && began.elapsed() > LONG {
                    println!("{start} starts only, in {LONG:?}");
                    break;
                }
                let churn = Churn {
                    duration: Some(CHURN),
                    ..churn()
                };
                let churn = churn.start().unwrap();
                thread::sleep(Duration::from_millis(100));
                let subject = Subject::start();
                thread::sleep(Duration::from_millis(200));
                connections += churn.stop().unwrap().connections();
                subject.assert_exact_within(soon());
                let snapshot = subject.snapshot();
                println!(
                    "start {start}: {} events, {} missed, {} corrected",
                    snapshot.events.unwrap().counted,
                    snapshot.events.unwrap().missed,
                    snapshot.drift.corrections
                );
            }
            println!("{connections} connections");
            assert!(
                connections > 1000,
                "too little churn to tell: {connections}"
            );
        })
        .unwrap();
}

#[test]
fn audits_under_churn_leave_the_counts_exact_and_the_totals_growing() {
    let Some(netns) = place() else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            // Many audits: a slow machine would hold few in so short a time.
            let witness = Witness::for_test();
            let subject = Subject::start_with(|plan| plan, 0.5);
            let churn = churn().start().unwrap();
            let mut last = subject.snapshot();
            for _ in 0..60 {
                thread::sleep(Duration::from_millis(100));
                let now = subject.snapshot();
                assert!(now.events.unwrap().counted >= last.events.unwrap().counted);
                let flows = |reading: &Snapshot| reading.transitions.clone().unwrap().flows;
                for (from, to, was) in flows(&last) {
                    // Flows only ever grow, also across a switch of banks; none disappears.
                    let now = flows(&now);
                    let is = now.iter().find(|flow| (&flow.0, &flow.1) == (&from, &to));
                    assert!(
                        is.is_some_and(|is| is.2 >= was),
                        "{from} to {to}: {was} became {is:?}"
                    );
                }
                let opened =
                    |reading: &Snapshot| reading.transitions.as_ref().unwrap().passive_open;
                assert!(opened(&now) >= opened(&last));
                last = now;
            }
            let report = churn.stop().unwrap();
            subject.assert_exact_within(soon());
            let end = subject.snapshot();
            assert!(end.drift.audits >= 2, "{:?}", end.drift);
            let events = end.events.unwrap();
            let hidden = witness.map(|mut witness| witness.hidden(events.counted));
            println!(
                "{} connections, {events:?}, {hidden:?} hidden, {:?}",
                report.connections(),
                end.drift
            );
            if let Some(hidden) = hidden {
                let explained = 2 * (events.missed + hidden);
                assert!(end.drift.corrections <= explained, "{:?}", end.drift);
            }
        })
        .unwrap();
}

#[test]
fn each_scenario_by_itself_is_exact_at_rest() {
    let Some(netns) = place() else { return };
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            let subject = Subject::start();
            let mut ctx = tcp_status_testkit::churn::Ctx::new(seed(), None).unwrap();
            for (name, scenario) in SCENARIOS {
                for _ in 0..10 {
                    scenario(&mut ctx).unwrap_or_else(|error| panic!("{name}: {error}"));
                }
                println!("{name}");
                subject.assert_exact_within(soon());
            }
        })
        .unwrap();
}

#[test]
fn what_events_get_wrong_the_audit_corrects_and_counts() {
    let Some(netns) = place() else { return };
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            let subject = Subject::start();
            let mut ctx = tcp_status_testkit::churn::Ctx::new(seed(), None).unwrap();
            for (name, scenario) in CONTRARY {
                for _ in 0..5 {
                    scenario(&mut ctx).unwrap_or_else(|error| panic!("{name}: {error}"));
                }
            }
            subject.assert_exact_within(2 * soon());
            let drift = subject.snapshot().drift;
            assert!(
                drift.corrections > 0,
                "there was nothing to correct: {drift:?}"
            );
            let by_state: u64 = drift.corrections_by_state.total();
            assert_eq!(by_state, drift.corrections);
        })
        .unwrap();
}
