//! Computes gauges from the counters of one bank. Pure.

use std::ops::{Add, Neg, Sub};

use tcp_status_common::state::{Family, MINI_FIN_WAIT2, State};

use crate::{
    bpf::{BankSum, PortSum},
    kernel::{procfs::Listing, sock_diag::MiniSplit},
    snapshot::Flow,
};

/// Sockets by family and kernel state number: full sockets, and minisockets in the cells `TimeWait` and
/// [`MINI_FIN_WAIT2`] where events follow them. Negative only after lost events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges(pub [[i64; 12]; Family::COUNT]);

const CLOSE: usize = State::Closed as usize;
const LISTEN: usize = State::Listen as usize;
const SYN_RECV: usize = State::SynRecv as usize;

/// The cells of minisockets: in TIME_WAIT, and in FIN_WAIT2.
const MINISOCKETS: [usize; 2] = [State::TimeWait as usize, MINI_FIN_WAIT2 as usize];

/// The cells whose sockets the kernel lists in `state`.
fn cells(state: State) -> impl Iterator<Item = usize> {
    let minisockets = (state == State::FinWait2).then_some(usize::from(MINI_FIN_WAIT2));
    minisockets.into_iter().chain([usize::from(state.number())])
}

impl Gauges {
    /// Seeded sockets, plus transitions into each state, minus transitions out of it.
    #[must_use]
    pub fn of(bank: &BankSum) -> Self {
        Self::from_flows(bank, bank)
    }

    /// As [`Gauges::of`], with transitions into states from `came` and out of them from `went`.
    fn from_flows(came: &BankSum, went: &BankSum) -> Self {
        let mut gauges = came.seeded;
        for (family, gauge) in gauges.iter_mut().enumerate() {
            for from in 0..gauge.len() {
                for to in 0..gauge.len() {
                    // A child socket is created; the listener stays.
                    let birth = from == CLOSE || (from == LISTEN && to == SYN_RECV);
                    if !birth {
                        gauge[from] -= went.flows[family][from][to].cast_signed();
                    }
                    if to != CLOSE {
                        gauge[to] += came.flows[family][from][to].cast_signed();
                    }
                }
            }
        }
        Self(gauges)
    }

    /// Full sockets of a listing: all but minisockets and request sockets.
    #[must_use]
    pub fn full_sockets(listing: &Listing, aux: &MiniSplit) -> Self {
        let mut gauges = Self::default();
        for family in Family::ALL {
            let i = family.index();
            for (state, listed) in listing.of(family).iter() {
                let others = match state {
                    State::TimeWait => aux.timewait[i],
                    State::FinWait2 => aux.finwait2[i],
                    State::SynRecv => aux.requests[i],
                    _ => 0,
                };
                let full = listed.saturating_sub(others);
                gauges.0[i][usize::from(state.number())] = full.cast_signed();
            }
        }
        // Minisockets that came between the two walks.
        for family in &mut gauges.0 {
            family[usize::from(State::TimeWait.number())] = 0;
        }
        gauges
    }

    /// Minisockets, in their cells.
    #[must_use]
    pub fn minisockets_of(split: &MiniSplit) -> Self {
        let mut gauges = Self::default();
        let [timewait, finwait2] = MINISOCKETS;
        for (family, cells) in gauges.0.iter_mut().enumerate() {
            cells[timewait] = split.timewait[family].cast_signed();
            cells[finwait2] = split.finwait2[family].cast_signed();
        }
        gauges
    }

    /// One gauge; zero if negative.
    #[must_use]
    pub fn get(&self, family: Family, state: State) -> u64 {
        self.0[family.index()][usize::from(state.number())]
            .max(0)
            .cast_unsigned()
    }

    /// The sum of the gauges of both families.
    #[must_use]
    pub fn sum(&self, states: &[State]) -> i64 {
        let cells = states.iter().map(|state| usize::from(state.number()));
        cells.map(|cell| self.0[0][cell] + self.0[1][cell]).sum()
    }

    /// All full sockets of one family.
    #[must_use]
    pub fn full(&self, family: Family) -> i64 {
        let all: i64 = self.0[family.index()].iter().sum();
        let [timewait, finwait2] = MINISOCKETS.map(|cell| self.0[family.index()][cell]);
        all - timewait - finwait2
    }

    /// All minisockets, in TIME_WAIT and in FIN_WAIT2, each by family.
    #[must_use]
    pub fn minisockets(&self) -> [[u64; Family::COUNT]; 2] {
        MINISOCKETS.map(|cell| [0, 1].map(|family| self.0[family][cell].max(0).cast_unsigned()))
    }

    /// Full sockets alone.
    #[must_use]
    pub fn without_minisockets(mut self) -> Self {
        for family in &mut self.0 {
            for cell in MINISOCKETS {
                family[cell] = 0;
            }
        }
        self
    }

    /// The first state with a negative gauge: events were lost, or counted during the reading. See [`Bounds`].
    #[must_use]
    pub fn negative(&self) -> Option<State> {
        State::ALL
            .into_iter()
            .find(|&state| cells(state).any(|cell| self.0.iter().any(|family| family[cell] < 0)))
    }

    /// The distance to `other` by state, both families added.
    #[must_use]
    pub fn distance(&self, other: &Self) -> [u64; State::COUNT] {
        State::ALL.map(|state| {
            let families = || self.0.iter().zip(&other.0);
            cells(state)
                .flat_map(|cell| families().map(move |(a, b)| a[cell].abs_diff(b[cell])))
                .sum()
        })
    }
}

/// Bounds of the gauges at a moment between two readings of one bank.
///
/// A reading adds up CPUs one after the other while they count on, so it may contain a transition without an
/// earlier one on another CPU. Counters only grow: the later reading contains all transitions up to that
/// moment, the earlier one none after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// At least.
    pub least: Gauges,
    /// At most. Below zero only where events were lost.
    pub most: Gauges,
}

impl Bounds {
    /// From two readings of one bank; `base` is added to both.
    #[must_use]
    pub fn new(earlier: &BankSum, later: &BankSum, base: Gauges) -> Self {
        Self {
            least: Gauges::from_flows(earlier, later) + base,
            most: Gauges::from_flows(later, earlier) + base,
        }
    }
}

impl Add for Gauges {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(
            [0, 1].map(|family| {
                std::array::from_fn(|cell| self.0[family][cell] + other.0[family][cell])
            }),
        )
    }
}

impl Neg for Gauges {
    type Output = Self;

    fn neg(self) -> Self {
        Self(self.0.map(|family| family.map(|count| -count)))
    }
}

impl Sub for Gauges {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl From<PortSum> for Gauges {
    fn from(sum: PortSum) -> Self {
        Self(sum)
    }
}

/// Transitions of full sockets that a bank has counted.
#[must_use]
pub fn events(bank: &BankSum) -> u64 {
    let full = |cell: &usize| !MINISOCKETS.contains(cell);
    let cells = || (0..bank.flows[0].len()).filter(full);
    bank.flows
        .iter()
        .flat_map(|family| cells().flat_map(move |from| cells().map(move |to| family[from][to])))
        .sum()
}

/// All transitions of a bank, both families together.
#[must_use]
pub fn flows(bank: &BankSum) -> Vec<Flow> {
    let pairs = State::ALL
        .into_iter()
        .flat_map(|from| State::ALL.into_iter().map(move |to| (from, to)));
    pairs
        .map(|(from, to)| {
            let (row, column) = (usize::from(from.number()), usize::from(to.number()));
            let count = bank.flows.iter().map(|family| family[row][column]).sum();
            Flow { from, to, count }
        })
        .filter(|flow| flow.count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{BankSum, Bounds, Family, Gauges, MINI_FIN_WAIT2, State, flows};

    #[test]
    fn minisockets_are_beside_full_sockets() {
        let mut bank = BankSum::default();
        let (mini, timewait) = (usize::from(MINI_FIN_WAIT2), 6);
        bank.flows[1][7][mini] = 5;
        bank.flows[1][mini][timewait] = 3;
        bank.flows[1][timewait][7] = 1;
        bank.seeded[0][mini] = 4;
        let gauges = Gauges::of(&bank);
        assert_eq!(gauges.minisockets(), [[0, 2], [4, 2]]);
        assert_eq!((gauges.full(Family::V4), gauges.full(Family::V6)), (0, 0));
        assert_eq!(gauges.negative(), None);
        let distance = gauges.distance(&Gauges::default());
        assert_eq!(distance[State::FinWait2.index()], 6);
        assert_eq!(distance[State::TimeWait.index()], 2);
    }

    fn bank(events: &[(State, State, u64)]) -> BankSum {
        let mut bank = BankSum::default();
        for &(from, to, count) in events {
            bank.flows[0][usize::from(from.number())][usize::from(to.number())] += count;
        }
        bank
    }

    #[test]
    fn a_connection_leaves_nothing_behind() {
        use State::{
            CloseWait, Closed, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
        };
        let both_ends = [
            (Closed, Listen, 1),
            (Closed, SynSent, 1),
            (Listen, SynRecv, 1),
            (SynRecv, Established, 1),
            (SynSent, Established, 1),
            (Established, FinWait1, 1),
            (FinWait1, FinWait2, 1),
            (FinWait2, Closed, 1),
            (Established, CloseWait, 1),
            (CloseWait, LastAck, 1),
            (LastAck, Closed, 1),
        ];
        let gauges = Gauges::of(&bank(&both_ends));
        for state in State::ALL {
            let expected = u64::from(state == Listen);
            assert_eq!(gauges.get(Family::V4, state), expected, "{state}");
            assert_eq!(gauges.get(Family::V6, state), 0, "{state}");
        }
        assert_eq!(gauges.negative(), None);
        assert_eq!(flows(&bank(&both_ends)).len(), both_ends.len());
    }

    /// A reading without the CPU on which a socket came into a state that it left on another CPU.
    #[test]
    fn a_reading_that_does_not_add_up_is_told_from_a_lost_event() {
        let (in_, out) = (
            (State::Established, State::FinWait1, 1),
            (State::FinWait1, State::FinWait2, 1),
        );
        let opened = (State::SynSent, State::Established, 1);
        let sent = (State::Closed, State::SynSent, 1);
        let torn = bank(&[sent, opened, out]);
        let whole = bank(&[sent, opened, in_, out]);
        assert_eq!(Gauges::of(&torn).negative(), Some(State::FinWait1));
        let bounds = Bounds::new(&torn, &whole, Gauges::default());
        assert_eq!(bounds.most.negative(), None);
        assert_eq!(bounds.least.get(Family::V4, State::FinWait2), 1);
        let bounds = Bounds::new(&torn, &torn, Gauges::default());
        assert_eq!(bounds.most.negative(), Some(State::FinWait1));
        assert_eq!(bounds.least, bounds.most);
    }

    #[test]
    fn a_simultaneous_open_is_no_birth() {
        let gauges = Gauges::of(&bank(&[
            (State::Closed, State::SynSent, 3),
            (State::SynSent, State::SynRecv, 2),
        ]));
        assert_eq!(gauges.get(Family::V4, State::SynSent), 1);
        assert_eq!(gauges.get(Family::V4, State::SynRecv), 2);
    }

    #[test]
    fn a_lost_event_shows_below_zero() {
        let gauges = Gauges::of(&bank(&[(State::Established, State::Closed, 1)]));
        assert_eq!(gauges.negative(), Some(State::Established));
        assert_eq!(gauges.get(Family::V4, State::Established), 0);
        assert_eq!(gauges.sum(&[State::Established, State::CloseWait]), -1);
    }

    #[test]
    fn seeds_and_distances_add_up() {
        let mut seeded = BankSum::default();
        seeded.seeded[1][1] = 5;
        let gauges = Gauges::of(&seeded);
        assert_eq!(gauges.get(Family::V6, State::Established), 5);
        assert_eq!(gauges.full(Family::V6), 5);
        let distance = gauges.distance(&Gauges::default());
        assert_eq!(distance[State::Established.index()], 5);
        assert_eq!(distance.iter().sum::<u64>(), 5);
        assert_eq!((gauges + gauges).full(Family::V6), 10);
        assert_eq!(gauges - gauges, Gauges::default());
    }
}
