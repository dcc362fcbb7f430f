//! The battery: every scenario of the test kit against the tracker, compared with the kernel's
//! own listing at every pause, by one tracker that was there first and one that came in the
//! middle. Audits must have found nothing to correct.

use std::{
    io::{self, Write as _},
    thread,
    time::{Duration, Instant},
};

use tcp_status_common::state::State;
use tcp_status_testkit::{
    battery::{Scenario, Stage, Verdict},
    churn::Churn,
    held_sockets::{HeldSockets, SocketPlan},
    netns::{Netns, allow_fast_open, cut_off},
    oracle::Counts,
    raise_fd_limit, seed, skip, soon,
};

use crate::{
    subject::{Subject, attachments, is_virtual, place, quiet, turn},
    witness::Witness,
};

/// How soon a tracker at rest has audited, where it has anything to audit.
const PEACE: Duration = Duration::from_millis(600);

/// How long anything may take that has no limit of its own.
const PATIENCE: Duration = Duration::from_secs(20);

/// One test for each scenario, by name.
macro_rules! battery {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(#[test]
        fn $name() {
            play(stringify!($name));
        })*
    };
}

battery! {
    client_first server_first both_at_once both_raced client_reset server_reset half_closed
    unread_data orphan_fin_wait1 reset_fin_wait1 orphan_fin_wait2 reset_fin_wait2 last_ack
    reset_closing disconnected time_wait_reused refused connect_aborted connect_disconnected
    accept_queue_overflow listener_closed listen_again deferred_data deferred_closed
    deferred_reset deferred_overflow deferred_listener_closed simultaneous_open fast_open
    address_form
    every_state tw_reuse bucket_overflow fin_wait2_met fin_timeout_short fin_timeout_long linger2
    syncookies syn_queue_overflow accept_overflow_kept accept_overflow_aborted fast_open_held
    repair_alone repair_moved repair_closing reuseport_closed reuseport_migrated destroyed
    mptcp mptcp_fallback
}

#[test]
fn every_scenario_of_the_kit_is_played() {
    let all: Vec<_> = Scenario::all().map(|scenario| scenario.name).collect();
    assert_eq!(NAMES, all);
}

fn play(name: &str) {
    let Some(netns) = place() else { return };
    // Alone where events may be hidden, so that a witness can say how many were.
    let _turn = (!is_virtual()).then(turn);
    let _quiet = is_virtual().then(quiet);
    raise_fd_limit().unwrap();
    let scenario = Scenario::all()
        .find(|scenario| scenario.name == name)
        .expect("the kit has every scenario");
    let corrected = netns.run(|| compare(scenario)).unwrap();
    assert_eq!(corrected, 0, "{name}: audits had to correct; see CORRECTED");
}

/// Plays the scenario; how much audits had to correct, where that needs an explanation.
fn compare(scenario: Scenario) -> u64 {
    allow_fast_open().unwrap();
    let before = attachments();
    let witness = Witness::for_test();
    let first = Subject::start_attentive();
    let mut second = None;
    let mut pauses = 0;
    // An audit takes longer than an event; a virtual machine is no small host in this.
    let limit = if scenario.contrary { PATIENCE } else { soon() };
    let mut at_rest = |held: &str| {
        pauses += 1;
        // Not at the first: that would be before most of what there is to seed.
        if pauses == 2 {
            second = Some(Subject::start_attentive());
        }
        println!("{}: {held}", scenario.name);
        first.assert_exact_within(limit);
        if let Some(second) = &second {
            second.assert_exact_within(limit);
        }
    };
    let mut stage = Stage::new(seed(), &mut at_rest).unwrap();
    // More than once, where it is quick: also with what the first time leaves.
    let rounds = if is_virtual() { 1 } else { 2 };
    for _ in 0..rounds {
        match scenario.run(&mut stage) {
            Ok(Verdict::Done) => {}
            Ok(Verdict::Lacking(proof)) => {
                skip(&format!("{}: {proof}", scenario.name));
                return 0;
            }
            Err(error) => panic!("{}: {error}", scenario.name),
        }
    }
    let connections = stage.connections();
    let subjects = [first, second.unwrap_or_else(Subject::start_attentive)];
    for subject in &subjects {
        subject.assert_exact_within(2 * soon());
    }
    audited(&subjects);
    figures(scenario.name, connections, &subjects[0]);
    // Skipped without a witness: corrections may be of events that were hidden.
    if scenario.contrary || (witness.is_none() && !is_virtual()) {
        return 0;
    }
    let foreign = attachments() - before - 2;
    let counted = subjects[0].snapshot().events.unwrap().counted;
    let hidden = witness.map_or(0, |mut witness| witness.hidden(counted));
    let unexplained = subjects
        .iter()
        .map(|subject| unexplained(subject, foreign, hidden));
    unexplained.sum()
}

/// What audits corrected beyond events that neither copy of the handler was called for, by the
/// kernel's own count of skips or because they were `hidden`, and beyond those of minisockets while
/// `foreign` trackers were attached and detached: such an event leaves two gauges wrong.
fn unexplained(subject: &Subject, foreign: u64, hidden: u64) -> u64 {
    let snapshot = subject.exact_snapshot_within(soon());
    let (drift, missed) = (snapshot.drift, snapshot.events.unwrap().missed);
    let by_state = &drift.corrections_by_state;
    let minisockets = by_state[State::TimeWait] + by_state[State::FinWait2];
    let explained = 2 * (missed + hidden) + minisockets.min(2 * foreign);
    let beyond = drift.corrections.saturating_sub(explained);
    if beyond > 0 {
        say(&format!(
            "CORRECTED {beyond} beyond {missed} missed, {hidden} hidden, {foreign} attachments: {drift:?}"
        ));
    }
    beyond
}

/// Waits until audits have been held at rest: one that may have been going on, and one that
/// began after it, unless the first was enough for the tracker to be at peace.
pub fn audited(subjects: &[Subject]) {
    let started = Instant::now();
    let audits = |subject: &Subject| subject.snapshot().drift.audits;
    let before: Vec<_> = subjects.iter().map(audits).collect();
    loop {
        let now: Vec<_> = subjects.iter().map(audits).collect();
        let held = started.elapsed();
        if now
            .iter()
            .zip(&before)
            .all(|(now, before)| *now >= before + 2)
            || (held > PEACE && now.iter().all(|&audits| audits > 0))
        {
            return;
        }
        assert!(
            held < PATIENCE,
            "no audit was held: {before:?}, then {now:?}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// The line that the table of kernels is made from.
fn figures(name: &str, connections: u64, subject: &Subject) {
    let snapshot = subject.snapshot();
    let (events, drift) = (snapshot.events, snapshot.drift);
    say(&format!(
        "FIGURES {name}: connections={connections} events={} missed={} corrections={}",
        events.unwrap().counted,
        events.unwrap().missed,
        drift.corrections
    ));
}

/// Not by `println!`, which the harness hides when a test passes. It may have begun a line.
fn say(line: &str) {
    // A closed stdout leaves nobody to tell.
    let _ = writeln!(io::stdout(), "\n{line}");
}

#[test]
fn churn_with_trackers_that_come_and_go() {
    let Some(netns) = place() else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    let connections = if is_virtual() { 10_000 } else { 20_000 };
    netns
        .run(|| {
            allow_fast_open().unwrap();
            let churn = Churn {
                workers: 4,
                connections: Some(connections),
                duration: None,
                seed: seed(),
            };
            let resident = Subject::start_attentive();
            let running = churn.start().unwrap();
            let mut starts = 0;
            let last = loop {
                let subject = Subject::start_attentive();
                starts += 1;
                if running.connections() * 4 > connections * 3 {
                    break subject;
                }
                thread::sleep(Duration::from_millis(20 * (starts % 5)));
            };
            let report = running.wait().unwrap();
            assert_eq!(report.failures(), 0, "{report}");
            resident.assert_exact_within(2 * soon());
            last.assert_exact_within(2 * soon());
            figures("churn", report.connections(), &resident);
            println!("{starts} trackers");
        })
        .unwrap();
}

/// Takes a namespace out of the world with sockets inside that no process has: all that remains
/// when nothing that they say arrives any more.
fn perish(netns: Netns, hold: HeldSockets) {
    netns
        .run(|| {
            cut_off().unwrap();
            drop(hold);
            let left = Counts::read().unwrap();
            assert!(left.total() > 0, "nothing is left to be destroyed");
            println!("destroyed with these inside:\n{left}");
        })
        .unwrap();
    drop(netns);
}

fn hold_all() -> HeldSockets {
    let hold = HeldSockets::new(&SocketPlan::random(6, seed())).unwrap();
    hold.wait(PATIENCE).unwrap();
    hold
}

/// The namespace that has this number once the one that had it is gone; none if something else
/// on this host was quicker.
pub fn successor(inode: u64) -> Option<Netns> {
    let started = Instant::now();
    let mut others = Vec::new();
    while started.elapsed() < PATIENCE && others.len() < 100 {
        let netns = place().expect("there was one before");
        if netns.inode() == inode {
            return Some(netns);
        }
        // Kept, since numbers are given from the lowest that is free.
        others.push(netns);
        thread::sleep(Duration::from_millis(20));
    }
    None
}

#[test]
fn another_namespace_is_destroyed_with_sockets_inside() {
    let Some(here) = place() else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    here.run(|| {
        let kept = hold_all();
        let subject = Subject::start_attentive();
        subject.assert_exact_within(soon());
        let before = subject.snapshot();
        let mut seen = 0;
        for _ in 0..3 {
            let elsewhere = place().expect("there was one before");
            let inode = elsewhere.inode();
            let hold = elsewhere.run(hold_all).unwrap();
            perish(elsewhere, hold);
            seen += u32::from(successor(inode).is_some());
            let after = subject.snapshot();
            assert_eq!(after.states, before.states);
            assert_eq!(
                after.events.unwrap().counted,
                before.events.unwrap().counted
            );
            subject.assert_exact_within(soon());
        }
        // That its number was free is the proof that a namespace is gone.
        println!("{seen} of 3 are known to be gone");
        figures("namespace_destroyed", 0, &subject);
        assert_eq!(subject.snapshot().drift.corrections, 0);
        drop(kept);
        subject.assert_exact_within(soon());
    })
    .unwrap();
}

#[test]
fn a_namespace_with_the_number_of_a_dead_one_starts_at_its_own_counts() {
    let _turn = turn();
    raise_fd_limit().unwrap();
    for _ in 0..5 {
        let Some(old) = place() else { return };
        let inode = old.inode();
        let hold = old
            .run(|| {
                let subject = Subject::start_attentive();
                let hold = hold_all();
                subject.assert_exact_within(soon());
                hold
            })
            .unwrap();
        perish(old, hold);
        let Some(new) = successor(inode) else {
            continue;
        };
        new.run(|| {
            let subject = Subject::start_attentive();
            assert_eq!(subject.snapshot().states.total(), 0);
            let hold = hold_all();
            subject.assert_exact_within(soon());
            drop(hold);
            subject.assert_exact_within(soon());
            figures("namespace_number_reused", 0, &subject);
            assert_eq!(subject.snapshot().drift.corrections, 0);
        })
        .unwrap();
        return;
    }
    skip("the number of a namespace did not come again in 5 tries, each among 100 new ones");
}
