//! When audits are held, and what they may cost.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData, MapInfo};

use tcp_status::{
    serve::{Source as _, protocol::Show},
    snapshot::Snapshot,
    track::Pace,
};
use tcp_status_common::{
    per_cpu::SecondaryBanks,
    state::{Family, State},
};
use tcp_status_testkit::{churn::Churn, long_tests, raise_fd_limit, seed, skip, soon};

use crate::{
    namespaces::Inhabited,
    subject::{Subject, place, turn},
};

/// How long a test waits for a second in which nothing happens in any namespace of the host.
const PATIENCE: Duration = Duration::from_secs(60);

fn counted(snapshot: &Snapshot) -> u64 {
    snapshot.events.map_or(0, |events| events.counted)
}

/// State changes in all namespaces, and audits, since the start.
fn progress(subject: &Subject) -> (u64, u64) {
    let show = Show {
        all_netns: true,
        ..Show::default()
    };
    let snapshots = subject.tracker.show(&show).unwrap();
    let events = snapshots.iter().map(counted).sum();
    (events, snapshots[0].drift.audits)
}

/// Listeners of another namespace that find no free slot are no reason for an audit: it would
/// find none either.
#[test]
fn ports_without_a_slot_cause_no_audit_at_rest() {
    const LISTENERS: usize = 300;
    /// Seconds without an event after which what the start leaves to confirm is confirmed: its hooks
    /// are attached, its ports seeded.
    const SETTLING: usize = 5;
    let (Some(own), Some(elsewhere)) = (place(), Inhabited::place()) else {
        return;
    };
    let _turn = turn();
    raise_fd_limit().unwrap();
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let _listeners = elsewhere
        .run(|| (0..LISTENERS).map(|_| listen()).collect::<Vec<_>>())
        .unwrap();
    own.run(|| {
        let subject = Subject::start_changed(|settings| settings.all_namespaces = true);
        let (started, mut unsettled) = (Instant::now(), Vec::new());
        while started.elapsed() < PATIENCE {
            let began = Instant::now();
            let before = progress(&subject);
            thread::sleep(Duration::from_secs(1));
            let after = progress(&subject);
            if before.0 != after.0 {
                continue;
            }
            // Both readings take a while, longer on a busy host. Audits at rest are a second apart.
            let (audits, whole_seconds) = (after.1 - before.1, began.elapsed().as_secs());
            if audits <= whole_seconds + 1 {
                return;
            }
            unsettled.push(audits);
            assert!(
                unsettled.len() < SETTLING,
                "{unsettled:?} audits in seconds without an event"
            );
        }
        skip("something happened in other namespaces in every second of a minute");
    })
    .unwrap();
}

/// A mark must have a reason: churn pauses, so that two equal listings around a reading that is
/// marked show whether a count is wrong. Where the mark is gone by then, a correction must have
/// followed it. Readings are sums over CPUs that count on meanwhile: that one of them does not add up
/// is no reason.
#[test]
fn a_mark_under_churn_has_a_reason() {
    /// Connections a second.
    const RATE: u32 = 10_000;
    /// As many as a crowded machine of two processors makes while it compares as well.
    const LEAST: f64 = 1_000.0;
    let Some(netns) = place() else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    let duration = Duration::from_secs(if long_tests() { 60 } else { 8 });
    netns
        .run(|| {
            // From 5.15 to 6.16 a walk is not trusted where there is none.
            let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            // A hundred looks a second, each of which may come at a bad moment.
            let subject = Subject::start_changed(|settings| {
                settings.pace = Pace {
                    interval: Duration::from_millis(10),
                    share: 0.005,
                };
            });
            let churn = Churn {
                workers: 2,
                connections: None,
                duration: None,
                seed: seed(),
            };
            let churn = churn.start_paced(Some(RATE)).unwrap();
            let started = Instant::now();
            let (mut readings, mut wrong) = (0_u64, 0_u64);
            // Corrections when a reading was last without a mark, and the marks since that no
            // listing has decided.
            let (mut corrections, mut undecided) = (0, Vec::new());
            let mut unfounded = Vec::new();
            while started.elapsed() < duration {
                readings += 1;
                let snapshot = subject.snapshot();
                if let Some(reason) = snapshot.degraded {
                    let compared = churn.paused(|| (0..3).find_map(|_| subject.compared()));
                    match compared.map(|(now, differences)| (now.degraded, differences)) {
                        Some((Some(reason), none)) if none.is_empty() => unfounded.push(reason),
                        Some((Some(_), _)) => wrong += 1,
                        Some((None, _)) | None => undecided.push(reason),
                    }
                } else {
                    let undecided = std::mem::take(&mut undecided);
                    if snapshot.drift.corrections == corrections {
                        unfounded.extend(undecided);
                    }
                    corrections = snapshot.drift.corrections;
                }
                thread::sleep(Duration::from_millis(1));
            }
            let elapsed = started.elapsed().as_secs_f64();
            let report = churn.stop().unwrap();
            subject.assert_exact_within(soon());
            let end = subject.snapshot();
            let rate = report.connections() as f64 / elapsed;
            println!(
                "{rate:.0} connections/s, {:.0} events/s, {readings} readings, {wrong} marked and \
                 wrong, {:?}",
                counted(&end) as f64 / elapsed,
                end.drift
            );
            assert!(
                rate >= LEAST,
                "too little churn to tell: {rate:.0} a second"
            );
            assert!(
                unfounded.is_empty(),
                "marked, but no count was wrong: {unfounded:?}"
            );
        })
        .unwrap();
}

/// A tracker of its own process, so that its maps can be told from those of others.
struct Process {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Process {
    /// In the calling thread's namespace, and with a share for audits that they do not reach.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tcp-status"))
            .args([
                "run",
                "--backend",
                "ebpf",
                "--audit-share",
                "50",
                "--socket",
            ])
            .arg(folder.path().join("s"))
            .env_remove("NOTIFY_SOCKET")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    /// Both states that a swap between them is about; none while the tracker does not answer.
    fn counts(&self) -> Option<[u64; 2]> {
        let get = |state: State| {
            let output = Command::new(env!("CARGO_BIN_EXE_tcp-status"))
                .args(["get", state.name(), "--socket"])
                .arg(self.folder.path().join("s"))
                .output()
                .unwrap();
            String::from_utf8(output.stdout)
                .unwrap()
                .trim()
                .parse()
                .ok()
        };
        Some([get(State::Established)?, get(State::CloseWait)?])
    }

    /// Waits until the counts are these. How long that took.
    fn wait_for(&self, wanted: [u64; 2], limit: Duration) -> Duration {
        let started = Instant::now();
        loop {
            let counts = self.counts();
            if counts == Some(wanted) {
                return started.elapsed();
            }
            assert!(started.elapsed() < limit, "{counts:?} after {limit:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Moves one socket from one state to another, where nothing but a seeding writes.
    fn swap(&self, from: State, to: State) {
        let files = fs::read_dir(format!("/proc/{}/fdinfo", self.child.id())).unwrap();
        let map = files
            .filter_map(|file| map_id(&file.unwrap().path()))
            .find(|&id| {
                MapInfo::from_id(id).is_ok_and(|map| map.name_as_str() == Some("SECONDARY_BANKS"))
            })
            .unwrap();
        let map = Map::Array(MapData::from_id(map).unwrap());
        let mut counters = Array::<_, Value>::try_from(map).unwrap();
        // In the bank that is not live it makes no difference.
        for bank in 0..2_u32 {
            // Of CPUs that counted, any will do.
            let own = (0..counters.len()).skip(bank as usize).step_by(2);
            let counted =
                |index: &u32| counters.get(index, 0).unwrap().0.walk.seeded != [[0; 12]; 2];
            let index = own.into_iter().find(counted).unwrap_or(bank);
            let mut value = counters.get(&index, 0).unwrap();
            let seeded = &mut value.0.walk.seeded[Family::V4.index()];
            seeded[usize::from(from.number())] -= 1;
            seeded[usize::from(to.number())] += 1;
            counters.set(index, value, 0).unwrap();
        }
    }
}

fn map_id(fdinfo: &Path) -> Option<u32> {
    let text = fs::read_to_string(fdinfo).ok()?;
    let mut lines = text.lines();
    let id = lines.find_map(|line| line.strip_prefix("map_id:"))?;
    id.trim().parse().ok()
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Value(SecondaryBanks);

// SAFETY: nothing but integers, without padding.
unsafe impl aya::Pod for Value {}

/// What no total of the kernel shows, and no event brings to light: an audit finds it at rest.
#[test]
fn a_swap_between_two_states_is_found_at_rest() {
    /// Ten intervals, as the manual says; the rest is for a busy machine.
    const SLOWLY: Duration = Duration::from_secs(60);
    let Some(netns) = place() else { return };
    if !Path::new(env!("CARGO_BIN_EXE_tcp-status")).exists() {
        return skip("the machines of `cargo xtask vm` have no tcp-status of their own");
    }
    netns
        .run(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            let _open: Vec<_> = (0..10)
                .map(|_| {
                    let client = TcpStream::connect(address).unwrap();
                    (client, listener.accept().unwrap())
                })
                .collect();
            let process = Process::start();
            process.wait_for([20, 0], SLOWLY);
            // At rest: what was to be audited was.
            thread::sleep(2 * soon());
            process.swap(State::Established, State::CloseWait);
            assert_eq!(process.counts(), Some([19, 1]));
            println!("found after {:?}", process.wait_for([20, 0], SLOWLY));
        })
        .unwrap();
}
