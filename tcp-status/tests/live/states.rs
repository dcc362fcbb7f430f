//! Every state at once, in random numbers, IPv4, IPv6 and v4-mapped.

use std::time::Duration;

use tcp_status::serve::{Source as _, protocol::Get};
use tcp_status_common::state::State;
use tcp_status_testkit::{
    held_sockets::{HeldSockets, SocketPlan},
    oracle::Counts,
    raise_fd_limit, seed, soon,
};

use crate::subject::{Subject, place};

const HELD: Duration = Duration::from_secs(10);

#[test]
fn sockets_that_were_there_first_are_seeded() {
    let Some(netns) = place() else { return };
    raise_fd_limit().unwrap();
    let plan = SocketPlan::random(60, seed());
    netns
        .run(|| {
            let hold = HeldSockets::new(&plan).unwrap();
            hold.wait(HELD).unwrap();
            Subject::start().assert_exact_within(soon());
        })
        .unwrap();
}

#[test]
fn sockets_that_come_later_are_counted_by_events() {
    let Some(netns) = place() else { return };
    raise_fd_limit().unwrap();
    let plan = SocketPlan::random(60, seed());
    netns
        .run(|| {
            let subject = Subject::start();
            let hold = HeldSockets::new(&plan).unwrap();
            hold.wait(HELD).unwrap();
            subject.assert_exact_within(soon());
            drop(hold);
            subject.assert_exact_within(soon());
        })
        .unwrap();
}

#[test]
fn get_and_show_say_the_same_and_families_add_up() {
    let Some(netns) = place() else { return };
    raise_fd_limit().unwrap();
    let plan = SocketPlan::random(20, seed());
    netns
        .run(|| {
            let hold = HeldSockets::new(&plan).unwrap();
            hold.wait(HELD).unwrap();
            let subject = Subject::start();
            subject.assert_exact_within(soon());
            let snapshot = subject.snapshot();
            for state in State::ALL {
                let get = |family| {
                    let state = state.name().to_owned();
                    subject
                        .tracker
                        .get(&Get {
                            state,
                            family,
                            port: None,
                            netns: None,
                            cgroup: None,
                        })
                        .unwrap()
                };
                assert_eq!(get(None), snapshot.states[state], "{state}");
                assert_eq!(get(Some(4)), snapshot.ipv4[state], "{state}");
                assert_eq!(get(Some(6)), snapshot.ipv6[state], "{state}");
                assert_eq!(get(Some(4)) + get(Some(6)), get(None), "{state}");
            }
        })
        .unwrap();
}

#[test]
fn sockets_of_another_namespace_are_not_counted() {
    let (Some(here), Some(elsewhere)) = (place(), place()) else {
        return;
    };
    raise_fd_limit().unwrap();
    let plan = SocketPlan::random(20, seed());
    here.run(|| {
        let subject = Subject::start();
        elsewhere
            .run(|| {
                let hold = HeldSockets::new(&plan).unwrap();
                hold.wait(HELD).unwrap();
                assert!(Counts::read().unwrap().total() > 0);
                let seen = here.run(|| subject.snapshot().states.total()).unwrap();
                assert_eq!(seen, 0, "sockets of the other namespace were counted");
                drop(hold);
            })
            .unwrap();
        subject.assert_exact_within(soon());
        assert_eq!(subject.snapshot().events.unwrap().counted, 0);
    })
    .unwrap();
}
