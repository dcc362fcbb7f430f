//! What is wrong in made-up readings.

use std::net::{IpAddr, Ipv4Addr};

use tcp_status_common::state::State;

use super::{Severity, Subject};
use crate::snapshot::{
    CgroupCounts, CgroupName, Cgroups, Counts, Listener, NoLocalPortDestination, Ports, Snapshot,
    Stale, Tier,
};

fn snapshot() -> Snapshot {
    Snapshot::of(Tier::Full, 1, [Counts::default(); 2])
}

fn stale(closewait: u64) -> Stale {
    Stale {
        closewait,
        finwait2: 0,
        older_than_seconds: 60,
        walked_seconds_ago: 1,
    }
}

fn listener(port: u16, accept_queue: u32, syn_queue: u32) -> Listener {
    Listener {
        accept_queue,
        accept_queue_peak: Some(accept_queue),
        syn_queue: Some(syn_queue),
        syn_queue_limit: Some(256),
        unit: Some("app.service".into()),
        ..Listener::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port, 128)
    }
}

#[test]
fn at_rest_nothing_is_wrong() {
    let mut healthy = snapshot();
    healthy.listeners = vec![listener(80, 128, 127)];
    healthy.stale = Some(stale(50));
    healthy.ephemeral_ports = Some(0);
    healthy.ports.outgoing = Some(Counts::default());
    assert_eq!(healthy.find_problems(), []);
}

#[test]
fn each_problem_says_what_is_wrong_and_where_the_most_urgent_first() {
    let mut sick = snapshot();
    let mut counts = Counts::default();
    counts[State::CloseWait] = 51;
    sick.stale = Some(stale(51));
    sick.cgroups = Some(Cgroups {
        tracked: vec![CgroupCounts {
            id: 7,
            name: CgroupName {
                unit: Some("leaky.service".into()),
                ..CgroupName::default()
            },
            states: counts,
        }],
        ..Cgroups::default()
    });
    sick.ephemeral_ports = Some(62);
    sick.ports = Ports {
        outgoing: Some(counts),
        ..Ports::default()
    };
    // At two addresses, which have one cause.
    sick.listeners = vec![
        listener(80, 129, 0),
        listener(80, 129, 0),
        listener(81, 0, 256),
    ];
    sick.listeners[1].address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let expected = [
        (
            Severity::Critical,
            "FULL",
            "port 80 (app.service): the accept queue is full: 129 wait, limit 128",
            &[Subject::Port(80)][..],
        ),
        (
            Severity::Critical,
            "SYN FULL",
            "port 81 (app.service): the SYN queue is full: 256 half-open",
            &[Subject::Port(81)],
        ),
        (
            Severity::Warning,
            "leak",
            "leaky.service does not close 51 connections: in closewait for over 60 s",
            &[
                Subject::Cgroup(7),
                Subject::Outgoing,
                Subject::State(State::CloseWait),
            ],
        ),
        (
            Severity::Warning,
            "no ports",
            "outgoing connections are 82 % of the ephemeral ports",
            &[Subject::Outgoing],
        ),
    ];
    let problems = sick.find_problems();
    let found = problems.iter();
    let found = found.map(|one| (one.severity, one.mark(), one.text.as_str(), &one.at[..]));
    assert_eq!(found.collect::<Vec<_>>(), expected);
    sick.problems = problems;
    sick.name_netns_in_hints();
    let hints: Vec<_> = sick
        .problems
        .iter()
        .map(|one| one.hint.as_deref())
        .collect();
    let leak = "tcp-status who --by process --state closewait --netns 1";
    let ports = "tcp-status who --by destination --netns 1";
    assert_eq!(hints, [None, None, Some(leak), Some(ports)]);
}

#[test]
fn connects_that_find_no_port_are_a_problem_for_a_while() {
    let to = |port, failures, last_seconds_ago| NoLocalPortDestination {
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)),
        port,
        failures,
        last_seconds_ago,
    };
    let mut full = snapshot();
    full.no_local_port_destinations = Some(vec![to(80, 1, 2), to(5432, 30, 9), to(1, 99, 300)]);
    full.ephemeral_ports = Some(10);
    let mut outgoing = Counts::default();
    outgoing[State::TimeWait] = 10;
    full.ports.outgoing = Some(outgoing);
    let [one] = &full.find_problems()[..] else {
        panic!("{:?}", full.find_problems());
    };
    assert_eq!(one.severity, Severity::Critical);
    assert_eq!(
        one.text,
        "connects fail for want of a local port: 130 since start, most to 10.0.0.9:5432, the \
         last 2 s ago"
    );
    full.no_local_port_destinations = Some(vec![to(1, 99, 300)]);
    assert_eq!(full.find_problems()[0].mark(), "no ports");
}

#[test]
fn a_flood_that_no_listener_holds_is_a_problem_of_its_own() {
    let mut flooded = snapshot();
    flooded.states[State::SynRecv] = 257;
    let [one] = &flooded.find_problems()[..] else {
        panic!("{:?}", flooded.find_problems());
    };
    assert_eq!(one.text, "257 connections are half-open");
    flooded.listeners = vec![Listener {
        syn_queue_limit: Some(512),
        ..listener(80, 0, 257)
    }];
    let [one] = &flooded.find_problems()[..] else {
        panic!("{:?}", flooded.find_problems());
    };
    assert_eq!(
        one.text,
        "port 80 (app.service): 257 connections are half-open"
    );
}
