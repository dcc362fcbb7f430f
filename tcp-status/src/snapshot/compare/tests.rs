//! Comparisons of made-up readings and listings.

use tcp_status_common::state::{Family, State};

use super::{Comparison, Match, Row};
use crate::{
    kernel::procfs::{Listing, PortListing},
    snapshot::{Counts, Flow, PortCounts, Ports, Snapshot, Tier, Transitions},
};

fn listing(ipv4: Counts, ipv6: Counts) -> PortListing {
    PortListing {
        all: Listing { ipv4, ipv6 },
        ..PortListing::default()
    }
}

/// What is left of some comparisons, between readings that are off by `drift`: with so many
/// connections that came and left meanwhile, as far as the listing did not see them.
fn compared(drift: u64, moves: &[(u64, u64, u64)]) -> Comparison {
    use State::{Established, FinWait1, SynSent};
    let mut last: Option<Comparison> = None;
    for &(came, left, listed) in moves {
        let before = reading(&[(Established, 100 + drift)], &[]);
        let flows = [(SynSent, Established, came), (Established, FinWait1, left)];
        let after = reading(&[(Established, 100 + drift + came - left)], &flows);
        let listed = listing(counts(&[(Established, listed)]), Counts::default());
        let next = Comparison::new(&before, &before, &listed, &after);
        last = Some(match last {
            Some(earlier) => next.after(&earlier),
            None => next,
        });
    }
    last.unwrap().settled()
}

#[test]
fn a_drift_is_never_equal_however_much_moves() {
    let established = |of: &Comparison| of.states[State::Established.index()].verdict;
    // Each is explained by its moves.
    let once = compared(20, &[(40, 40, 100)]);
    assert_eq!(established(&once), Match::Undecided);
    assert!(!once.equal && !once.differs && once.moving);
    // Fewer moves leave less.
    let busy = compared(20, &[(40, 40, 100), (25, 25, 95), (22, 3, 103)]);
    assert!(!busy.equal, "{busy:?}");
    let seen = compared(20, &[(40, 40, 100), (5, 5, 98), (6, 6, 101), (3, 2, 100)]);
    assert!(seen.differs && !seen.equal, "{seen:?}");
    assert_eq!(established(&seen), Match::Differs);
    // Without one, moves that differ show it.
    let equal = compared(0, &[(9, 9, 109), (9, 9, 91)]);
    assert_eq!(established(&equal), Match::Equal);
}

#[test]
fn a_difference_that_does_not_last_proves_nothing() {
    // Corrected between the two.
    let corrected = compared(0, &[(0, 0, 80), (0, 0, 100)]);
    assert!(corrected.equal, "{corrected:?}");
    let once = compared(0, &[(0, 0, 100), (0, 0, 80)]);
    assert!(!once.equal && !once.differs, "{once:?}");
}

#[test]
fn ports_are_compared() {
    let port = |port, established| PortCounts {
        port,
        states: counts(&[(State::Established, established)]),
        connection_ends: None,
    };
    let tracked = |established| {
        let mut snapshot = reading(&[(State::Established, 5)], &[]);
        snapshot.ports = Ports {
            tracked: vec![port(80, established), port(81, 1)],
            unaudited: vec![81],
            ..Ports::default()
        };
        snapshot
    };
    let mut kernel = listing(counts(&[(State::Established, 5)]), Counts::default());
    let at_port = Listing {
        ipv4: counts(&[(State::Established, 5)]),
        ..Listing::default()
    };
    kernel.ports.insert(80, at_port);
    let compare = |snapshot: &Snapshot| Comparison::new(snapshot, snapshot, &kernel, snapshot);
    let right = compare(&tracked(5));
    assert!(right.equal && right.exact());
    assert_eq!(right.ports.len(), 1);
    let wrong = compare(&tracked(4));
    assert!(!wrong.equal && wrong.differs);
    assert_eq!(
        wrong.ports[0].states[State::Established.index()].difference,
        -1
    );
}

#[test]
fn outgoing_connections_and_ports_beyond_the_limit_are_compared() {
    use State::{CloseWait, Established, Listen};
    let at = |counts| Listing {
        ipv4: counts,
        ..Listing::default()
    };
    let mut kernel = listing(
        counts(&[(Established, 7), (CloseWait, 2), (Listen, 2)]),
        Counts::default(),
    );
    let of_port = [
        (80, counts(&[(Established, 4), (Listen, 1)])),
        (81, counts(&[(Established, 1), (Listen, 1)])),
        // Its listener closed.
        (82, counts(&[(Established, 2)])),
        (40_000, counts(&[(CloseWait, 2)])),
    ];
    kernel
        .ports
        .extend(of_port.map(|(port, counts)| (port, at(counts))));
    let of = |outgoing, other, unaudited: &[u16]| {
        let mut snapshot = reading(&[(Established, 7), (CloseWait, 2), (Listen, 2)], &[]);
        snapshot.ports = Ports {
            tracked: vec![PortCounts {
                port: 80,
                states: counts(&[(Established, 4), (Listen, 1)]),
                connection_ends: None,
            }],
            outgoing: Some(counts(&[(CloseWait, outgoing)])),
            other: Some(counts(&[(Established, other), (Listen, 1)])),
            other_ports: vec![81, 82],
            unaudited: unaudited.into(),
            ..Ports::default()
        };
        snapshot
    };
    let compare = |one: &Snapshot| Comparison::new(one, one, &kernel, one);
    let right = compare(&of(2, 3, &[]));
    assert!(right.equal && right.exact(), "{right:?}");
    let state = |rows: &[Row], state: State| rows[state.index()].difference;
    let wrong = compare(&of(1, 3, &[]));
    assert!(!wrong.equal && wrong.differs, "{wrong:?}");
    assert_eq!(state(&wrong.outgoing, CloseWait), -1);
    let wrong = compare(&of(2, 4, &[]));
    assert!(!wrong.equal && wrong.differs, "{wrong:?}");
    assert_eq!(state(&wrong.other, Established), 1);
    // An audit moves sockets between rows first, or a port got its row meanwhile.
    let unaudited = compare(&of(1, 3, &[80]));
    assert!(unaudited.equal && unaudited.outgoing.is_empty() && unaudited.other.is_empty());
    let mut earlier = of(3, 3, &[]);
    earlier.ports.other_ports.pop();
    let now = of(1, 3, &[]);
    assert!(
        Comparison::new(&now, &earlier, &kernel, &now)
            .outgoing
            .is_empty()
    );
}

fn counts(of: &[(State, u64)]) -> Counts {
    let mut counts = Counts::default();
    for (state, count) in of {
        counts[*state] = *count;
    }
    counts
}

fn reading(v4: &[(State, u64)], flows: &[(State, State, u64)]) -> Snapshot {
    let families: [Counts; Family::COUNT] = [counts(v4), Counts::default()];
    let flows: Vec<_> = flows
        .iter()
        .map(|&(from, to, count)| Flow { from, to, count })
        .collect();
    Snapshot {
        transitions: Some(Transitions::from_flows(&flows)),
        ..Snapshot::of(Tier::Full, 7, families)
    }
}

/// The verdict on one state, given readings, flows in between, and the kernel's number.
fn verdict(
    state: State,
    before: &[(State, u64)],
    kernel: u64,
    after: &[(State, u64)],
    flows: &[(State, State, u64)],
) -> Match {
    let listing = listing(counts(&[(state, kernel)]), Counts::default());
    let compared = {
        let (before, after) = (reading(before, &[]), reading(after, flows));
        Comparison::new(&before, &before, &listing, &after)
    };
    compared.ipv4[state.index()].verdict
}

#[test]
fn at_rest_only_the_same_number_is_equal() {
    let tracker = [(State::Established, 5), (State::TimeWait, 2)];
    let reading = reading(&tracker, &[(State::SynSent, State::Established, 9)]);
    let same = Comparison::new(
        &reading,
        &reading,
        &listing(counts(&tracker), Counts::default()),
        &reading,
    );
    assert!(same.equal && same.exact() && !same.moving);
    for (state, kernel) in [
        (State::Established, 4),
        (State::Established, 6),
        (State::TimeWait, 3),
        (State::SynRecv, 1),
        (State::Closed, 1),
    ] {
        let mut listed = counts(&tracker);
        listed[state] = kernel;
        let listed = listing(listed, Counts::default());
        let compared = Comparison::new(&reading, &reading, &listed, &reading);
        assert!(!compared.equal && !compared.moving, "{state} {kernel}");
    }
}

#[test]
fn families_do_not_make_up_for_each_other() {
    let reading = reading(&[(State::Listen, 1)], &[]);
    let listing = listing(Counts::default(), counts(&[(State::Listen, 1)]));
    let compared = Comparison::new(&reading, &reading, &listing, &reading);
    assert!(!compared.equal);
    assert_eq!(compared.states[State::Listen.index()].verdict, Match::Equal);
    assert_eq!(compared.ipv4[State::Listen.index()].difference, 1);
    assert_eq!(compared.ipv6[State::Listen.index()].difference, -1);
}

#[test]
fn moves_explain_as_much_as_they_are() {
    use State::{Closed, Established, FinWait1, SynSent};
    let (five, six) = ([(Established, 5)], [(Established, 6)]);
    // Three came, two left: between 3 and 8 were seen.
    let flows = [(SynSent, Established, 3), (Established, FinWait1, 2)];
    for (kernel, expected) in [
        (2, Match::Differs),
        (3, Match::Undecided),
        (8, Match::Undecided),
        (9, Match::Differs),
    ] {
        assert_eq!(
            verdict(Established, &five, kernel, &six, &flows),
            expected,
            "{kernel}"
        );
    }
    assert_eq!(
        verdict(Established, &five, 5, &five, &flows),
        Match::Undecided
    );
    assert_eq!(verdict(Established, &five, 5, &five, &[]), Match::Equal);
    // Moves of other states explain nothing.
    let flows = [(Closed, SynSent, 9), (FinWait1, Closed, 9)];
    assert_eq!(
        verdict(Established, &five, 4, &five, &flows),
        Match::Differs
    );
}

#[test]
fn births_do_not_take_the_listener_away() {
    use State::{Closed, Listen, SynRecv};
    let one = [(Listen, 1)];
    let births = [(Listen, SynRecv, 100)];
    assert_eq!(verdict(Listen, &one, 0, &one, &births), Match::Differs);
    assert_eq!(
        verdict(Listen, &one, 0, &[], &[(Listen, Closed, 1)]),
        Match::Undecided
    );
    assert_eq!(verdict(SynRecv, &[], 100, &[], &births), Match::Undecided);
    assert_eq!(verdict(SynRecv, &[], 101, &[], &births), Match::Differs);
}

#[test]
fn minisockets_come_from_states_that_were_left() {
    use State::{Closed, Closing, Established, FinWait1, FinWait2, TimeWait};
    let none: [(State, u64); 0] = [];
    // Expired: fewer without any event, but not more than before.
    assert_eq!(
        verdict(TimeWait, &[(TimeWait, 9)], 5, &[(TimeWait, 3)], &[]),
        Match::Undecided
    );
    assert_eq!(
        verdict(TimeWait, &[(TimeWait, 9)], 10, &[(TimeWait, 3)], &[]),
        Match::Differs
    );
    // Came by way of finwait2 and expired before the second reading.
    let flows = [
        (FinWait1, FinWait2, 4),
        (FinWait2, Closed, 4),
        (Closing, Closed, 1),
    ];
    assert_eq!(verdict(TimeWait, &none, 5, &none, &flows), Match::Undecided);
    assert_eq!(verdict(TimeWait, &none, 6, &none, &flows), Match::Differs);
    assert_eq!(verdict(FinWait2, &none, 4, &none, &flows), Match::Undecided);
    assert_eq!(verdict(FinWait2, &none, 5, &none, &flows), Match::Differs);
    // A minisocket's change of substate is no event.
    let before = [(FinWait2, 2)];
    assert_eq!(verdict(TimeWait, &before, 2, &none, &[]), Match::Undecided);
    assert_eq!(verdict(TimeWait, &before, 3, &none, &[]), Match::Differs);
    assert_eq!(
        verdict(TimeWait, &none, 1, &none, &[(Established, Closed, 9)]),
        Match::Differs
    );
}

#[test]
fn a_split_that_is_old_differs_only_as_far_as_anything_moved() {
    use State::{Closed, FinWait1, FinWait2, TimeWait};
    let flows = [(FinWait1, FinWait2, 4), (FinWait2, Closed, 4)];
    let reduced = |first: &[_], now: &[_], flows: &[_]| {
        let tier = |snapshot| Snapshot {
            tier: Tier::Reduced,
            ..snapshot
        };
        (tier(reading(first, &[])), tier(reading(now, flows)))
    };
    // Four came between the first reading and the last two: all in v6, not yet looked at.
    let (first, now) = reduced(&[(TimeWait, 6)], &[(TimeWait, 10)], &flows);
    let listing = |v4, v6| listing(counts(&[(TimeWait, v4)]), counts(&[(TimeWait, v6)]));
    assert!(Comparison::new(&first, &now, &listing(6, 4), &now).equal);
    assert!(!Comparison::new(&first, &now, &listing(5, 5), &now).equal);
    // The sum is never old.
    assert!(!Comparison::new(&first, &now, &listing(6, 3), &now).equal);
    // At rest nothing is.
    assert!(!Comparison::new(&now, &now, &listing(6, 4), &now).equal);
    let (first, full) = (
        reading(&[(TimeWait, 6)], &[]),
        reading(&[(TimeWait, 10)], &flows),
    );
    assert!(!Comparison::new(&first, &full, &listing(6, 4), &full).equal);
    // Expired, without an event.
    let (first, now) = reduced(&[(TimeWait, 6)], &[(TimeWait, 4)], &[]);
    assert!(Comparison::new(&first, &now, &listing(2, 2), &now).equal);
}
