//! `check --self-test`: sockets in every state, counted by eBPF.

use std::os::unix::process::CommandExt as _;

use nix::unistd::geteuid;
use tcp_status::kernel::{
    facts::Facts,
    plan::{Backend, BackendPlan},
};
use tcp_status_common::state::State;
use tcp_status_testkit::skip_unprepared;

use crate::{complaint, printed, tcp_status};

/// The state, and the two numbers of its line.
fn row(line: &str) -> (&str, u64, u64) {
    let words: Vec<_> = line.split_whitespace().collect();
    let &[state, listed, "listed,", counted, "counted,", "equal"] = words.as_slice() else {
        panic!("{line}");
    };
    (state, listed.parse().unwrap(), counted.parse().unwrap())
}

#[test]
fn every_state_is_opened_and_counted_exactly() {
    let (facts, _) = Facts::probe();
    if let Err(why) = BackendPlan::from_facts(&facts, Backend::Ebpf) {
        return skip_unprepared(&why.to_string());
    }
    let text = printed(&["check", "--self-test"]);
    let (host, rows) = text.split_once("\n\n").unwrap();
    assert!(
        host.contains("\ntier ") && host.contains("\nnetwork namespace "),
        "{text}"
    );
    let rows: Vec<_> = rows.lines().map(row).collect();
    assert_eq!(rows.len(), State::COUNT, "{text}");
    for (state, (name, listed, counted)) in State::ALL.into_iter().zip(rows) {
        assert_eq!((name, listed), (state.name(), counted));
        // Seeded and by events, in one family at least.
        assert_eq!(listed >= 2, state != State::Closed, "{text}");
    }
}

#[test]
fn without_privilege_it_is_one_line_that_says_what_is_missing() {
    if !geteuid().is_root() {
        return skip_unprepared("only root can become nobody");
    }
    let refused = tcp_status()
        .args(["check", "--self-test"])
        .uid(65_534)
        .output();
    let line = complaint(&refused.unwrap(), 4);
    assert!(line.contains("CAP_BPF"), "{line}");
}
