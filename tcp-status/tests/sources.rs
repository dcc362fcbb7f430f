//! What is read from the kernel without eBPF, against real sockets in every state. The oracle is
//! the test kit's reader of procfs, and a second one here for what that does not tell.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    os::{fd::AsRawFd as _, unix::fs::symlink},
    path::PathBuf,
    process, thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tcp_status::{
    kernel::{
        netns, procfs,
        sock_diag::{self, MiniSplit},
    },
    serve::{
        Source as _,
        protocol::{ApiErrorKind, Get, Show},
    },
    snapshot::Tier,
    track::scan::Scan,
};
use tcp_status_common::state::{Family, State};
use tcp_status_testkit::{
    held_sockets::{HeldSockets, SocketPlan},
    netns::Netns,
    oracle::{Counts, Table, st},
    raise_fd_limit, seed, skip_unprepared,
};

const SOON: Duration = Duration::from_secs(5);

/// A little longer than a scan's answer serves.
const NO_LONGER_FRESH: Duration = Duration::from_millis(1_050);

/// Runs `work` in a namespace in which sockets of every kind are at rest.
fn with_sockets(work: impl FnOnce(&Netns) + Send) {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    raise_fd_limit().unwrap();
    let plan = SocketPlan::random(60, seed());
    netns
        .run(|| {
            let hold = HeldSockets::new(&plan).unwrap();
            hold.expected().wait_equal(SOON).unwrap();
            work(&netns);
            let differences = Counts::read().unwrap().differences(&hold.expected());
            assert_eq!(differences, "", "the sockets did not rest");
        })
        .unwrap();
}

#[track_caller]
fn assert_listed(listing: &procfs::Listing, oracle: &Counts) {
    for (family, table) in Family::ALL.into_iter().zip(Table::ALL) {
        for (state, count) in listing.of(family).iter() {
            let expected = oracle.get(table, state.number().into());
            assert_eq!(count, expected, "{state} in {table:?}");
        }
    }
}

/// As procfs shows it: minisockets have timer 3, and no full socket is in SYN_RECV.
fn minisockets() -> MiniSplit {
    let mut split = MiniSplit::default();
    for (i, file) in ["tcp", "tcp6"].into_iter().enumerate() {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
        for line in text.lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            match (columns[3], &columns[5][..2]) {
                ("06", "03") => split.timewait[i] += 1,
                ("05", "03") => split.finwait2[i] += 1,
                ("03" | "0C", _) => split.requests[i] += 1,
                _ => {}
            }
        }
    }
    split
}

#[test]
fn all_sources_list_what_procfs_lists() {
    with_sockets(|_| {
        let oracle = Counts::read().unwrap();
        assert_listed(&procfs::listing(None).unwrap(), &oracle);
        assert_listed(&sock_diag::listing(None).unwrap(), &oracle);
        let ports = Counts::read_by_port().unwrap();
        assert!(ports.len() > 10);
        for (&port, oracle) in &ports {
            assert_listed(&sock_diag::listing(Some(port)).unwrap(), oracle);
        }
        for (&port, oracle) in ports.iter().take(20) {
            assert_listed(&procfs::listing(Some(port)).unwrap(), oracle);
        }
        let unused = (1..).find(|port| !ports.contains_key(port));
        assert_listed(&sock_diag::listing(unused).unwrap(), &Counts::default());
        assert_listed(&procfs::listing(unused).unwrap(), &Counts::default());
    });
}

#[test]
fn minisockets_and_request_sockets_are_told_from_full_ones() {
    with_sockets(|_| {
        let oracle = minisockets();
        let counts = Counts::read().unwrap();
        for (i, table) in Table::ALL.into_iter().enumerate() {
            let finwait2 = counts.get(table, st::FIN_WAIT2);
            assert!(
                (1..finwait2).contains(&oracle.finwait2[i]),
                "both kinds are held"
            );
            assert!(oracle.timewait[i] > 0 && oracle.requests[i] > 0);
        }
        assert_eq!(
            sock_diag::minisockets(&BTreeSet::new()).unwrap().all,
            oracle
        );
    });
}

#[test]
fn the_totals_of_the_kernel_are_sums_of_states() {
    with_sockets(|_| {
        let counts = Counts::read().unwrap();
        let beside = minisockets();
        let totals = procfs::invariants().unwrap();
        let established = counts.both(st::ESTABLISHED) + counts.both(st::CLOSE_WAIT);
        assert_eq!(totals.curr_estab, Some(established));
        let minisockets: u64 = beside.timewait.iter().chain(&beside.finwait2).sum();
        assert_eq!(totals.timewait, Some(minisockets));
        let full = |i: usize| {
            let listed: u64 = counts.0[i].iter().sum();
            Some(listed - beside.timewait[i] - beside.finwait2[i] - beside.requests[i])
        };
        assert_eq!((totals.inuse_v4, totals.inuse_v6), (full(0), full(1)));
    });
}

/// A name like those that `ip netns add` gives; taken away again on drop.
struct Name(PathBuf);

impl Name {
    fn give(suffix: &str, target: &str) -> Self {
        fs::create_dir_all("/run/netns").unwrap();
        let name = format!("tcp-status-test-{}-{suffix}", process::id());
        let path = PathBuf::from("/run/netns").join(name);
        symlink(target, &path).unwrap();
        Self(path)
    }

    fn to(suffix: &str, netns: &Netns) -> Self {
        let fd = netns.file().as_raw_fd();
        Self::give(suffix, &format!("/proc/{}/fd/{fd}", process::id()))
    }

    fn text(&self) -> &str {
        self.0.file_name().unwrap().to_str().unwrap()
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // Nothing to be done about a name that stays.
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_namespace_is_found_by_name_inode_and_pid_and_entered() {
    let Some(other) = Netns::for_test() else {
        return;
    };
    let inode = u32::try_from(other.inode()).unwrap();
    let own = netns::own().unwrap();
    assert_ne!(inode, own);
    // Nothing but this test's open file knows it so far.
    let nameless = netns::resolve(&inode.to_string());
    assert!(matches!(nameless, Err(netns::Error::Unknown { .. })));

    let name = Name::to("by-name", &other);
    for text in [name.text(), &inode.to_string()] {
        let target = netns::resolve(text).unwrap();
        assert_eq!(target.inode(), inode, "{text}");
        let inside = netns::within(&target, || netns::own().unwrap());
        assert_eq!(inside.unwrap(), inode);
        assert_eq!(netns::own().unwrap(), own, "the caller stays where it is");
    }
    drop(name);

    let mut sleeper = other
        .run(|| process::Command::new("sleep").arg("60").spawn().unwrap())
        .unwrap();
    let by_pid = netns::resolve(&sleeper.id().to_string()).map(|target| target.inode());
    let by_inode = netns::resolve(&inode.to_string()).map(|target| target.inode());
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert_eq!((by_pid.unwrap(), by_inode.unwrap()), (inode, inode));
}

#[test]
fn a_name_without_a_namespace_is_unknown() {
    if !nix::unistd::geteuid().is_root() {
        skip_unprepared("names in /run/netns need root");
        return;
    }
    let names = [
        Name::give("no-namespace", "/dev/null"),
        Name::give("folder", "/"),
        Name::give("dangling", "/nowhere"),
    ];
    for name in &names {
        let error = netns::resolve(name.text()).unwrap_err();
        assert!(matches!(error, netns::Error::Unknown { .. }), "{error}");
    }
}

#[test]
fn a_panic_in_another_namespace_goes_on_in_the_caller() {
    let Some(other) = Netns::for_test() else {
        return;
    };
    let name = Name::to("panic", &other);
    let target = netns::resolve(name.text()).unwrap();
    let result = std::panic::catch_unwind(|| netns::within(&target, || panic!("inside")));
    assert_eq!(result.unwrap_err().downcast_ref(), Some(&"inside"));
}

fn get(state: State) -> Get {
    Get {
        state: state.name().into(),
        port: None,
        family: None,
        netns: None,
        cgroup: None,
    }
}

#[test]
fn a_scan_answers_by_state_family_and_port() {
    with_sockets(|netns| {
        let oracle = Counts::read().unwrap();
        let scan = Scan::new("asked for".into(), 1.0);
        for state in State::ALL {
            let st = state.number().into();
            let answers = [
                (None, oracle.both(st)),
                (Some(4), oracle.get(Table::Tcp, st)),
                (Some(6), oracle.get(Table::Tcp6, st)),
            ];
            for (family, expected) in answers {
                let query = Get {
                    family,
                    ..get(state)
                };
                assert_eq!(scan.get(&query).unwrap(), expected, "{state} {family:?}");
            }
        }
        let shown = scan.show(&Show::default()).unwrap();
        let [snapshot] = &shown[..] else {
            panic!("one namespace, not {}", shown.len());
        };
        assert_eq!((snapshot.tier, &snapshot.degraded), (Tier::Scan, &None));
        assert_eq!(snapshot.tier_reason.as_deref(), Some("asked for"));
        assert_eq!(u64::from(snapshot.netns), netns.inode());
        assert_eq!(snapshot.states.total(), oracle.total());

        let (port, by_port) = Counts::read_by_port().unwrap().pop_last().unwrap();
        let port = Some(port);
        let show = Show {
            port,
            ..Show::default()
        };
        let snapshot = scan.show(&show).unwrap().remove(0);
        assert_eq!(
            (snapshot.port, snapshot.states.total()),
            (port, by_port.total())
        );
    });
}

#[test]
fn a_scan_answers_for_another_namespace() {
    with_sockets(|netns| {
        let expected = Counts::read().unwrap().both(st::TIME_WAIT);
        let name = Name::to("scan", netns);
        let query = Get {
            netns: Some(name.text().into()),
            ..get(State::TimeWait)
        };
        let outside = || {
            // The main thread never left the namespace in which the test began.
            let first = File::open("/proc/self/ns/net").unwrap();
            setns(first, CloneFlags::CLONE_NEWNET).unwrap();
            assert_ne!(u64::from(netns::own().unwrap()), netns.inode());
            Scan::new("outside".into(), 1.0).get(&query).unwrap()
        };
        let answer = thread::scope(|scope| scope.spawn(outside).join().unwrap());
        assert_eq!(answer, expected);
    });
}

#[test]
fn a_scan_walks_once_per_second_for_all_who_ask() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    netns
        .run(|| {
            let scan = Scan::new("asked for".into(), 1.0);
            let listening = || scan.get(&get(State::Listen)).unwrap();
            assert_eq!(listening(), 0);
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            assert_eq!(listening(), 0, "the answer serves for a second");
            thread::sleep(NO_LONGER_FRESH);
            assert_eq!(listening(), 1);
            let port = Some(listener.local_addr().unwrap().port());
            let query = Get {
                port,
                ..get(State::Listen)
            };
            assert_eq!(scan.get(&query).unwrap(), 1, "another question");
            drop(listener);
            thread::sleep(NO_LONGER_FRESH);
            thread::scope(|scope| {
                for _ in 0..16 {
                    scope.spawn(|| assert_eq!(listening(), 0));
                }
            });
        })
        .unwrap();
}

#[test]
fn a_scan_refuses_a_namespace_that_is_not_there() {
    let scan = Scan::new("asked for".into(), 1.0);
    let show = Show {
        netns: Some("no-such-namespace".into()),
        ..Show::default()
    };
    let refusal = scan.show(&show).unwrap_err();
    assert_eq!(refusal.kind, ApiErrorKind::BadArgument);
    assert!(refusal.message.contains("ip netns list"), "{refusal}");
}
