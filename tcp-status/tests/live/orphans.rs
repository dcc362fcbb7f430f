//! Half-open connections whose listener is closed: no queue knows them, the kernel lists them on.

use std::time::Duration;

use tcp_status_testkit::{
    Family,
    hold::{Hold, Kind, Plan},
    oracle::{Counts, st},
    seed,
};

use crate::subject::{SOON, Subject, place};

#[test]
fn half_open_connections_outlive_their_listener() {
    let Some(netns) = place() else { return };
    let number = 7;
    netns
        .run(|| {
            let subject = Subject::start();
            let plan = Family::ALL
                .into_iter()
                .fold(Plan::empty(seed()), |plan, family| {
                    plan.with(family, Kind::SynRecv, number)
                });
            let hold = Hold::new(&plan).unwrap();
            hold.wait(Duration::from_secs(10)).unwrap();
            subject.assert_exact_within(SOON);
            drop(hold);
            let left = Counts::read().unwrap().both(st::SYN_RECV);
            println!("{left} half-open connections without a listener");
            subject.assert_exact_within(SOON);
        })
        .unwrap();
}
