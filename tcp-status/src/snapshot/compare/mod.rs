//! The tracker's readings against the kernel's listing: when they are equal, and what may differ
//! while connections come and go. Pure: reads nothing itself.
//! What may differ is the rule in `moves`.

mod moves;

use serde::Serialize;
use tcp_status_common::state::State;

use super::{Counts, SCHEMA, Snapshot, Tier};
use moves::{Moves, Slack};

/// How the kernel's number of a state relates to the tracker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Match {
    /// It is the tracker's number, before and after.
    Equal,
    /// The moves in between explain the difference.
    Moved,
    /// Nothing explains the difference.
    Differs,
}

/// One state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Name of the state.
    pub state: &'static str,
    /// What the kernel lists.
    pub kernel: u64,
    /// The tracker's reading that is nearer to it.
    pub tracker: u64,
    /// How much the tracker has more than the kernel.
    pub difference: i64,
    /// The tracker's reading before.
    pub before: u64,
    /// The tracker's reading after.
    pub after: u64,
    /// How they relate.
    pub verdict: Match,
}

/// All states, of both families and of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Version of this form.
    pub schema: u32,
    /// Whether every number is equal, or explained by moves.
    pub equal: bool,
    /// Whether anything moved between the two readings.
    pub moving: bool,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// How the tracker counts.
    pub tier: Tier,
    /// Both families together, in the order of [`State::ALL`].
    pub states: Vec<Row>,
    /// What `/proc/net/tcp` lists.
    pub ipv4: Vec<Row>,
    /// What `/proc/net/tcp6` lists.
    pub ipv6: Vec<Row>,
}

impl Comparison {
    /// Compares a listing by family with the readings around it. `first` is a reading from as long
    /// before as the tracker may leave numbers unrefreshed, which only matters where it does.
    #[must_use]
    pub fn new(
        first: &Snapshot,
        before: &Snapshot,
        listing: &(Counts, Counts),
        after: &Snapshot,
    ) -> Self {
        let mut total = listing.0;
        total += &listing.1;
        let rule = Rule {
            moves: Moves::between(before, after),
            unrefreshed: unrefreshed(first, before, &total, after),
        };
        let states = rule.rows(&before.states, &total, &after.states);
        let ipv4 = rule.rows(&before.ipv4, &listing.0, &after.ipv4);
        let ipv6 = rule.rows(&before.ipv6, &listing.1, &after.ipv6);
        let all = || states.iter().chain(&ipv4).chain(&ipv6);
        Self {
            schema: SCHEMA,
            equal: all().all(|row| row.verdict != Match::Differs),
            moving: rule.moves.any()
                || all().any(|row| row.before != row.after || row.verdict == Match::Moved),
            netns: after.netns,
            tier: after.tier,
            states,
            ipv4,
            ipv6,
        }
    }

    /// Whether every number is equal without an explanation.
    #[must_use]
    pub fn exact(&self) -> bool {
        let mut all = self.states.iter().chain(&self.ipv4).chain(&self.ipv6);
        all.all(|row| row.verdict == Match::Equal)
    }
}

/// How far the split of minisockets by substate and family may be off: in the tier that looks at
/// it only now and then, and only while their sum, which is never old, is right.
fn unrefreshed(first: &Snapshot, before: &Snapshot, total: &Counts, after: &Snapshot) -> Slack {
    let sum = |counts: &Counts| counts[State::TimeWait] + counts[State::FinWait2];
    let came = Moves::between(before, after).minisockets();
    let right = Slack::both(came).allows(sum(&before.states), sum(total), sum(&after.states));
    if after.tier != Tier::Reduced || !right {
        return Slack::both(0);
    }
    let came = Moves::between(first, after).minisockets();
    let left = (sum(&first.states) + came).saturating_sub(sum(&after.states));
    Slack::both(came + left)
}

/// What may differ.
struct Rule {
    moves: Moves,
    unrefreshed: Slack,
}

impl Rule {
    fn rows(&self, before: &Counts, kernel: &Counts, after: &Counts) -> Vec<Row> {
        let row = |state| self.row(state, before, kernel, after);
        State::ALL.map(row).to_vec()
    }

    fn row(&self, state: State, before: &Counts, kernel: &Counts, after: &Counts) -> Row {
        let mut slack = self.moves.slack(state, before, after);
        if matches!(state, State::TimeWait | State::FinWait2) {
            slack = slack.max(self.unrefreshed);
        }
        let (kernel, before, after) = (kernel[state], before[state], after[state]);
        let tracker = if kernel.abs_diff(before) < kernel.abs_diff(after) {
            before
        } else {
            after
        };
        Row {
            state: state.name(),
            kernel,
            tracker,
            difference: tracker.cast_signed() - kernel.cast_signed(),
            before,
            after,
            verdict: if kernel == before && kernel == after {
                Match::Equal
            } else if slack.allows(before, kernel, after) {
                Match::Moved
            } else {
                Match::Differs
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use tcp_status_common::state::{Family, State};

    use super::{Comparison, Match};
    use crate::snapshot::{Counts, Flow, Snapshot, Tier, Transitions};

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
        let listing = (counts(&[(state, kernel)]), Counts::default());
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
            &(counts(&tracker), Counts::default()),
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
            let mut listing = counts(&tracker);
            listing[state] = kernel;
            let compared =
                Comparison::new(&reading, &reading, &(listing, Counts::default()), &reading);
            assert!(!compared.equal && !compared.moving, "{state} {kernel}");
        }
    }

    #[test]
    fn families_do_not_make_up_for_each_other() {
        let reading = reading(&[(State::Listen, 1)], &[]);
        let listing = (Counts::default(), counts(&[(State::Listen, 1)]));
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
            (3, Match::Moved),
            (8, Match::Moved),
            (9, Match::Differs),
        ] {
            assert_eq!(
                verdict(Established, &five, kernel, &six, &flows),
                expected,
                "{kernel}"
            );
        }
        assert_eq!(verdict(Established, &five, 5, &five, &flows), Match::Equal);
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
            Match::Moved
        );
        assert_eq!(verdict(SynRecv, &[], 100, &[], &births), Match::Moved);
        assert_eq!(verdict(SynRecv, &[], 101, &[], &births), Match::Differs);
    }

    #[test]
    fn minisockets_come_from_states_that_were_left() {
        use State::{Closed, Closing, Established, FinWait1, FinWait2, TimeWait};
        let none: [(State, u64); 0] = [];
        // Expired: fewer without any event, but not more than before.
        assert_eq!(
            verdict(TimeWait, &[(TimeWait, 9)], 5, &[(TimeWait, 3)], &[]),
            Match::Moved
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
        assert_eq!(verdict(TimeWait, &none, 5, &none, &flows), Match::Moved);
        assert_eq!(verdict(TimeWait, &none, 6, &none, &flows), Match::Differs);
        assert_eq!(verdict(FinWait2, &none, 4, &none, &flows), Match::Moved);
        assert_eq!(verdict(FinWait2, &none, 5, &none, &flows), Match::Differs);
        // A minisocket's change of substate is no event.
        let before = [(FinWait2, 2)];
        assert_eq!(verdict(TimeWait, &before, 2, &none, &[]), Match::Moved);
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
        let listing = |v4, v6| (counts(&[(TimeWait, v4)]), counts(&[(TimeWait, v6)]));
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
}
