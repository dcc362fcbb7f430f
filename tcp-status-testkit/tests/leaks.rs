//! The kit gives back every file, thread and process. One test, in a binary of its own, since it
//! counts what the whole process has.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use tcp_status_testkit::{
    bulk::Bulk,
    churn::Churn,
    held_sockets::{HeldSockets, SocketPlan},
    netns::Netns,
    seed,
};

/// Open files, threads, and children of this process.
fn belongings() -> [usize; 3] {
    let count = |folder: &str| fs::read_dir(folder).unwrap().count();
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let children = tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .map(|pids| pids.split_whitespace().count())
        .sum();
    [count("/proc/self/fd"), count("/proc/self/task"), children]
}

#[test]
fn files_threads_and_processes_are_given_back() {
    let seed = seed();
    let before = belongings();
    for round in 0..3 {
        let Some(netns) = Netns::for_test() else {
            return;
        };
        netns
            .run(|| {
                let binary = Path::new(env!("CARGO_BIN_EXE_tcp-traffic"));
                let _bulk = Bulk::new(binary, 200, 100).unwrap();
                let hold = HeldSockets::new(&SocketPlan::uniform(5, seed + round)).unwrap();
                hold.wait(Duration::from_secs(5)).unwrap();
                let churn = Churn {
                    workers: 2,
                    connections: Some(1_000),
                    duration: None,
                    seed: seed + round,
                };
                assert_eq!(churn.run().unwrap().failures(), 0);
                assert!(belongings() > before);
            })
            .unwrap();
    }
    // A thread that was joined is listed for a moment longer.
    let limit = Instant::now() + Duration::from_secs(5);
    while belongings() != before && Instant::now() < limit {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(belongings(), before);
}
