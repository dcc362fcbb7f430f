//! Walks that a client asks for, while a bank is being seeded.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use tcp_status::{
    bpf::{Bpf, MapLimits},
    kernel::{
        facts::Facts,
        netns,
        plan::{Backend, BackendPlan},
    },
};
use tcp_status_common::{
    control::Mode,
    counters::OWN_NETNS,
    state::{Family, State},
};

use tcp_status_testkit::raise_fd_limit;

use crate::subject::place;

const LISTENERS: u64 = 5;

/// The programs, in the reduced tier, in the namespace of the caller.
fn load() -> Bpf {
    let (facts, btf) = Facts::probe();
    let Ok(BackendPlan::Ebpf(plan)) = BackendPlan::from_facts(&facts, Backend::Ebpf) else {
        panic!("{facts:?} should be tracked by events");
    };
    let host = plan.reduced("no test of minisockets".into()).layout;
    let limits = MapLimits {
        ports: 16,
        namespaces: 1,
        cgroups: 0,
    };
    let own = netns::own().unwrap();
    Bpf::load(&host, &btf.unwrap(), true, own, limits, None).unwrap()
}

/// Read system calls of the calling thread.
fn reads() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").unwrap();
    let mut lines = text.lines();
    let count = lines.find_map(|line| line.strip_prefix("syscr: "));
    count.unwrap().parse().unwrap()
}

/// The kernel may give the CPU to somebody else only between two reads.
#[test]
fn a_walk_over_many_sockets_is_interrupted_and_misses_none() {
    const CONNECTIONS: usize = 4_000;
    let Some(netns) = place() else { return };
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            let _open: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    let client = TcpStream::connect(address).unwrap();
                    (client, listener.accept().unwrap())
                })
                .collect();
            let bpf = load();
            bpf.resize_seen_map(16_384).unwrap();
            bpf.set_mode(Mode::new(Some(0), Some(1))).unwrap();
            let before = reads();
            let walked = bpf.seed_sockets().unwrap();
            let reads = reads() - before;
            let listed = fs::read_to_string("/proc/thread-self/net/tcp")
                .unwrap()
                .lines()
                .count()
                - 1;
            assert_eq!(listed, 2 * CONNECTIONS + 1);
            assert_eq!(walked.sockets, listed as u64);
            println!("{listed} sockets in {reads} reads");
            assert!(reads >= 7, "{reads} reads");
        })
        .unwrap();
}

#[test]
fn only_the_walks_of_a_seeding_change_the_bank_that_is_seeded() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let listeners: Vec<_> = (0..LISTENERS)
                .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
                .collect();
            let bpf = load();
            bpf.resize_seen_map(64).unwrap();
            let first = Mode::new(Some(0), Some(1));
            for mode in [first, first.second_pass()] {
                bpf.set_mode(mode).unwrap();
                let found = bpf.walk_listeners(LISTENERS).unwrap();
                let (described, records) = bpf.describe_listeners(LISTENERS).unwrap();
                assert_eq!([found.listeners, described.listeners], [LISTENERS; 2]);
                assert_eq!(records.len(), listeners.len());
                bpf.walk_sockets().unwrap();
                assert_eq!(
                    bpf.read_bank(1, 1).counters(OWN_NETNS).unwrap().seeded,
                    [[0; 12]; 2],
                    "{mode:?}"
                );
                assert_eq!(
                    bpf.read_bank(1, 1).port_keys().unwrap().len(),
                    0,
                    "{mode:?}"
                );
            }
            assert_eq!(bpf.seed_listeners(LISTENERS).unwrap().unseen, LISTENERS);
            let seeded = bpf.read_bank(1, 1).counters(OWN_NETNS).unwrap().seeded;
            let listening = usize::from(State::Listen.number());
            let counted = seeded[Family::V4.index()][listening];
            assert_eq!(counted.cast_unsigned(), LISTENERS);
            assert_eq!(
                bpf.read_bank(1, 1).port_keys().unwrap().len(),
                listeners.len()
            );
            assert_eq!(bpf.seed_sockets().unwrap().sockets, 0);
        })
        .unwrap();
}
