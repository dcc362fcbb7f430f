//! No room, no `/run`, no `/proc`, no `/sys`: each in a mount namespace of the tracker's own.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::signal::Signal;
use tcp_status::{
    serve::{
        client::request,
        protocol::{Get, Query, Response},
    },
    snapshot::Tier,
};
use tcp_status_common::state::State;

use crate::{
    kernel::Objects,
    place,
    tracker::{BINARY, Refused, Tracker, clean},
};

/// The tracker, after `mounts` have been made that only it sees.
fn behind(mounts: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("{mounts} && exec \"$@\"");
    command.args(["--mount", "--", "sh", "-c", &script, "sh", BINARY, "run"]);
    command
}

/// A start that must fail: its line.
fn refused(mounts: &str, arguments: &[&str]) -> Refused {
    let output = clean(behind(mounts).args(arguments)).output().unwrap();
    let refused = Refused::from(output.status, &String::from_utf8_lossy(&output.stderr));
    println!("{mounts}: {}", refused.line);
    refused
}

#[test]
fn where_the_socket_finds_no_room_it_says_so() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("small");
    fs::create_dir(&at).unwrap();
    let (place, socket) = (at.display(), at.join("s"));
    let run = |mounts: String| {
        let refused = refused(
            &mounts,
            &["--backend", "ebpf", "--socket", socket.to_str().unwrap()],
        );
        assert_eq!(refused.status, 4, "{refused:?}");
        refused.line
    };
    netns
        .run(|| {
            let full = run(format!("mount -t tmpfs -o nr_inodes=1 none {place}"));
            assert!(
                full.contains("No space left") && full.contains("; "),
                "{full}"
            );
            let fixed = run(format!("mount -t tmpfs -o ro none {place}"));
            assert!(
                fixed.contains("Read-only file system") && fixed.contains("; "),
                "{fixed}"
            );
        })
        .unwrap();
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
}

#[test]
fn on_a_disk_without_a_free_page_it_is_exact() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let directory = tempfile::tempdir().unwrap();
            let at = directory.path().to_str().unwrap().to_owned();
            // Four pages, all of them taken.
            let mounts = format!(
                "mount -t tmpfs -o size=16k none {at} && \
                 ! head -c 65536 /dev/zero 2>&- >{at}/full && \
                 ! echo more 2>&- >{at}/more"
            );
            let tracker = Tracker::spawn(directory, behind(&mounts), &["--backend", "ebpf"]);
            assert_eq!(tracker.settled(), None, "{}", tracker.log());
            let seen = format!("/proc/{}/root{at}/s", tracker.pid());
            let socket = PathBuf::from(&seen);
            let ask = |state: State| -> u64 {
                let query = Query::Get(Get {
                    state: state.to_string(),
                    port: None,
                    family: None,
                    netns: None,
                    cgroup: None,
                });
                match request(&socket, &query).unwrap() {
                    Response::Value(value) => value,
                    other => panic!("{other:?}"),
                }
            };
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert_eq!([State::Listen, State::Established].map(ask), [1, 2]);
            let objects = tracker.objects();
            tracker.signal(Signal::SIGTERM);
            let mut tracker = tracker;
            assert_eq!(tracker.child.wait().unwrap().code(), Some(0));
            objects.assert_gone("a full disk");
        })
        .unwrap();
}

#[test]
fn without_run_it_makes_its_folder_or_says_so() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let refused = refused("mount -t tmpfs -o ro none /run", &[]);
            assert_eq!(refused.status, 4);
            assert!(refused.line.contains("/run/tcp-status"), "{refused:?}");
            // Empty, as early in the start of a machine.
            let mut command = behind("mount -t tmpfs none /run");
            let directory = tempfile::tempdir().unwrap();
            let log = File::create(directory.path().join("log")).unwrap();
            let child = clean(&mut command).stderr(log).spawn().unwrap();
            let mut tracker = Tracker { child, directory };
            assert_eq!(tracker.settled(), None, "{}", tracker.log());
            let process = Path::new("/proc").join(tracker.pid().to_string());
            let seen = process.join("root").join("run/tcp-status");
            let entries = fs::read_dir(&seen)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            assert_eq!(entries.collect::<Vec<_>>(), ["tcp-status.sock"]);
            tracker.signal(Signal::SIGTERM);
            assert_eq!(tracker.child.wait().unwrap().code(), Some(0));
        })
        .unwrap();
}

#[test]
fn without_proc_it_says_so() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    netns
        .run(|| {
            let before = Objects::named();
            for backend in ["ebpf", "auto", "scan"] {
                let arguments = ["--backend", backend, "--socket", socket.to_str().unwrap()];
                let refused = refused("mount -t tmpfs none /proc", &arguments);
                assert_eq!(refused.status, 4, "{refused:?}");
                assert!(refused.line.contains("mount /proc"), "{refused:?}");
                assert!(!socket.exists());
            }
            Objects::assert_nothing_new(&before, "no /proc");
        })
        .unwrap();
}

#[test]
fn where_proc_hides_processes_it_is_exact() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let mounts = "mount -t proc -o hidepid=2 proc /proc && \
                          set -- setpriv --bounding-set=-sys_ptrace \"$@\"";
            let directory = tempfile::tempdir().unwrap();
            let arguments = ["--backend", "ebpf", "--netns", "all"];
            let tracker = Tracker::spawn(directory, behind(mounts), &arguments);
            assert_eq!(tracker.settled(), None, "{}", tracker.log());
            tracker.assert_exact("hidepid");
            println!("{}", tracker.end());
        })
        .unwrap();
}

#[test]
fn without_the_kernels_types_it_scans_or_says_so() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let without = "mount -t tmpfs none /sys";
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("s");
            let arguments = ["--backend", "ebpf", "--socket", socket.to_str().unwrap()];
            let refused = refused(without, &arguments);
            assert_eq!(refused.status, 4);
            assert!(
                refused.line.contains("/sys/kernel/btf/vmlinux"),
                "{refused:?}"
            );
            let tracker = Tracker::spawn(directory, behind(without), &[]);
            assert_eq!(tracker.settled(), None, "{}", tracker.log());
            tracker.assert_exact("no /sys");
            let snapshot = tracker.snapshot();
            assert_eq!(snapshot.tier, Tier::Scan);
            assert!(
                snapshot
                    .tier_reason
                    .unwrap()
                    .contains("/sys/kernel/btf/vmlinux")
            );
            tracker.end();
        })
        .unwrap();
}

#[test]
fn a_log_that_nobody_can_write_does_not_matter() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let directory = tempfile::tempdir().unwrap();
            let mut command = Command::new(BINARY);
            let full = || File::options().write(true).open("/dev/full").unwrap();
            command.args(["run", "--backend", "ebpf", "--socket"]);
            command.arg(directory.path().join("s"));
            let child = clean(&mut command)
                .stdout(full())
                .stderr(full())
                .spawn()
                .unwrap();
            File::create(directory.path().join("log")).unwrap();
            let mut tracker = Tracker { child, directory };
            // It listens before it is ready; clients wait, each for as long as it likes.
            let answered = (0..24).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(500));
                tracker.asked(&<_>::default()).is_ok()
            });
            assert!(answered);
            tracker.assert_exact("a log on a full disk");
            tracker.signal(Signal::SIGTERM);
            assert_eq!(tracker.child.wait().unwrap().code(), Some(0));
        })
        .unwrap();
}
