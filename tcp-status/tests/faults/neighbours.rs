//! Two trackers at once.

use tcp_status_testkit::{churn::Churn, seed};

use crate::{
    place,
    tracker::{Refused, Tracker},
};

#[test]
fn a_second_one_is_refused_on_the_same_socket_and_exact_on_another() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let first = Tracker::start(&["--backend", "ebpf"]);
            let socket = first.socket();
            let socket = socket.to_str().unwrap();
            let refused = Refused::of(&["run", "--backend", "ebpf", "--socket", socket]);
            println!("{}", refused.line);
            assert_eq!(refused.status, 2);
            assert!(refused.line.contains("in use by another tracker"));
            for _ in 0..2 {
                let second = Tracker::start(&["--backend", "ebpf"]);
                let churn = Churn {
                    workers: 2,
                    connections: Some(1000),
                    duration: None,
                    seed: seed(),
                };
                churn.run().unwrap();
                first.assert_exact("the first");
                second.assert_exact("the second");
                second.end();
                first.assert_exact("the first, alone again");
            }
            first.end();
        })
        .unwrap();
}
