//! The tracker's readings against the kernel's listing: by how much each count can be off. Pure:
//! reads nothing itself.
//!
//! A listing between two readings leaves a range of differences that the moves in between allow (the
//! rule is in `moves`). A lasting difference is in the range of every comparison, so that each
//! narrows what is left: equal is only what can differ by nothing but 0.

mod moves;

use std::collections::BTreeSet;

use serde::Serialize;
use tcp_status_common::state::State;

use super::{Counts, Ports, SCHEMA, Snapshot, Tier};
use crate::kernel::procfs::PortListing;
use moves::{Moves, Slack};

/// How the kernel's number of a state relates to the tracker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Match {
    /// It cannot differ.
    Equal,
    /// It may differ as far as minisockets changed since the last walk that split them, which the
    /// reduced tier may leave at that; their sum is equal.
    Unrefreshed,
    /// It may be equal or differ: too much moved in between.
    Undecided,
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
    /// By how much the tracker can have been off in all comparisons: the least and the greatest.
    pub possible: [i64; 2],
    /// How they relate.
    pub verdict: Match,
    /// Comparisons that [`Row::possible`] is of.
    #[serde(skip)]
    comparisons: u32,
    /// The split of minisockets may be as old as the last walk.
    #[serde(skip)]
    unrefreshed: bool,
}

impl Row {
    /// This row after an `earlier` one: a difference that lasts is possible in both. Where none is,
    /// something was corrected or moved unseen, and the earlier one says nothing.
    fn after(mut self, earlier: &Self) -> Self {
        let [low, high] = [0, 1].map(|i| (self.possible[i], earlier.possible[i]));
        let (low, high) = (low.0.max(low.1), high.0.min(high.1));
        if low <= high {
            self.possible = [low, high];
            self.comparisons += earlier.comparisons;
        }
        self.judged()
    }

    fn judged(mut self) -> Self {
        let [low, high] = self.possible;
        self.verdict = match (low, high) {
            (0, 0) => Match::Equal,
            (..=0, 0..) if self.unrefreshed => Match::Unrefreshed,
            (..=0, 0..) => Match::Undecided,
            _ => Match::Differs,
        };
        self
    }

    /// A difference that few comparisons show may be a move that no event tells of.
    fn settle(&mut self) {
        const PROOF: u32 = 3;
        if self.verdict == Match::Differs && self.comparisons < PROOF {
            self.verdict = Match::Undecided;
        }
    }

    fn is_equal(&self) -> bool {
        matches!(self.verdict, Match::Equal | Match::Unrefreshed)
    }
}

/// The states of one local port, both families together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortRows {
    /// Local port.
    pub port: u16,
    /// In the order of [`State::ALL`], without those that only a walk tells by port.
    pub states: Vec<Row>,
}

/// All states, of both families and of each, and of each port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Version of this form.
    pub schema: u32,
    /// Whether every number is equal.
    pub equal: bool,
    /// Whether a number differs for certain. If none does and not all are equal, it is undecided.
    pub differs: bool,
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
    /// The ports that the tracker keeps apart, as far as their last walk is done.
    pub ports: Vec<PortRows>,
    /// Ports without a listener, together, in the states of [`PortRows`]. Empty where they are not known:
    /// while ports get or lose a row.
    pub outgoing: Vec<Row>,
    /// Ports beyond the limit, together. Empty likewise, and where there are none.
    pub other: Vec<Row>,
    /// TIME_WAIT and FIN_WAIT2 together, which no walk has to split.
    #[serde(skip)]
    minisockets: Row,
}

impl Comparison {
    /// Compares a listing with the readings around it. `first` is a reading from as long before as
    /// the tracker may leave numbers unrefreshed, which only matters where it does.
    #[must_use]
    pub fn new(
        first: &Snapshot,
        before: &Snapshot,
        listing: &PortListing,
        after: &Snapshot,
    ) -> Self {
        let total = listing.all.total();
        let rule = Rule {
            moves: Moves::between(before, after),
            unrefreshed: unrefreshed(first, before, &total, after),
            split_by_walk: after.tier == Tier::Reduced,
        };
        let states = rule.rows(&before.states, &total, &after.states);
        let moving = rule.moves.any() || states.iter().any(|row| row.before != row.after);
        let (outgoing, other) = rule.together(before, listing, after);
        let mut compared = Self {
            schema: SCHEMA,
            equal: false,
            differs: false,
            moving,
            netns: after.netns,
            tier: after.tier,
            states,
            ipv4: rule.rows(&before.ipv4, &listing.all.ipv4, &after.ipv4),
            ipv6: rule.rows(&before.ipv6, &listing.all.ipv6, &after.ipv6),
            ports: rule.ports(before, listing, after),
            outgoing,
            other,
            minisockets: rule.minisockets(&before.states, &total, &after.states),
        };
        compared.conclude();
        compared
    }

    /// This comparison after an `earlier` one of the same tracker.
    #[must_use]
    pub fn after(mut self, earlier: &Self) -> Self {
        fn each(rows: &mut [Row], earlier: &[Row]) {
            for (row, earlier) in rows.iter_mut().zip(earlier) {
                *row = row.after(earlier);
            }
        }
        each(&mut self.states, &earlier.states);
        each(&mut self.ipv4, &earlier.ipv4);
        each(&mut self.ipv6, &earlier.ipv6);
        each(&mut self.outgoing, &earlier.outgoing);
        each(&mut self.other, &earlier.other);
        self.minisockets = self.minisockets.after(&earlier.minisockets);
        for of in &mut self.ports {
            let earlier = earlier.ports.iter().find(|port| port.port == of.port);
            if let Some(earlier) = earlier {
                each(&mut of.states, &earlier.states);
            }
        }
        self.moving |= earlier.moving;
        self.conclude();
        self
    }

    /// The last comparison: what it shows for certain.
    #[must_use]
    pub fn settled(mut self) -> Self {
        let ports = self.ports.iter_mut().flat_map(|port| &mut port.states);
        let together = self.outgoing.iter_mut().chain(&mut self.other);
        let states = self.states.iter_mut().chain(&mut self.ipv4);
        let states = states.chain(&mut self.ipv6);
        states.chain(ports).chain(together).for_each(Row::settle);
        self.minisockets.settle();
        self.conclude();
        self
    }

    /// Every row but that of minisockets.
    fn rows(&self) -> impl Iterator<Item = &Row> {
        let ports = self.ports.iter().flat_map(|port| &port.states);
        let states = self.states.iter().chain(&self.ipv4).chain(&self.ipv6);
        states.chain(ports).chain(&self.outgoing).chain(&self.other)
    }

    fn conclude(&mut self) {
        let all = || self.rows().chain([&self.minisockets]);
        let equal = all().all(Row::is_equal);
        let differs = all().any(|row| row.verdict == Match::Differs);
        (self.equal, self.differs) = (equal, differs);
    }

    /// Whether every number is equal without an explanation.
    #[must_use]
    pub fn exact(&self) -> bool {
        self.equal && self.rows().all(|row| row.verdict == Match::Equal)
    }
}

/// How far the split of minisockets by substate and family may be off: in the tier that looks at
/// it only now and then, and only while their sum, which is never old, is right.
fn unrefreshed(first: &Snapshot, before: &Snapshot, total: &Counts, after: &Snapshot) -> Slack {
    let sum = |counts: &Counts| counts[State::TimeWait] + counts[State::FinWait2];
    let came = Moves::between(before, after).minisockets();
    let [low, high] =
        Slack::both(came).differences(sum(&before.states), sum(total), sum(&after.states));
    let right = (low..=high).contains(&0);
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
    split_by_walk: bool,
}

impl Rule {
    fn rows(&self, before: &Counts, kernel: &Counts, after: &Counts) -> Vec<Row> {
        let row = |state| self.row(state, before, kernel, after);
        State::ALL.map(row).to_vec()
    }

    /// Ports that both readings keep apart, and that no audit has to walk for first.
    fn ports(&self, before: &Snapshot, listing: &PortListing, after: &Snapshot) -> Vec<PortRows> {
        let mut ports = Vec::new();
        for of in &after.ports.tracked {
            let earlier = before.ports.tracked.iter().find(|row| row.port == of.port);
            if let Some(earlier) = earlier
                && !before.ports.unaudited.contains(&of.port)
                && !after.ports.unaudited.contains(&of.port)
            {
                let kernel = listing.ports.get(&of.port).copied().unwrap_or_default();
                ports.push(PortRows {
                    port: of.port,
                    states: self.port_rows(&earlier.states, &kernel.total(), &of.states),
                });
            }
        }
        ports
    }

    /// Ports without a row, those without a listener and those beyond the limit, if both readings have rows
    /// for the same ports, and no audit has to walk for one first.
    fn together(
        &self,
        before: &Snapshot,
        listing: &PortListing,
        after: &Snapshot,
    ) -> (Vec<Row>, Vec<Row>) {
        let [before, after] = [&before.ports, &after.ports];
        let with_row =
            |ports: &Ports| -> BTreeSet<u16> { ports.tracked.iter().map(|row| row.port).collect() };
        let beyond =
            |ports: &Ports| -> BTreeSet<u16> { ports.other_ports.iter().copied().collect() };
        let (tracked, others) = (with_row(after), beyond(after));
        let known = with_row(before) == tracked
            && beyond(before) == others
            && before.unaudited.is_empty()
            && after.unaudited.is_empty();
        let (mut outgoing, mut other) = (Counts::default(), Counts::default());
        for (port, counts) in &listing.ports {
            if others.contains(port) {
                other += &counts.total();
            } else if !tracked.contains(port) {
                outgoing += &counts.total();
            }
        }
        let rows = |before: Option<Counts>, kernel, after: Option<Counts>| {
            let both = before.zip(after).filter(|_| known);
            both.map_or_else(Vec::new, |(before, after)| {
                self.port_rows(&before, kernel, &after)
            })
        };
        (
            rows(before.outgoing, &outgoing, after.outgoing),
            rows(before.other, &other, after.other),
        )
    }

    /// Of minisockets by port, the kernel counts no sum: what is as of the last walk is left out.
    fn port_rows(&self, before: &Counts, kernel: &Counts, after: &Counts) -> Vec<Row> {
        let mut rows = self.rows(before, kernel, after);
        rows.retain(|row| !row.unrefreshed);
        rows
    }

    fn row(&self, state: State, before: &Counts, kernel: &Counts, after: &Counts) -> Row {
        let mut slack = self.moves.slack(state, before, after);
        let split = matches!(state, State::TimeWait | State::FinWait2);
        if split {
            slack = slack.max(self.unrefreshed);
        }
        let unrefreshed = split && self.split_by_walk;
        row(
            state.name(),
            slack,
            [before[state], kernel[state], after[state]],
            unrefreshed,
        )
    }

    fn minisockets(&self, before: &Counts, kernel: &Counts, after: &Counts) -> Row {
        let sum = |counts: &Counts| counts[State::TimeWait] + counts[State::FinWait2];
        let slack = Slack::both(self.moves.minisockets());
        let numbers = [sum(before), sum(kernel), sum(after)];
        row("timewait and finwait2", slack, numbers, false)
    }
}

fn row(
    state: &'static str,
    slack: Slack,
    [before, kernel, after]: [u64; 3],
    unrefreshed: bool,
) -> Row {
    let tracker = if kernel.abs_diff(before) < kernel.abs_diff(after) {
        before
    } else {
        after
    };
    Row {
        state,
        kernel,
        tracker,
        difference: tracker.cast_signed() - kernel.cast_signed(),
        before,
        after,
        possible: slack.differences(before, kernel, after),
        verdict: Match::Undecided,
        comparisons: 1,
        unrefreshed,
    }
    .judged()
}

#[cfg(test)]
mod tests;
