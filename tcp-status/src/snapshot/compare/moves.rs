//! What may differ while connections come and go.
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
//!
//! In the reduced tier the split of minisockets, by substate and by family, is as old as the last
//! look at it; there, moves since an earlier reading count as well (see `unrefreshed`).

use tcp_status_common::state::State;

use crate::snapshot::{Counts, Snapshot};

/// How many sockets came into a state and left it, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slack {
    came: u64,
    left: u64,
}

impl Slack {
    pub(super) const fn both(moves: u64) -> Self {
        Self {
            came: moves,
            left: moves,
        }
    }

    /// The wider one, either way.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            came: self.came.max(other.came),
            left: self.left.max(other.left),
        }
    }

    /// By how much these readings can be off, the least and the greatest, where the listing between
    /// them has `kernel`.
    pub(super) fn differences(self, before: u64, kernel: u64, after: u64) -> [i64; 2] {
        let low = before
            .saturating_sub(self.left)
            .min(after.saturating_sub(self.came));
        let high = before
            .saturating_add(self.came)
            .max(after.saturating_add(self.left));
        [low, high].map(|bound| bound.cast_signed().saturating_sub(kernel.cast_signed()))
    }
}

/// State changes between two readings, of both families.
pub(super) struct Moves([[u64; State::COUNT]; State::COUNT]);

impl Moves {
    pub(super) fn between(before: &Snapshot, after: &Snapshot) -> Self {
        let mut moves = [[0_u64; State::COUNT]; State::COUNT];
        let mut each = |reading: &Snapshot, apply: fn(&mut u64, u64)| {
            let flows = reading.transitions.iter().flat_map(|of| &of.flows);
            for (from, to, count) in flows {
                if let (Ok(from), Ok(to)) = (from.parse::<State>(), to.parse::<State>()) {
                    apply(&mut moves[from.index()][to.index()], *count);
                }
            }
        };
        each(after, |sum, count| {
            *sum = sum.saturating_add(count);
        });
        each(before, |sum, count| {
            *sum = sum.saturating_sub(count);
        });
        Self(moves)
    }

    pub(super) fn any(&self) -> bool {
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

    /// How many can have become minisockets: they come from these states only.
    pub(super) fn minisockets(&self) -> u64 {
        self.into(State::FinWait2)
            + self.count(State::Closing, State::Closed)
            + self.count(State::LastAck, State::Closed)
    }

    /// The rule of this module.
    pub(super) fn slack(&self, state: State, before: &Counts, after: &Counts) -> Slack {
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
