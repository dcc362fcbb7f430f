//! SIGKILL, SIGSTOP: at every stage.

use std::{
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tcp_status_testkit::{
    churn::Churn,
    held_sockets::{HeldSockets, SocketPlan},
    seed,
};

use crate::{place, tracker::Tracker};

const EBPF: [&str; 2] = ["--backend", "ebpf"];

fn churn(duration: Duration) -> tcp_status_testkit::churn::Running {
    let churn = Churn {
        workers: 2,
        connections: None,
        duration: Some(duration),
        seed: seed(),
    };
    churn.start().unwrap()
}

/// Sockets of every kind, so that there is something to count.
fn hold() -> HeldSockets {
    let hold = HeldSockets::new(&SocketPlan::random(8, seed())).unwrap();
    hold.wait(Duration::from_secs(10)).unwrap();
    hold
}

/// The one after a killed one: on the same socket, and exact.
fn succeeds(killed: Tracker, when: &str) -> Tracker {
    let mut killed = killed;
    let empty = tempfile::tempdir().unwrap();
    let directory = std::mem::replace(&mut killed.directory, empty);
    let next = Tracker::start_in(directory, &EBPF);
    next.assert_exact(when);
    next
}

#[test]
fn killed_at_any_moment_of_its_start_it_leaves_nothing() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let _held = hold();
            let began = Instant::now();
            drop(Tracker::start(&EBPF));
            let whole = began.elapsed();
            let steps = 12;
            let mut most = 0;
            // Before, it reads what the host offers.
            for step in (4..=steps).step_by(2) {
                let mut tracker = Tracker::launch(&EBPF);
                thread::sleep(whole * step / steps);
                let when = format!("killed {step}/{steps} of its start of {whole:.1?}");
                let had = tracker.kill(&when);
                println!(
                    "{when}: {} programs, {} maps",
                    had.programs.len(),
                    had.maps.len()
                );
                most = most.max(had.programs.len());
                if step % 4 == 0 {
                    succeeds(tracker, &when).end();
                }
            }
            assert!(most > 0, "no moment was one with programs");
        })
        .unwrap();
}

#[test]
fn killed_while_it_seeds_audits_or_ends_it_leaves_nothing() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    let attentive = [
        &EBPF[..],
        &["--audit-interval", "10ms", "--audit-share", "100"],
    ]
    .concat();
    netns
        .run(|| {
            let _held = hold();
            for round in 0..2_u64 {
                let mut seeding = Tracker::launch(&attentive);
                assert_eq!(seeding.said("] attached"), None, "{}", seeding.log());
                thread::sleep(Duration::from_millis(round * 40));
                let had = seeding.kill("seeding");
                assert!(had.programs.len() >= 3 && had.maps.len() >= 5, "{had:?}");

                let mut auditing = Tracker::start(&attentive);
                let churn = churn(Duration::from_secs(20));
                thread::sleep(Duration::from_millis(200 + round * 7));
                let audits = auditing.snapshot().drift.audits;
                auditing.kill("auditing");
                churn.stop().unwrap();
                println!("round {round}: {audits} audits before it was killed");

                let mut ending = succeeds(auditing, "after one that was killed in an audit");
                ending.signal(Signal::SIGTERM);
                thread::sleep(Duration::from_micros(round * 1000));
                // It may have ended already.
                let had = ending.objects();
                drop(ending.child.kill());
                ending.child.wait().unwrap();
                had.assert_gone("ending");
            }
        })
        .unwrap();
}

#[test]
fn stopped_for_seconds_it_is_exact_when_it_goes_on() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let _held = hold();
            let tracker = Tracker::start(&EBPF);
            tracker.assert_exact("before");
            tracker.signal(Signal::SIGSTOP);
            let churn = Churn {
                workers: 2,
                connections: Some(8000),
                duration: None,
                seed: seed(),
            };
            let report = churn.run().unwrap();
            let (asked, answer) = (Instant::now(), tracker.asked(&<_>::default()));
            assert!(
                answer
                    .unwrap_err()
                    .to_string()
                    .contains("no answer within 5s")
            );
            assert!(asked.elapsed() < Duration::from_secs(8));
            tracker.signal(Signal::SIGCONT);
            tracker.assert_exact("after SIGCONT");
            let drift = tracker.snapshot().drift;
            println!(
                "{} connections while it stood; {drift:?}",
                report.connections()
            );
            tracker.end();
        })
        .unwrap();
}
