//! State changes since start, as flows and as named sums.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use tcp_status_common::state::State;

/// The number of transitions from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The old state; `closed` for a new socket.
    pub from: State,
    /// The new state; `closed` for a socket that ended.
    pub to: State,
    /// Transitions since start.
    pub count: u64,
}

/// State changes since start. The named sums are made from the flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transitions {
    /// Active opens: CLOSE to SYN_SENT.
    pub active_open: u64,
    /// Passive opens: LISTEN to SYN_RECV, of the child.
    pub passive_open: u64,
    /// Failed opens: SYN_SENT or SYN_RECV to CLOSE.
    pub failed_open: u64,
    /// Connections that this side closed first: ESTABLISHED to FIN_WAIT1.
    pub active_close: u64,
    /// Connections that the peer closed first: ESTABLISHED to CLOSE_WAIT.
    pub passive_close: u64,
    /// Connections ended by RST, timeout or abort: ESTABLISHED or CLOSE_WAIT to CLOSE.
    pub aborted: u64,
    /// Every flow that occurred, as `[from, to, count]`.
    pub flows: Vec<(Cow<'static, str>, Cow<'static, str>, u64)>,
}

impl Transitions {
    /// Sums up what was counted.
    #[must_use]
    pub fn from_flows(flows: &[Flow]) -> Self {
        use State::{CloseWait, Closed, Established, FinWait1, Listen, SynRecv, SynSent};
        let sum = |pairs: &[(State, State)]| {
            flows
                .iter()
                .filter(|flow| pairs.contains(&(flow.from, flow.to)))
                .map(|flow| flow.count)
                .sum()
        };
        Self {
            active_open: sum(&[(Closed, SynSent)]),
            passive_open: sum(&[(Listen, SynRecv)]),
            failed_open: sum(&[(SynSent, Closed), (SynRecv, Closed)]),
            active_close: sum(&[(Established, FinWait1)]),
            passive_close: sum(&[(Established, CloseWait)]),
            aborted: sum(&[(Established, Closed), (CloseWait, Closed)]),
            flows: flows
                .iter()
                .filter(|flow| flow.count > 0)
                .map(|flow| (flow.from.name().into(), flow.to.name().into(), flow.count))
                .collect(),
        }
    }

    /// The sums, and `events` of any kind.
    #[must_use]
    pub const fn totals(&self, events: u64) -> Totals {
        [
            self.active_open,
            self.passive_open,
            self.failed_open,
            self.active_close,
            self.passive_close,
            self.aborted,
            events,
        ]
    }
}

/// The totals behind the members of [`super::Rates`], in that order.
pub type Totals = [u64; 7];

#[cfg(test)]
mod tests {
    use super::{Flow, State, Transitions};

    #[test]
    fn sums_follow_the_flows() {
        let flow = |from, to, count| Flow { from, to, count };
        let sums = Transitions::from_flows(&[
            flow(State::Closed, State::SynSent, 5),
            flow(State::Listen, State::SynRecv, 4),
            flow(State::SynSent, State::Closed, 1),
            flow(State::Established, State::Closed, 2),
            flow(State::CloseWait, State::Closed, 3),
            flow(State::Closing, State::Closed, 0),
        ]);
        assert_eq!(
            (sums.active_open, sums.passive_open, sums.failed_open),
            (5, 4, 1)
        );
        assert_eq!((sums.active_close, sums.aborted), (0, 5));
        assert_eq!(sums.flows.len(), 5);
    }
}
