//! Many connections in child processes: all there, and all gone afterwards.

use std::{path::Path, process::Command, time::Duration};

use tcp_status_testkit::{
    bulk::{Bulk, CHILD},
    netns::Netns,
    oracle::{Counts, Table, st},
};

const BINARY: &str = env!("CARGO_BIN_EXE_tcp-traffic");
const SOON: Duration = Duration::from_secs(5);

#[test]
fn holds_as_many_as_asked_and_leaves_nothing() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    netns
        .run(|| {
            // More than one process can hold.
            let bulk = Bulk::new(Path::new(BINARY), 11_000, 1_500).unwrap();
            assert!(bulk.pids().len() >= 3);
            assert_eq!(bulk.expected().get(Table::Tcp, st::ESTABLISHED), 22_000);
            bulk.expected().wait_equal(SOON).unwrap();
            let pids = bulk.pids();
            drop(bulk);
            for pid in pids {
                assert!(!Path::new(&format!("/proc/{pid}")).exists());
            }
            Counts::default().wait_equal(SOON).unwrap();
        })
        .unwrap();
}

#[test]
fn children_that_fail_are_reported() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    netns
        .run(|| {
            let missing = Bulk::new(Path::new("/nonexistent/tcp-traffic"), 1, 0);
            assert!(missing.unwrap_err().to_string().contains("/nonexistent"));
            let wrong = Bulk::new(Path::new("/bin/true"), 1, 0).unwrap_err();
            assert!(wrong.to_string().contains("ended early"), "{wrong}");
            Counts::default().wait_equal(SOON).unwrap();
        })
        .unwrap();
}

#[test]
fn a_child_is_not_for_use_by_hand() {
    let output = Command::new(BINARY).arg(CHILD).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}
