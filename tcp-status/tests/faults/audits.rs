//! An audit that fails at any of its system calls leaves counts, transitions and memory as they
//! were. strace makes the calls of the audit's thread return an error, from the n-th on.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData, loaded_maps};
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{setsockopt, sockopt::Linger},
    },
    unistd::Pid,
};
use tcp_status::snapshot::{Snapshot, Tier};
use tcp_status_common::state::State;
use tcp_status_testkit::seed;

use crate::{calls::place_with_strace, tracker::Tracker};

/// How long an audit may take to come, to fail and to succeed again.
const PATIENCE: Duration = Duration::from_secs(30);

/// The least that `--max-ports` takes.
const PORTS: usize = 16;

/// How a system call of an audit fails, and at how manieth one each: at every one, or at some in each run.
struct Fault {
    call: &'static str,
    error: &'static str,
    stride: usize,
}

/// What an audit does: it reads and writes maps and makes walks; opens what is in `/proc`; reads that, and
/// the walks.
const FAULTS: [Fault; 3] = [
    fault("bpf", "ENOMEM", 1),
    fault("openat", "EMFILE", 3),
    fault("read", "EIO", 10),
];

/// In the reduced tier, sock_diag lists minisockets.
const OF_REDUCED: [Fault; 2] = [
    fault("sendto", "ENOBUFS", 1),
    fault("recvfrom", "ENOBUFS", 1),
];

const fn fault(call: &'static str, error: &'static str, stride: usize) -> Fault {
    Fault {
        call,
        error,
        stride,
    }
}

/// strace on the thread that audits: its calls fail from the n-th on, until this is dropped.
struct Failing(Child);

impl Failing {
    fn from_call(number: usize, Fault { call, error, .. }: &Fault, tracker: &Tracker) -> Self {
        let audit = threads(tracker, "audit");
        assert_eq!(audit.len(), 1, "{audit:?}");
        let mut command = Command::new("strace");
        command
            .args(["-qq", "-e", &format!("trace={call}"), "-e"])
            .arg(format!("inject={call}:error={error}:when={number}+"))
            .args(["-p", &audit[0].to_string(), "-o"])
            .arg(log(tracker))
            .stdin(Stdio::null());
        let strace = Self(command.spawn().unwrap());
        let status = format!("/proc/{}/task/{}/status", tracker.pid(), audit[0]);
        let began = Instant::now();
        while fs::read_to_string(&status)
            .unwrap()
            .contains("TracerPid:\t0\n")
        {
            assert!(began.elapsed() < PATIENCE, "strace does not attach");
            thread::sleep(Duration::from_millis(2));
        }
        strace
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // It detaches.
        kill(
            Pid::from_raw(self.0.id().try_into().unwrap()),
            Signal::SIGTERM,
        )
        .unwrap();
        self.0.wait().unwrap();
    }
}

fn log(tracker: &Tracker) -> std::path::PathBuf {
    tracker.directory.path().join("failing")
}

/// The threads of the tracker with this name.
fn threads(tracker: &Tracker, name: &str) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{}/task", tracker.pid())).unwrap();
    tasks
        .flatten()
        .filter(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        })
        .map(|task| task.file_name().to_str().unwrap().parse().unwrap())
        .collect()
}

/// A connection that opens and ends by reset: always the same transitions, and nothing is left.
fn connect(listener: &TcpListener) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&client, Linger, &linger).unwrap();
    drop(client);
    // Returns once the reset has come.
    let _: std::io::Result<usize> = std::io::Read::read(&mut server, &mut [0]);
}

type Flows = BTreeMap<(String, String), u64>;

fn flows(snapshot: &Snapshot) -> Flows {
    let flows = snapshot.transitions.as_ref().unwrap().flows.iter();
    flows
        .map(|(from, to, count)| ((from.to_string(), to.to_string()), *count))
        .collect()
}

fn plus(flows: &Flows, more: &Flows) -> Flows {
    let mut sum = flows.clone();
    for (flow, count) in more {
        *sum.entry(flow.clone()).or_default() += count;
    }
    sum
}

/// Asserts that counts equal the kernel's listing, marked or not, and transitions are these.
fn assert_as_it_was(tracker: &Tracker, expected: &Flows, when: &str) {
    let snapshot = tracker.snapshot();
    let listed = crate::listed();
    for (state, count) in snapshot.states.iter() {
        let wanted = listed.both(usize::from(state.number()));
        assert_eq!(count, wanted, "{when}: {state}; {snapshot:?}");
    }
    assert_eq!(&flows(&snapshot), expected, "{when}: {snapshot:?}");
    let [port] = &snapshot.ports.tracked[..] else {
        panic!("{when}: not one port: {snapshot:?}");
    };
    for state in [State::Established, State::Listen] {
        assert_eq!(port.states[state], 1, "{when}: {state}; {snapshot:?}");
    }
}

fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// The tracker's map of this name.
fn map_of(tracker: &Tracker, name: &str) -> Map {
    let map = loaded_maps()
        .filter_map(Result::ok)
        .find(|map| map.name_as_str() == Some(name) && tracker.objects().maps.contains(&map.id()));
    let map = map.unwrap_or_else(|| panic!("no map named {name}"));
    Map::Array(MapData::from_id(map.id()).unwrap())
}

/// How many sockets the tracker's map of seen sockets has room for: 1 stands for none. None if it was
/// replaced meanwhile.
fn room_for_seen(tracker: &Tracker) -> Option<u32> {
    // The kernel gives the number of the inner map as its value.
    let seen = Array::<_, u32>::try_from(map_of(tracker, "SEEN"))
        .unwrap()
        .get(&0, 0)
        .unwrap();
    loaded_maps()
        .filter_map(Result::ok)
        .find(|map| map.id() == seen)
        .map(|map| map.max_entries())
}

/// Between two audits there is no map of seen sockets.
fn assert_memory_given_back(tracker: &Tracker, when: &str) {
    let began = Instant::now();
    while room_for_seen(tracker) != Some(1) {
        assert!(began.elapsed() < PATIENCE, "{when}: memory is kept");
        thread::sleep(Duration::from_millis(5));
    }
}

fn wait_for(what: &str, tracker: &Tracker, reached: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let began = Instant::now();
    loop {
        let snapshot = tracker.snapshot();
        if reached(&snapshot) {
            return snapshot;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "no {what}: {snapshot:?}\n{}",
            tracker.log()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

fn has_failed(snapshot: &Snapshot) -> bool {
    let degraded = snapshot.degraded.as_deref();
    degraded.is_some_and(|why| why.contains("audit failed"))
}

/// The first call of the log that failed.
fn first_failed(tracker: &Tracker) -> String {
    let text = fs::read_to_string(log(tracker)).unwrap();
    let call = text.lines().find(|line| line.contains("(INJECTED)"));
    call.unwrap_or_default().chars().take(70).collect()
}

/// Has calls of audits fail from the first on, from the second, and so on, unless audits do without them.
/// `change` makes changes that are always the same, and gives them.
fn fail_everywhere<'a>(
    fault: &Fault,
    tracker: &Tracker,
    change: impl Fn() -> &'a Flows,
    expected: &mut Flows,
) {
    let first = usize::try_from(seed()).unwrap() % fault.stride;
    let mut spared = 0;
    for number in (first + 1..).step_by(fault.stride) {
        tracker.assert_exact("before");
        let failing = Failing::from_call(number, fault, tracker);
        let audits = tracker.snapshot().drift.audits;
        *expected = plus(expected, change());
        let ended = wait_for("audit", tracker, |now| {
            has_failed(now) || now.drift.audits > audits + 1
        });
        let (is_harmless, succeeded_before) = (!has_failed(&ended), ended.drift.audits > audits);
        let what = ["fails", "is harmless"][usize::from(is_harmless)];
        let when = format!("{what} from {number} on: {}", first_failed(tracker));
        println!("{when}");
        assert_as_it_was(tracker, expected, &when);
        *expected = plus(expected, change());
        assert_as_it_was(tracker, expected, &when);
        if fault.call != "bpf" {
            assert_memory_given_back(tracker, &when);
        }
        drop(failing);
        let succeeded = wait_for("success", tracker, |now| now.degraded.is_none());
        assert_eq!(succeeded.drift.corrections, 0, "{when}");
        assert_as_it_was(tracker, expected, &when);
        assert_memory_given_back(tracker, &when);
        // Past the last call of an audit, it succeeds before one fails.
        spared = if succeeded_before { spared + 1 } else { 0 };
        if is_harmless || spared == 5 {
            return;
        }
    }
}

#[test]
fn whichever_call_of_an_audit_fails_everything_is_as_before() {
    let Some((netns, _turn)) = place_with_strace() else {
        return;
    };
    netns
        .run(|| {
            let listener = &listen();
            let held = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let accepted = listener.accept().unwrap();
            let tracker = Tracker::start(&[
                "--backend",
                "ebpf",
                "--audit-interval",
                "100ms",
                "--max-ports",
                &PORTS.to_string(),
            ]);
            tracker.assert_exact("started");
            let before = flows(&tracker.snapshot());
            connect(listener);
            let after = flows(&tracker.snapshot());
            let one: Flows = after
                .iter()
                .map(|(flow, count)| {
                    (
                        flow.clone(),
                        count - before.get(flow).copied().unwrap_or_default(),
                    )
                })
                .collect();
            let mut expected = after;
            let is_reduced = tracker.snapshot().tier == Tier::Reduced;
            let of_tier = OF_REDUCED.iter().filter(|_| is_reduced);
            for fault in FAULTS.iter().chain(of_tier) {
                let connect = || {
                    connect(listener);
                    &one
                };
                fail_everywhere(fault, &tracker, connect, &mut expected);
            }
            drop((held, accepted));
            // No slot of a port got lost.
            let _more: Vec<_> = (1..PORTS).map(|_| listen()).collect();
            wait_for("port for each slot", &tracker, |now| {
                now.ports.tracked.len() == PORTS && now.ports.other.is_none()
            });
            println!("{}", tracker.end());
        })
        .unwrap();
}

/// Stands for updates of the map of seen sockets that fail with EBUSY, which a kernel before 6.15
/// returns where an event interrupts another update on its CPU.
#[test]
fn refused_updates_are_reported_with_their_error_and_take_no_more_room() {
    let Some((netns, _turn)) = crate::place() else {
        return;
    };
    netns
        .run(|| {
            let listener = &listen();
            let arguments = ["--backend", "ebpf", "--audit-interval", "100ms"];
            let tracker = &Tracker::start(&arguments);
            tracker.assert_exact("started");
            let mut failures = Array::<_, [u64; 12]>::try_from(map_of(tracker, ".bss.failures"))
                .expect("a map of failures");
            let (over, most) = (AtomicBool::new(false), AtomicU32::new(0));
            let failed = thread::scope(|scope| {
                scope.spawn(|| {
                    let mut count = 0;
                    while !over.load(Ordering::Relaxed) {
                        count += 1;
                        let busy = u64::from(libc::EBUSY.unsigned_abs());
                        let mut all = [0; 12];
                        all[..3].copy_from_slice(&[count, 0, busy]);
                        failures.set(0, all, 0).unwrap();
                        thread::sleep(Duration::from_micros(100));
                    }
                });
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let room = room_for_seen(tracker).unwrap_or(0);
                        most.fetch_max(room, Ordering::Relaxed);
                    }
                });
                let failed = catch_unwind(AssertUnwindSafe(|| {
                    wait_for("failure", tracker, |now| {
                        connect(listener);
                        has_failed(now)
                    })
                }));
                over.store(true, Ordering::Relaxed);
                failed.unwrap_or_else(|payload| resume_unwind(payload))
            });
            let (why, most) = (failed.degraded.unwrap(), most.into_inner());
            println!("{why}; at most room for {most}");
            assert!(why.contains("SEEN") && why.contains("os error 16"), "{why}");
            assert!((4096..8192).contains(&most), "room for {most} sockets");
            wait_for("success", tracker, |now| now.degraded.is_none());
            tracker.assert_exact("updates succeed again");
        })
        .unwrap();
}
