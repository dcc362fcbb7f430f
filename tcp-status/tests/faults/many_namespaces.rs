//! Namespaces in great number: made by a user without privilege, and such that come and go.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
};
use tcp_status_common::state::State;
use tcp_status_testkit::{long_tests, netns::Netns, skip_unprepared, turn_of_the_machine};

use crate::{
    namespaces::{Inhabited, established, limited_to, overflow, own_memory},
    place,
    tracker::Tracker,
};

/// A process of user `nobody` in a network namespace that it made itself, with a listener.
struct Unprivileged(Child);

impl Unprivileged {
    fn new() -> io::Result<Self> {
        const NOBODY: u32 = 65534;
        let mut command = Command::new("sleep");
        command.arg("600").uid(NOBODY).gid(NOBODY);
        let enter = || {
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
            // SAFETY: system calls on a descriptor of the child, which keeps it.
            let listening = unsafe {
                let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
                libc::listen(socket, 1)
            };
            Errno::result(listening)?;
            Ok(())
        };
        // SAFETY: only system calls.
        unsafe { command.pre_exec(enter) };
        command.spawn().map(Self)
    }
}

impl Drop for Unprivileged {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn namespaces_of_an_unprivileged_user_degrade_no_others() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    let _alone = turn_of_the_machine();
    if let Err(error) = Unprivileged::new() {
        skip_unprepared(&format!("users may make no network namespaces: {error}"));
        return;
    }
    netns
        .run(|| {
            let before: Vec<_> = (0..3).map(|_| Inhabited::new()).collect();
            // Beside those of the host.
            let limit = referenced().len() + 64;
            let tracker = Tracker::start(&limited_to(&limit.to_string()));
            let own = (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), ());
            let _client = TcpStream::connect(own.0.local_addr().unwrap()).unwrap();
            tracker.assert_exact("before the user");
            let made: Vec<_> = (0..limit + 20)
                .map(|_| Unprivileged::new().unwrap())
                .collect();
            let began = Instant::now();
            let mut together = 0;
            let mut readings = 0;
            // Several audits long.
            while began.elapsed() < Duration::from_secs(5) {
                let all = tracker.all();
                assert_eq!(all[0].degraded, None);
                assert_eq!(established(&all[0]), 2);
                for place in &before {
                    let found = place.of(&all).expect("it has sockets");
                    assert_eq!((established(found), found.degraded.as_deref()), (2, None));
                }
                together = overflow(&all).map_or(0, |found| found.states[State::Listen]);
                readings += 1;
                thread::sleep(Duration::from_millis(50));
            }
            println!("{together} beyond the limit, {readings} readings");
            assert!(together >= 20, "{together}");
            drop(made);
            let log = tracker.end();
            assert!(!log.contains("audit failed"), "{log}");
        })
        .unwrap();
}

/// How many namespaces come and go: a few unless the environment asks for all.
fn churned() -> usize {
    if long_tests() { 10_000 } else { 500 }
}

/// A namespace that is made, has a connection, and goes.
fn pass_by() {
    let netns = Netns::new().unwrap();
    let connect = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        drop(listener.accept().unwrap());
    };
    netns.run(connect).unwrap();
}

/// The inode numbers of the namespaces that something of the host refers to: a thread is in them, or a
/// process has them open, as another test may.
fn referenced() -> BTreeSet<u64> {
    let list = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let mut found = BTreeSet::new();
    for process in list(Path::new("/proc")).map(|entry| entry.path()) {
        let threads = list(&process.join("task")).map(|thread| thread.path().join("ns/net"));
        let files = list(&process.join("fd")).map(|file| file.path());
        let names = threads
            .chain(files)
            .filter_map(|link| fs::read_link(link).ok());
        found.extend(names.filter_map(|name| {
            let name = name.to_str()?.strip_prefix("net:[")?;
            name.strip_suffix(']')?.parse::<u64>().ok()
        }));
    }
    found
}

#[test]
fn of_namespaces_that_came_and_went_nothing_is_left() {
    /// What the allocator may keep.
    const SOME: u64 = 1536;
    const WORKERS: usize = 4;
    let Some((netns, _turn)) = place() else {
        return;
    };
    let _alone = turn_of_the_machine();
    netns
        .run(|| {
            let stays = Inhabited::new();
            let tracker = Tracker::start(&limited_to("1024"));
            // A socket that nobody answers keeps its namespace for minutes: another test's may be there.
            let orphans: BTreeSet<_> = tracker.all().iter().map(|one| one.netns).collect();
            (0..20).for_each(|_| pass_by());
            let left = || {
                let mut all = tracker.all();
                assert_eq!(established(stays.of(&all).expect("it stays")), 2);
                let referenced = referenced();
                all.retain(|one| !orphans.contains(&one.netns));
                // On a crowded machine they come faster than they are forgotten: what was counted beyond the
                // limit keeps its totals, and has no socket.
                all.retain(|one| one.netns != 0 || one.states.total() > 0);
                all.retain(|one| !referenced.contains(&u64::from(one.netns)));
                all
            };
            let settle = || {
                let began = Instant::now();
                while !left().is_empty() {
                    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", left());
                    thread::sleep(Duration::from_millis(100));
                }
            };
            thread::sleep(Duration::from_secs(2));
            settle();
            let memory = own_memory(&tracker);
            let began = Instant::now();
            thread::scope(|scope| {
                for _ in 0..WORKERS {
                    scope.spawn(|| (0..churned() / WORKERS).for_each(|_| pass_by()));
                }
            });
            println!("{} came and went in {:?}", churned(), began.elapsed());
            settle();
            tracker.assert_exact("after namespaces that came and went");
            let after = own_memory(&tracker);
            println!("{memory} kB before, {after} after");
            assert!(after < memory + SOME, "{memory} kB before, {after} after");
            let log = tracker.end();
            assert!(
                !log.contains("audit failed") && !log.contains(" ERROR "),
                "{log}"
            );
        })
        .unwrap();
}
