//! Too little memory, too few file descriptors.

use std::{
    fs,
    os::unix::{
        net::UnixStream,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::Duration,
};

use nix::sys::{
    resource::{Resource, setrlimit},
    signal::Signal,
};
use tcp_status_testkit::{
    held_sockets::{HeldSockets, SocketPlan},
    seed, skip_unprepared,
};

use crate::{
    kernel::Objects,
    place,
    tracker::{BINARY, Refused, Tracker},
};

fn command(resource: Resource, limit: u64) -> Command {
    let mut command = Command::new(BINARY);
    // SAFETY: setrlimit is a system call only; nothing else is done between fork and exec.
    unsafe {
        command.pre_exec(move || setrlimit(resource, limit, limit).map_err(Into::into));
    }
    command
}

fn limited(resource: Resource, limit: u64, backend: &str) -> Tracker {
    let mut command = command(resource, limit);
    command.arg("run");
    Tracker::spawn(
        tempfile::tempdir().unwrap(),
        command,
        &["--backend", backend],
    )
}

/// Whether the kernel can load the program at all, which without optimization is large.
fn is_loaded_within(bytes: u64) -> bool {
    let output = command(Resource::RLIMIT_AS, bytes)
        .arg("--version")
        .output();
    output.unwrap().status.signal().is_none()
}

/// How a start with little of something came out; any other way is a fault.
fn outcome(tracker: Tracker, when: &str) -> String {
    let Some(status) = tracker.settled() else {
        tracker.assert_exact(when);
        let tier = tracker.snapshot().tier;
        tracker.end();
        return format!("{tier:?}, exact");
    };
    let log = tracker.log();
    if status.code() == Some(127) {
        // A build that is not static; the loader says this, before anything of the tracker runs.
        assert!(
            log.contains("error while loading shared libraries"),
            "{when}: {log}"
        );
        return log;
    }
    let refused = Refused::from(status, &log);
    assert_eq!(refused.status, 4, "{when}: {refused:?}");
    assert!(!tracker.socket().exists(), "{when}");
    refused.line
}

#[test]
fn with_few_file_descriptors_it_says_so_or_works() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let before = Objects::named();
            for backend in ["ebpf", "auto"] {
                let mut worked = 0;
                for limit in [4, 8, 12, 16, 24, 32, 40, 48, 56, 64, 96] {
                    let when = format!("{limit} files, {backend}");
                    let outcome = outcome(limited(Resource::RLIMIT_NOFILE, limit, backend), &when);
                    println!("{when}: {outcome}");
                    worked += u32::from(outcome.ends_with("exact"));
                }
                assert!(
                    (1..11).contains(&worked),
                    "{backend}: {worked} of 11 worked"
                );
            }
            Objects::assert_nothing_new(&before, "few files");
        })
        .unwrap();
}

#[test]
fn without_memory_it_says_so_or_works() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let before = Objects::named();
            let mut worked = 0;
            for mebibytes in [24, 28, 32, 48, 64, 96, 128, 256, 1024] {
                let when = format!("{mebibytes} MiB of addresses");
                if !is_loaded_within(mebibytes << 20) {
                    println!("{when}: less than the program has");
                    continue;
                }
                let tracker = limited(Resource::RLIMIT_AS, mebibytes << 20, "auto");
                let outcome = outcome(tracker, &when);
                println!("{when}: {outcome}");
                worked += u32::from(outcome.ends_with("exact"));
            }
            assert!((1..9).contains(&worked), "{worked} of 9 worked");
            Objects::assert_nothing_new(&before, "little memory");
        })
        .unwrap();
}

/// A control group of this test with a limit of memory.
struct Group {
    folder: PathBuf,
    limit: &'static str,
}

impl Group {
    /// In the hierarchy of either version, or why not.
    fn new() -> Result<Self, String> {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("tcp-status-test-{}", process::id());
        let (parent, limit) = if root.join("memory/memory.limit_in_bytes").exists() {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            // Where a group is the root of a container, it may give nothing away.
            drop(fs::write(root.join("cgroup.subtree_control"), "+memory"));
            (root.to_owned(), "memory.max")
        };
        let folder = parent.join(name);
        fs::create_dir(&folder)
            .map_err(|error| format!("no control group can be made: {error}"))?;
        let group = Self { folder, limit };
        if group.folder.join(limit).exists() {
            Ok(group)
        } else {
            Err("control groups do not limit memory here".into())
        }
    }

    fn tracker(&self, mebibytes: u64) -> Tracker {
        fs::write(self.folder.join(self.limit), (mebibytes << 20).to_string()).unwrap();
        let enter = format!(
            "echo 0 >{}/cgroup.procs && exec \"$@\"",
            self.folder.display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &enter, "sh", BINARY, "run"]);
        Tracker::spawn(
            tempfile::tempdir().unwrap(),
            command,
            &["--backend", "ebpf"],
        )
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Who was in it may still be on its way out.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn in_a_group_without_memory_it_says_so_or_dies_and_leaves_nothing() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    let group = match Group::new() {
        Ok(group) => group,
        Err(why) => return skip_unprepared(&why),
    };
    netns
        .run(|| {
            let before = Objects::named();
            let (mut worked, mut died) = (0, 0);
            let all = [4, 8, 16, 32, 64, 128, 256];
            for mebibytes in all {
                let when = format!("{mebibytes} MiB of memory");
                let tracker = group.tracker(mebibytes);
                let killed = tracker
                    .settled()
                    .is_some_and(|status| status.signal() == Some(Signal::SIGKILL as i32));
                let outcome = if killed {
                    died += 1;
                    "killed by the kernel".to_owned()
                } else {
                    outcome(tracker, &when)
                };
                println!("{when}: {outcome}");
                worked += usize::from(outcome.ends_with("exact"));
                Objects::assert_nothing_new(&before, &when);
            }
            println!("{worked} worked, {died} were killed, of {}", all.len());
            assert!(worked > 0 && worked < all.len());
        })
        .unwrap();
}

#[test]
fn clients_that_take_every_file_descriptor_do_not_stop_it() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let tracker = limited(Resource::RLIMIT_NOFILE, 96, "ebpf");
            assert_eq!(tracker.settled(), None, "{}", tracker.log());
            let crowd = || -> Vec<_> {
                let connect = |_| UnixStream::connect(tracker.socket()).ok();
                (0..300).filter_map(connect).collect()
            };
            for _ in 0..3 {
                let crowd = crowd();
                assert!(crowd.len() > 100, "{}", crowd.len());
                // Answers go on, and so do audits, or they say that they do not.
                for _ in 0..5 {
                    tracker.snapshot();
                    thread::sleep(Duration::from_millis(50));
                }
            }
            let hold = HeldSockets::new(&SocketPlan::random(4, seed())).unwrap();
            hold.wait(Duration::from_secs(10)).unwrap();
            tracker.assert_exact("after the crowd");
            println!("{}", tracker.end());
        })
        .unwrap();
}
