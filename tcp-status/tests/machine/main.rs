//! The tracker while the whole machine changes: its clock is set, a processor goes offline and comes
//! back, it is suspended. Every test is ignored unless the machine belongs to the tests, which any test
//! runner reports.

#[expect(dead_code, reason = "shared with the live tests, which use the rest")]
#[path = "../live/subject.rs"]
mod subject;

use std::{
    env, fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Trial};
use nix::{
    sys::time::{TimeSpec, TimeValLike as _},
    time::{ClockId, clock_gettime, clock_settime},
};
use tcp_status_testkit::{
    churn::{Churn, Running},
    held_sockets::{HeldSockets, SocketPlan},
    netns::Netns,
    raise_fd_limit, seed, soon,
};

use crate::subject::{Subject, place, turn};

/// Set in the machines of `cargo xtask vm`.
const OWN: &str = "TCP_STATUS_OWN_MACHINE";

/// An emulated machine takes its time.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    let is_own = env::var_os(OWN).is_some();
    let trial = |name, test: fn(&Netns), is_possible: bool| {
        let run = move || {
            raise_fd_limit()?;
            // Ignored tests run as well where a runner is told to: then a missing privilege is an error.
            test(&place().ok_or("cannot load eBPF programs here")?);
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(!is_own || !is_possible)
    };
    let trials = vec![
        trial(
            "no_step_of_the_clock_matters",
            no_step_of_the_clock_matters,
            true,
        ),
        trial(
            "a_processor_may_go_and_come_back",
            a_processor_may_go_and_come_back,
            Processor::find().is_some(),
        ),
        trial(
            "after_a_suspension_it_is_exact",
            after_a_suspension_it_is_exact,
            can_be_suspended(),
        ),
    ];
    let mut arguments = Arguments::from_args();
    // One machine.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit();
}

fn churn() -> u64 {
    let churn = Churn {
        workers: 2,
        connections: Some(400),
        duration: None,
        seed: seed(),
    };
    churn.run().unwrap().connections()
}

/// Changes that go on until they are stopped, and are under way.
fn changes() -> Running {
    let churn = Churn {
        workers: 2,
        connections: None,
        duration: Some(PATIENCE),
        seed: seed(),
    };
    let running = churn.start().unwrap();
    thread::sleep(Duration::from_millis(200));
    running
}

fn hold() -> HeldSockets {
    let hold = HeldSockets::new(&SocketPlan::random(8, seed())).unwrap();
    hold.wait(PATIENCE).unwrap();
    hold
}

/// The clock of the calendar, which goes on as if nothing had been when this is dropped.
struct Calendar {
    ahead: TimeSpec,
}

impl Calendar {
    fn new() -> Self {
        let [calendar, steady] = [ClockId::CLOCK_REALTIME, ClockId::CLOCK_MONOTONIC]
            .map(|clock| clock_gettime(clock).unwrap());
        Self {
            ahead: calendar - steady,
        }
    }

    fn set(&self, later: TimeSpec) {
        let steady = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
        clock_settime(ClockId::CLOCK_REALTIME, steady + self.ahead + later).unwrap();
    }
}

impl Drop for Calendar {
    fn drop(&mut self) {
        self.set(TimeSpec::seconds(0));
    }
}

fn no_step_of_the_clock_matters(netns: &Netns) {
    let _turn = turn();
    netns
        .run(|| {
            let _held = hold();
            let subject = Subject::start_attentive();
            let calendar = Calendar::new();
            let day = 24 * 60 * 60;
            for seconds in [3600, -3600, 400 * day, -2 * day, 0] {
                let before = subject.exact_snapshot_within(PATIENCE).drift;
                calendar.set(TimeSpec::seconds(seconds));
                churn();
                subject.assert_exact_within(soon());
                let began = Instant::now();
                let after = loop {
                    let drift = subject.exact_snapshot_within(PATIENCE).drift;
                    if drift.audits > before.audits {
                        break drift;
                    }
                    assert!(began.elapsed() < PATIENCE, "audits have stopped: {drift:?}");
                    thread::sleep(Duration::from_millis(50));
                };
                let age = after.last_audit_seconds_ago.unwrap();
                assert!(age < PATIENCE.as_secs(), "{after:?}");
                println!("{seconds} s: {before:?}, {after:?}");
            }
        })
        .unwrap();
}

/// A processor that is there again when this is dropped.
struct Processor(PathBuf);

impl Processor {
    /// The last one that can be taken away.
    fn find() -> Option<Self> {
        let entries = fs::read_dir("/sys/devices/system/cpu").ok()?;
        let switches = entries.flatten().map(|entry| entry.path().join("online"));
        let mut switches: Vec<_> = switches
            .filter(|switch| fs::read_to_string(switch).is_ok_and(|on| on.trim() == "1"))
            // Beside it is the file `online` of all processors.
            .filter(|switch| !switch.ends_with("cpu/online"))
            .collect();
        switches.sort();
        switches.pop().map(Self)
    }

    fn set(&self, online: bool) {
        fs::write(&self.0, u8::from(online).to_string()).unwrap();
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        self.set(true);
    }
}

fn a_processor_may_go_and_come_back(netns: &Netns) {
    let _turn = turn();
    let processor = Processor::find().expect("a processor that can go offline");
    netns
        .run(|| {
            let _held = hold();
            let subject = Subject::start_attentive();
            for round in 0..3 {
                for online in [false, true] {
                    let moving = changes();
                    processor.set(online);
                    thread::sleep(Duration::from_millis(200));
                    let connections = moving.stop().unwrap().connections() + churn();
                    subject.assert_exact_within(soon());
                    let snapshot = subject.exact_snapshot_within(PATIENCE);
                    println!(
                        "round {round}, online {online}: {connections} connections, {:?}, {:?}",
                        snapshot.events, snapshot.drift
                    );
                    assert!(connections > 0);
                    if !online {
                        // One that starts meanwhile has a counter for the processor as well.
                        let late = Subject::start();
                        late.assert_exact_within(soon());
                        processor.set(true);
                        churn();
                        late.assert_exact_within(soon());
                        processor.set(false);
                    }
                }
            }
        })
        .unwrap();
}

/// How long the machine sleeps.
const ASLEEP: Duration = Duration::from_secs(6);

/// Suspension to memory, which takes away the power of everything else (ACPI S3).
const DEEP: &str = "/sys/power/mem_sleep";

/// The clock that wakes the machine.
const ALARM: &str = "/sys/class/rtc/rtc0/wakealarm";

/// Whether this machine can be suspended to memory, and be woken by its clock.
fn can_be_suspended() -> bool {
    let offers = |path, kind: &str| {
        let offered = fs::read_to_string(path).unwrap_or_default();
        offered
            .split_whitespace()
            .any(|one| one.trim_matches(['[', ']']) == kind)
    };
    offers("/sys/power/state", "mem") && offers(DEEP, "deep") && fs::metadata(ALARM).is_ok()
}

/// How long the machine has been suspended since it booted.
fn slept() -> Duration {
    // In this order, so that the difference is not less than nothing.
    let [awake, all] = [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_BOOTTIME]
        .map(|clock| clock_gettime(clock).unwrap());
    (all - awake).into()
}

/// Suspends the machine; gives how long it was.
fn suspend() -> Duration {
    let before = slept();
    fs::write(DEEP, "deep").unwrap();
    fs::write(ALARM, "0").unwrap();
    fs::write(ALARM, format!("+{}", ASLEEP.as_secs())).unwrap();
    fs::write("/sys/power/state", "mem").unwrap();
    slept().saturating_sub(before)
}

fn after_a_suspension_it_is_exact(netns: &Netns) {
    let _turn = turn();
    netns
        .run(|| {
            let _held = hold();
            let born = Instant::now();
            let subject = Subject::start_attentive();
            // The first time at rest, then in the midst of changes.
            for moving in [false, true, true] {
                churn();
                let moving = moving.then(changes);
                let before = subject.snapshot().drift.audits;
                let was_asleep = suspend();
                let woken = Instant::now();
                // The clock that wakes it counts whole seconds.
                assert!(
                    was_asleep + Duration::from_secs(2) > ASLEEP,
                    "{was_asleep:?}"
                );
                if let Some(moving) = moving {
                    thread::sleep(Duration::from_millis(200));
                    moving.stop().unwrap();
                }
                churn();
                subject.assert_exact_within(soon());
                subject.exact_snapshot_within(soon());
                let exact = woken.elapsed();
                let snapshot = loop {
                    let snapshot = subject.exact_snapshot_within(PATIENCE);
                    if snapshot.drift.audits > before {
                        break snapshot;
                    }
                    assert!(woken.elapsed() < PATIENCE, "no audit: {snapshot:?}");
                    thread::sleep(Duration::from_millis(50));
                };
                let (age, rates) = (
                    snapshot.drift.last_audit_seconds_ago.unwrap(),
                    snapshot.rates.unwrap(),
                );
                assert!(age <= woken.elapsed().as_secs(), "{snapshot:?}");
                // Nothing happens in sleep: rates are those of the time awake.
                assert!(
                    rates.window_seconds <= born.elapsed().as_secs_f64(),
                    "{rates:?} after {:?}",
                    born.elapsed()
                );
                println!(
                    "asleep for {was_asleep:?}, exact {exact:?} later: {:?}, {:?}, {rates:?}",
                    snapshot.events, snapshot.drift
                );
            }
        })
        .unwrap();
}
