//! Walks that a client asks for, while a bank is being seeded.

use std::net::{Ipv4Addr, TcpListener};

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

use crate::subject::place;

const LISTENERS: u64 = 5;

#[test]
fn only_the_walks_of_a_seeding_change_the_bank_that_is_seeded() {
    let Some(netns) = place() else { return };
    let (facts, btf) = Facts::probe();
    let Ok(BackendPlan::Ebpf(plan)) = BackendPlan::from_facts(&facts, Backend::Ebpf) else {
        panic!("{facts:?} should be tracked by events");
    };
    let host = plan.reduced("no test of minisockets".into()).layout;
    netns
        .run(|| {
            let listeners: Vec<_> = (0..LISTENERS)
                .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
                .collect();
            let limits = MapLimits {
                ports: 16,
                namespaces: 1,
                cgroups: 0,
            };
            let own = netns::own().unwrap();
            let bpf = Bpf::load(&host, &btf.unwrap(), true, own, limits, None).unwrap();
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
