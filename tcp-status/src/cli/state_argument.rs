//! A state on the command line, or all of them.

use tcp_status_common::state::State;

/// States of `get`: one, or all eleven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateArgument {
    /// One.
    One(State),
    /// All, in the order of [`State::ALL`].
    All,
}

impl StateArgument {
    /// The states that it stands for.
    #[must_use]
    pub fn states(self) -> Vec<State> {
        match self {
            Self::One(state) => vec![state],
            Self::All => State::ALL.to_vec(),
        }
    }
}
