//! State changes since start: as they were counted, and as operators ask for them.

use serde::{Deserialize, Serialize};
use tcp_status_common::state::State;

/// How often one state followed another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The state left; `closed` for a socket that was in no state.
    pub from: State,
    /// The state entered; `closed` for a socket that is in no state any more.
    pub to: State,
    /// How often, since start.
    pub count: u64,
}

/// State changes since start. The named sums are made from the flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transitions {
    /// Connections begun by this side: CLOSE to SYN_SENT.
    pub active_open: u64,
    /// Connections accepted by a listener: LISTEN to SYN_RECV, of the child.
    pub passive_open: u64,
    /// Connections begun here that came to nothing: SYN_SENT or SYN_RECV to CLOSE.
    pub failed_open: u64,
    /// Connections that this side closed first: ESTABLISHED to FIN_WAIT1.
    pub active_close: u64,
    /// Connections that the peer closed first: ESTABLISHED to CLOSE_WAIT.
    pub passive_close: u64,
    /// Connections that ended at once, by RST, time-out or abort: ESTABLISHED or CLOSE_WAIT to CLOSE.
    pub aborted: u64,
    /// Every flow that occurred, as `[from, to, count]`.
    pub flows: Vec<(String, String, u64)>,
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
}

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
