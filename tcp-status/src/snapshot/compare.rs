//! The tracker's readings against the kernel's listing: when they are equal, and what may differ
//! while connections come and go. Pure: reads nothing itself.
//!
//! A listing takes time. It is taken between two readings of the tracker, and each socket in it
//! was in its state at some moment in between. So the listing of a state lies between what was
//! there all the time (the first reading, less what left) and what was there at some time (the
//! first reading, and what came). What came and left is what `transitions.flows` gained.
//!
//! Three states have moves that are no events, and `closed` is no gauge:
//!
//! - `finwait2` is left without an event, by minisockets. What left follows from what came and
//!   from the readings, and is at most their difference more than what came.
//! - `timewait` is entered from there, and from `closing` and `lastack`, which end in it; it is
//!   left without an event. What came is at most all that left those three.
//! - `synrecv` is entered without an event, by request sockets; the flows in and out of it say
//!   how many were replaced by connections. A request that comes and goes in between without
//!   becoming one is not accounted for.
//! - `closed` is listed for a moment where a socket dies: at most as many as died.

use serde::Serialize;
use tcp_status_common::state::State;

use super::{Counts, SCHEMA, Snapshot, Tier, Transitions};

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
    /// Compares a listing by family with the readings around it.
    #[must_use]
    pub fn new(before: &Snapshot, listing: &(Counts, Counts), after: &Snapshot) -> Self {
        let moves = Moves::between(&before.transitions, &after.transitions);
        let mut total = listing.0;
        total += &listing.1;
        let states = rows(&before.states, &total, &after.states, &moves);
        let ipv4 = rows(&before.ipv4, &listing.0, &after.ipv4, &moves);
        let ipv6 = rows(&before.ipv6, &listing.1, &after.ipv6, &moves);
        let all = || states.iter().chain(&ipv4).chain(&ipv6);
        Self {
            schema: SCHEMA,
            equal: all().all(|row| row.verdict != Match::Differs),
            moving: moves.any() || all().any(|row| row.before != row.after),
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

fn rows(before: &Counts, kernel: &Counts, after: &Counts, moves: &Moves) -> Vec<Row> {
    let row = |state: State| {
        let (kernel, before_it, after_it) = (kernel[state], before[state], after[state]);
        let slack = moves.slack(state, before, after);
        let within =
            slack.low(before_it, after_it) <= kernel && kernel <= slack.high(before_it, after_it);
        let tracker = if kernel.abs_diff(before_it) < kernel.abs_diff(after_it) {
            before_it
        } else {
            after_it
        };
        Row {
            state: state.name(),
            kernel,
            tracker,
            difference: tracker.cast_signed() - kernel.cast_signed(),
            before: before_it,
            after: after_it,
            verdict: match within {
                true if kernel == before_it && kernel == after_it => Match::Equal,
                true => Match::Moved,
                false => Match::Differs,
            },
        }
    };
    State::ALL.map(row).to_vec()
}

/// How many sockets came into a state and left it, at most.
struct Slack {
    came: u64,
    left: u64,
}

impl Slack {
    const fn both(moves: u64) -> Self {
        Self {
            came: moves,
            left: moves,
        }
    }

    fn low(&self, before: u64, after: u64) -> u64 {
        before
            .saturating_sub(self.left)
            .min(after.saturating_sub(self.came))
    }

    fn high(&self, before: u64, after: u64) -> u64 {
        before
            .saturating_add(self.came)
            .max(after.saturating_add(self.left))
    }
}

/// State changes between two readings, of both families.
struct Moves([[u64; State::COUNT]; State::COUNT]);

impl Moves {
    fn between(before: &Transitions, after: &Transitions) -> Self {
        let mut moves = [[0_u64; State::COUNT]; State::COUNT];
        let mut each = |flows: &[(String, String, u64)], apply: fn(&mut u64, u64)| {
            for (from, to, count) in flows {
                if let (Ok(from), Ok(to)) = (from.parse::<State>(), to.parse::<State>()) {
                    apply(&mut moves[from.index()][to.index()], *count);
                }
            }
        };
        each(&after.flows, |sum, count| *sum = sum.saturating_add(count));
        each(&before.flows, |sum, count| *sum = sum.saturating_sub(count));
        Self(moves)
    }

    fn any(&self) -> bool {
        self.0.iter().flatten().any(|count| *count > 0)
    }

    fn count(&self, from: State, to: State) -> u64 {
        self.0[from.index()][to.index()]
    }

    fn into(&self, state: State) -> u64 {
        State::ALL
            .into_iter()
            .map(|from| self.count(from, state))
            .sum()
    }

    fn out_of(&self, state: State) -> u64 {
        let all: u64 = State::ALL.into_iter().map(|to| self.count(state, to)).sum();
        if state == State::Listen {
            // The birth of a child: the listener stays.
            all - self.count(State::Listen, State::SynRecv)
        } else {
            all
        }
    }

    /// The rule of this module.
    fn slack(&self, state: State, before: &Counts, after: &Counts) -> Slack {
        match state {
            State::FinWait2 => Slack::both(self.into(State::FinWait2)),
            State::TimeWait => {
                let left_finwait2 = (before[State::FinWait2] + self.into(State::FinWait2))
                    .saturating_sub(after[State::FinWait2]);
                Slack::both(
                    left_finwait2
                        + self.count(State::Closing, State::Closed)
                        + self.count(State::LastAck, State::Closed),
                )
            }
            State::SynRecv => Slack::both(self.into(state) + self.out_of(state)),
            State::Closed => Slack::both(self.into(state)),
            _ => Slack {
                came: self.into(state),
                left: self.out_of(state),
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
            transitions: Transitions::from_flows(&flows),
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
        let compared = Comparison::new(&reading(before, &[]), &listing, &reading(after, flows));
        compared.ipv4[state.index()].verdict
    }

    #[test]
    fn at_rest_only_the_same_number_is_equal() {
        let tracker = [(State::Established, 5), (State::TimeWait, 2)];
        let reading = reading(&tracker, &[(State::SynSent, State::Established, 9)]);
        let same = Comparison::new(&reading, &(counts(&tracker), Counts::default()), &reading);
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
            let compared = Comparison::new(&reading, &(listing, Counts::default()), &reading);
            assert!(!compared.equal && !compared.moving, "{state} {kernel}");
        }
    }

    #[test]
    fn families_do_not_make_up_for_each_other() {
        let reading = reading(&[(State::Listen, 1)], &[]);
        let listing = (Counts::default(), counts(&[(State::Listen, 1)]));
        let compared = Comparison::new(&reading, &listing, &reading);
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
}
