//! The hooks of timewait minisockets are attached in the background, for which the kernel may wait
//! until every task has slept once: what is counted meanwhile, and what the change of tiers costs.

use std::{
    slice, thread,
    time::{Duration, Instant},
};

use tcp_status::{
    kernel::plan::Backend,
    snapshot::{Snapshot, Tier},
    track::{Pace, start},
};
use tcp_status_testkit::{
    churn::{Churn, Running},
    held_sockets::{HeldSockets, SocketPlan},
    seed, soon,
};

use crate::{
    battery::audited,
    subject::{Subject, place, settings, turn},
};

/// How long the kernel may take to attach while workers that never sleep keep the host busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// More workers than the machine has processors.
fn saturate() -> Running {
    let churn = Churn {
        workers: 4,
        connections: None,
        duration: Some(2 * PATIENCE),
        seed: seed(),
    };
    churn.start().unwrap()
}

fn hold() -> HeldSockets {
    let hold = HeldSockets::new(&SocketPlan::random(3, seed())).unwrap();
    hold.wait(soon()).unwrap();
    hold
}

fn is_attaching(snapshot: &Snapshot) -> bool {
    let reason = snapshot.tier_reason.as_deref();
    reason.is_some_and(|reason| reason.starts_with("attaching"))
}

/// The tier that follows, which the kernel decides, and how long it took.
fn settled(began: Instant, mut snapshot: impl FnMut() -> Snapshot) -> (Snapshot, Duration) {
    loop {
        let snapshot = snapshot();
        if !is_attaching(&snapshot) {
            return (snapshot, began.elapsed());
        }
        assert_eq!(snapshot.tier, Tier::Reduced);
        assert!(began.elapsed() < PATIENCE, "{snapshot:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Full without a reason, or reduced with the kernel's refusal.
fn assert_decided(snapshot: &Snapshot) {
    let reason = snapshot.tier_reason.as_deref();
    match snapshot.tier {
        Tier::Full => assert_eq!(reason, None),
        Tier::Reduced => {
            let reason = reason.expect("a reduced tier has a reason");
            assert!(reason.contains("separated by a filtered walk"), "{reason}");
        }
        Tier::Scan => panic!("{reason:?}"),
    }
}

#[test]
fn the_change_of_tiers_loses_and_invents_nothing() {
    let Some(netns) = place() else { return };
    let _turn = turn();
    netns
        .run(|| {
            let _held = hold();
            let subject = Subject::start_changed(|settings| settings.attach_later = true);
            subject.assert_exact_within(soon());
            let first = subject.snapshot();
            assert_eq!(first.tier, Tier::Reduced);
            if !is_attaching(&first) {
                // The kernel refuses to load the programs, which it does at once.
                assert_decided(&first);
                println!("{:?}", first.tier_reason);
                return;
            }
            let churn = saturate();
            while churn.connections() < 500 {
                thread::sleep(Duration::from_millis(10));
            }
            let began = Instant::now();
            let (snapshot, took) = thread::scope(|scope| {
                scope.spawn(|| subject.tracker.attach_pending());
                settled(began, || subject.snapshot())
            });
            assert_decided(&snapshot);
            // What was lost then would show from now on.
            let before = churn.connections();
            while churn.connections() < before + 500 {
                thread::sleep(Duration::from_millis(10));
            }
            let connections = churn.stop().unwrap().connections();
            subject.assert_exact_within(soon());
            // What was missed during an audit is counted by the next one.
            audited(slice::from_ref(&subject));
            let Snapshot {
                tier,
                drift,
                events,
                ..
            } = subject.snapshot();
            let missed = events.unwrap().missed;
            println!(
                "{tier:?} after {took:?}, {connections} connections, {missed} missed; {drift:?}"
            );
            assert_eq!(tier, snapshot.tier);
            // A change that the kernel told nobody leaves two gauges wrong.
            assert!(
                drift.corrections <= 2 * missed,
                "{missed} missed, {drift:?}"
            );
        })
        .unwrap();
}

#[test]
fn a_saturated_host_does_not_hold_up_the_start() {
    const RARELY: Pace = Pace {
        interval: Duration::from_secs(1),
        share: 0.05,
    };
    let Some(netns) = place() else { return };
    let _turn = turn();
    netns
        .run(|| {
            let start = || {
                let began = Instant::now();
                let mut settings = settings(RARELY);
                settings.attach_later = true;
                let running = start(Backend::Ebpf, settings).unwrap();
                let show = || running.source.show(&<_>::default()).unwrap().remove(0);
                (show(), began.elapsed(), settled(began, show))
            };
            let (_, calm, (_, calm_attached)) = start();
            let churn = saturate();
            let (first, saturated, (last, attached)) = start();
            churn.stop().unwrap();
            println!("at rest: ready in {calm:?}, {calm_attached:?} until the tier is decided");
            println!(
                "saturated: ready in {saturated:?}, {attached:?} until it is {:?}",
                last.tier
            );
            assert_eq!(first.degraded, None, "{first:?}");
            assert_decided(&last);
            // The work is the same, of which an emulated machine has more than a second's.
            assert!(
                saturated < soon() + 10 * calm,
                "{calm:?} at rest, {saturated:?}"
            );
        })
        .unwrap();
}
