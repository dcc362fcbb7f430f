//! `bpf()` that fails: one call after the other, each hook, and all calls of a tracker that runs. By
//! strace, which makes a call return an error without letting it through.

use std::{
    collections::BTreeMap,
    env, fs,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tcp_status::snapshot::{Snapshot, Tier};
use tcp_status_testkit::{
    churn::Churn,
    held_sockets::{HeldSockets, SocketPlan},
    netns::Netns,
    seed, skip_unprepared,
};

use crate::{
    Turn,
    kernel::Objects,
    place,
    tracker::{BINARY, Refused, Tracker},
};

/// Set to have every call fail with every error, which takes an hour; else some of them, others in
/// each run.
const EVERY: &str = "TCP_STATUS_EVERY_FAULT";

const ERRORS: [&str; 4] = ["ENOMEM", "EPERM", "E2BIG", "ENOSPC"];

/// How many starts in a run of the tests.
const SOME: usize = 6;

/// How long a tracker may take to notice that calls fail, or that they do not any more.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn place_with_strace() -> Option<(Netns, Turn)> {
    let place = place()?;
    if Command::new("strace").arg("-V").output().is_err() {
        skip_unprepared("strace is not installed; apt-get install strace");
        return None;
    }
    Some(place)
}

/// The tracker as a child, traced by a grandchild, so that it is the child that gets signals.
pub(crate) fn traced(expressions: &[&str], arguments: &[&str]) -> Tracker {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("strace");
    // -I 2: it lets go when it is told to.
    command.args(["-D", "-I", "2", "-f", "-qq", "-e", "trace=bpf"]);
    for expression in expressions {
        command.args(["-e", expression]);
    }
    command.arg("-o").arg(directory.path().join("calls"));
    command.args([BINARY, "run"]);
    Tracker::spawn(directory, command, arguments)
}

/// What a start calls, in order, in the thread that calls the most: strace counts by thread.
fn calls_of_a_start() -> Vec<String> {
    let tracker = traced(&[], &["--backend", "ebpf"]);
    assert_eq!(tracker.settled(), None, "{}", tracker.log());
    let calls = fs::read_to_string(tracker.directory.path().join("calls")).unwrap();
    tracker.end();
    let mut threads = BTreeMap::<_, Vec<_>>::new();
    for line in calls.lines().filter(|line| line.contains("bpf(")) {
        let thread = line.split_whitespace().next();
        threads.entry(thread).or_default().push(line.to_owned());
    }
    let most = threads.into_values().max_by_key(Vec::len);
    most.unwrap_or_default()
}

/// What came of it; anything but a message, or counts that are right or marked, is a fault.
fn outcome(tracker: Tracker, when: &str, backend: &str) -> String {
    if let Some(status) = tracker.settled() {
        let refused = Refused::from(status, &tracker.log());
        assert_eq!(
            (refused.status, backend),
            (4, "ebpf"),
            "{when}: {refused:?}"
        );
        assert!(!tracker.socket().exists(), "{when}");
        return refused.line;
    }
    // Other threads make calls as well: an answer or an audit may be what fails, once.
    let mut said = None;
    let settled = (0..50).any(|_| {
        thread::sleep(Duration::from_millis(100));
        let doubt = tracker.doubt();
        said = said.take().or_else(|| doubt.clone());
        doubt.is_none()
    });
    assert!(settled, "{when}: {said:?} for 5 s");
    let strace = tracer(tracker.pid()).expect("strace has begun");
    kill(strace, Signal::SIGTERM).unwrap();
    let snapshot = tracker.snapshot();
    tracker.assert_exact(when);
    let fell = backend == "ebpf" && snapshot.tier == Tier::Scan;
    let told = snapshot.tier != Tier::Scan || snapshot.tier_reason.is_some();
    assert!(!fell && told, "{when}: {snapshot:?}");
    tracker.end();
    let before = said.map_or_else(String::new, |said| format!(" after: {said}"));
    format!("{:?}, exact{before}", snapshot.tier)
}

fn hold() -> HeldSockets {
    let hold = HeldSockets::new(&SocketPlan::random(3, seed())).unwrap();
    hold.wait(Duration::from_secs(10)).unwrap();
    hold
}

fn starts(faults: impl IntoIterator<Item = (usize, &'static str)>, calls: &[String]) {
    let before = Objects::named();
    for (i, (index, error)) in faults.into_iter().enumerate() {
        let backend = ["ebpf", "auto"][i % 2];
        // strace counts from 1.
        let number = index + 1;
        let inject = format!("inject=bpf:error={error}:when={number}");
        let call: String = calls[index].chars().take(100).collect();
        let when = format!("{error} for call {number}, {backend}");
        let outcome = outcome(traced(&[&inject], &["--backend", backend]), &when, backend);
        println!("{when}: {outcome}\n    {call}");
        Objects::assert_nothing_new(&before, &when);
    }
}

#[test]
fn whichever_bpf_call_fails_there_is_a_message_or_an_exact_tracker() {
    let Some((netns, _turn)) = place_with_strace() else {
        return;
    };
    netns
        .run(|| {
            let _held = hold();
            let calls = calls_of_a_start();
            println!("{} calls of bpf() to start", calls.len());
            assert!(calls.len() > 20);
            let mut faults: Vec<_> = (0..calls.len())
                .flat_map(|index| ERRORS.map(|error| (index, error)))
                .collect();
            if env::var_os(EVERY).is_none() {
                let stride = faults.len() / SOME;
                let first = usize::try_from(seed()).unwrap() % stride;
                faults = faults.into_iter().skip(first).step_by(stride).collect();
            }
            starts(faults, &calls);
        })
        .unwrap();
}

/// The calls that attach a program: to a tracepoint, to a function, to an iterator.
#[test]
fn the_kernel_may_refuse_any_hook() {
    let Some((netns, _turn)) = place_with_strace() else {
        return;
    };
    netns
        .run(|| {
            let _held = hold();
            let calls = calls_of_a_start();
            let attaches = |call: &str| {
                let iterator = call.contains("(BPF_LINK_CREATE") && call.contains("BPF_TRACE_ITER");
                call.contains("(BPF_RAW_TRACEPOINT_OPEN") || iterator
            };
            let hooks: Vec<_> = (0..calls.len())
                .filter(|&index| attaches(&calls[index]))
                .collect();
            assert!(hooks.len() >= 2, "{calls:#?}");
            starts(hooks.into_iter().map(|hook| (hook, "EBUSY")), &calls);
        })
        .unwrap();
}

/// strace on a tracker that runs: all of its calls fail until this is dropped.
struct Failing(Child);

impl Failing {
    fn with(calls: &str, error: &str, tracker: &Tracker) -> Self {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-e"])
            .arg(format!("trace={calls}"))
            .arg("-e")
            .arg(format!("inject={calls}:error={error}"))
            .args(["-p", &tracker.pid().to_string(), "-o"])
            .arg(tracker.directory.path().join("failing"))
            .stdin(Stdio::null());
        let strace = Self(command.spawn().unwrap());
        let began = Instant::now();
        while tracer(tracker.pid()).is_none() {
            assert!(began.elapsed() < PATIENCE, "strace does not attach");
            thread::sleep(Duration::from_millis(10));
        }
        strace
    }
}

/// The process that traces another one.
fn tracer(pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"));
    let number = line?.trim().parse().unwrap();
    (number != 0).then(|| Pid::from_raw(number))
}

impl Drop for Failing {
    fn drop(&mut self) {
        // It detaches, and lets the tracker go on. It ends with a tracker that ends.
        let pid = Pid::from_raw(self.0.id().try_into().unwrap());
        let _: nix::Result<()> = kill(pid, Signal::SIGTERM);
        self.0.wait().unwrap();
    }
}

#[test]
fn while_all_bpf_calls_fail_it_says_so_and_afterwards_it_is_exact() {
    let Some((netns, _turn)) = place_with_strace() else {
        return;
    };
    netns
        .run(|| {
            let _held = hold();
            let attentive = ["--backend", "ebpf", "--audit-interval", "100ms"];
            let tracker = Tracker::start(&attentive);
            tracker.assert_exact("before");
            for error in ERRORS {
                let failing = Failing::with("bpf", error, &tracker);
                let began = Instant::now();
                let said = loop {
                    // So that there is something to audit.
                    let churn = Churn {
                        workers: 2,
                        connections: Some(50),
                        duration: None,
                        seed: seed(),
                    };
                    churn.run().unwrap();
                    if let Some(said) = tracker.doubt() {
                        break said;
                    }
                    assert!(began.elapsed() < PATIENCE, "{error}: nothing is said");
                };
                println!("{error}: {said}");
                drop(failing);
                tracker.assert_exact(error);
            }
            println!("{}", tracker.end());
        })
        .unwrap();
}

/// The kernel may take long to attach to a function: it waits until every task has slept once.
#[test]
fn it_counts_before_the_timewait_hooks_are_attached() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let _held = hold();
            let tracker = Tracker::start(&["--backend", "ebpf"]);
            let began = Instant::now();
            let attaching = |snapshot: &Snapshot| {
                let reason = snapshot.tier_reason.as_deref();
                reason.is_some_and(|reason| reason.starts_with("attaching"))
            };
            let mut snapshot = tracker.snapshot();
            while attaching(&snapshot) {
                assert_eq!(snapshot.tier, Tier::Reduced);
                assert!(began.elapsed() < PATIENCE, "{}", tracker.log());
                thread::sleep(Duration::from_millis(50));
                snapshot = tracker.snapshot();
            }
            tracker.assert_exact("attached");
            assert_eq!(tracker.snapshot().drift.corrections, 0);
            let log = tracker.end();
            println!("{:?}: {:?}", snapshot.tier, snapshot.tier_reason);
            if !log.contains("reason=attaching") {
                // The kernel refused to load the programs, which it does at once.
                assert_eq!(snapshot.tier, Tier::Reduced);
                return;
            }
            let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("no {text}: {log}"));
            let last = log.rfind("] attached").unwrap();
            assert!(
                at("reason=attaching") < at("] seeded") && at("] seeded") < last,
                "{log}"
            );
            println!("{:?}: {:?}", snapshot.tier, snapshot.tier_reason);
        })
        .unwrap();
}

/// The standard library panics where `nanosleep` fails for any other reason than a signal; an audit
/// sleeps where `membarrier` fails.
#[test]
fn a_thread_that_panics_ends_the_tracker() {
    let Some((netns, _turn)) = place_with_strace() else {
        return;
    };
    netns
        .run(|| {
            let attentive = ["--backend", "ebpf", "--audit-interval", "100ms"];
            let tracker = Tracker::start(&attentive);
            let objects = tracker.objects();
            let _failing =
                Failing::with("membarrier,nanosleep,clock_nanosleep", "EINVAL", &tracker);
            let began = Instant::now();
            let status = loop {
                if let Some(status) = tracker.ended() {
                    break status;
                }
                // So that there is something to audit.
                let churn = Churn {
                    workers: 2,
                    connections: Some(50),
                    duration: None,
                    seed: seed(),
                };
                churn.run().unwrap();
                assert!(began.elapsed() < PATIENCE, "it goes on: {}", tracker.log());
            };
            let refused = Refused::from(status, &tracker.log());
            println!("{}", refused.line);
            assert_eq!(refused.status, 4);
            assert!(refused.line.contains("thread audit panicked at "));
            assert!(!tracker.socket().exists());
            objects.assert_gone("a panic");
        })
        .unwrap();
}
