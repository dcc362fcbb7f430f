//! Every state is reached, in the numbers planned, and stays.

use std::{thread, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tcp_status_testkit::{
    Family,
    held_sockets::{HeldSockets, SocketKind, SocketPlan},
    netns::Netns,
    oracle::{Counts, Table, st},
    raise_fd_limit, seed,
};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn each_kind_by_itself_is_listed_as_planned() {
    let mut rng = StdRng::seed_from_u64(seed());
    for kind in SocketKind::ALL {
        for family in Family::ALL {
            let Some(netns) = Netns::for_test() else {
                return;
            };
            let number = rng.random_range(1..=20);
            let plan = SocketPlan::empty(rng.random()).with(family, kind, number);
            netns
                .run(|| {
                    let hold = HeldSockets::new(&plan).unwrap();
                    let counts = hold.wait(SOON).unwrap();
                    assert!(counts.both(kind.st()) >= u64::from(number), "{kind:?}");
                    let exact = hold.expected().wait_equal(SOON);
                    exact.unwrap_or_else(|error| panic!("{kind:?}, {family}: {error}"));
                })
                .unwrap();
        }
    }
}

#[test]
fn all_kinds_together_stay_for_half_a_minute() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    raise_fd_limit().unwrap();
    let plan = SocketPlan::random(80, seed());
    netns
        .run(|| {
            let hold = HeldSockets::new(&plan).unwrap();
            hold.expected().wait_equal(SOON).unwrap();
            for second in 0..32 {
                let differences = Counts::read().unwrap().differences(&hold.expected());
                assert_eq!(differences, "", "after {second} s");
                thread::sleep(Duration::from_secs(1));
            }
            for kind in SocketKind::ALL {
                for family in Family::ALL {
                    assert!(plan.number(family, kind) > 0);
                }
                for table in Table::ALL {
                    assert!(hold.expected().get(table, kind.st()) > 0, "{kind:?}");
                }
            }
        })
        .unwrap();
}

#[test]
fn nothing_but_time_wait_stays_after_drop() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    let plan = SocketPlan::random(20, seed());
    netns
        .run(|| {
            let hold = HeldSockets::new(&plan).unwrap();
            hold.wait(SOON).unwrap();
            let mut left = Counts::default();
            for table in Table::ALL {
                left.0[table as usize][st::TIME_WAIT] = hold.expected().get(table, st::TIME_WAIT);
            }
            drop(hold);
            left.wait_equal(SOON).unwrap();
        })
        .unwrap();
}

#[test]
fn what_is_missing_is_named() {
    let (Some(one), Some(other)) = (Netns::for_test(), Netns::for_test()) else {
        return;
    };
    let plan = SocketPlan::empty(seed()).with(Family::V6, SocketKind::CloseWait, 3);
    let hold = one.run(|| HeldSockets::new(&plan).unwrap()).unwrap();
    one.run(|| hold.wait(SOON).unwrap()).unwrap();
    let error = other.run(|| hold.wait(Duration::ZERO).unwrap_err());
    let text = error.unwrap().to_string();
    assert!(text.contains("3 of 3 CLOSE_WAIT missing in Tcp6"), "{text}");
}

#[test]
fn listings_by_port_add_up_to_the_whole() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    let plan = SocketPlan::random(10, seed());
    netns
        .run(|| {
            let hold = HeldSockets::new(&plan).unwrap();
            hold.expected().wait_equal(SOON).unwrap();
            let ports = Counts::read_by_port().unwrap();
            let sum = ports.values().fold(Counts::default(), |sum, c| sum + *c);
            assert_eq!(sum, hold.expected());
            let (port, counts) = ports.first_key_value().unwrap();
            assert_eq!(Counts::read_port(*port).unwrap(), *counts);
        })
        .unwrap();
}
