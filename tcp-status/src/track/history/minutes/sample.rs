//! One sample of the gauges and accept queues of a namespace.

use tcp_status_common::state::State;

use crate::{
    snapshot::{Counts, Listener, Totals},
    track::history::seconds::GaugeRange,
};

/// The states, and after them the sum of the accept queues.
pub(super) const GAUGES: usize = State::COUNT + 1;
pub(super) const QUEUED: usize = State::COUNT;

/// An accept queue, as it was fullest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) length: u32,
    pub(super) limit: u32,
    pub(super) port: u16,
    /// Milliseconds since the minute began.
    pub(super) at: u16,
}

impl Queue {
    /// Whether it is fuller than another one, in relation to the limit. The kernel admits one more than that.
    pub(super) fn is_fuller(&self, other: &Self) -> bool {
        let share = |length: u32, limit: u32| u64::from(length) * (u64::from(limit) + 1);
        share(self.length, other.limit) > share(other.length, self.limit)
    }
}

/// One sample.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The counts.
    pub counts: Counts,
    /// Their bounds.
    pub range: GaugeRange,
    /// State changes since start.
    pub totals: Totals,
    /// Whether a count may be off.
    pub degraded: bool,
    queued: u64,
    pub(super) fullest: Queue,
}

impl Sample {
    /// Of these counts, bounds and totals, and the accept queues of these listeners.
    #[must_use]
    pub fn new(counts: Counts, range: GaugeRange, totals: Totals, listeners: &[Listener]) -> Self {
        let mut fullest = Queue::default();
        for listener in listeners {
            let queue = Queue {
                length: listener.accept_queue,
                limit: listener.accept_queue_limit,
                port: listener.port,
                at: 0,
            };
            if queue.is_fuller(&fullest) {
                fullest = queue;
            }
        }
        let queued = listeners.iter().map(|one| u64::from(one.accept_queue));
        Self {
            counts,
            range,
            totals,
            degraded: false,
            queued: queued.sum(),
            fullest,
        }
    }

    /// Value, lower and upper bound of each gauge.
    pub(super) fn gauges(&self) -> [(f64, f64, f64); GAUGES] {
        #[expect(clippy::cast_precision_loss, reason = "no host has 2^53 sockets")]
        let number = |value: u64| value as f64;
        let mut all = [(
            number(self.queued),
            number(self.queued),
            number(self.queued),
        ); GAUGES];
        for state in State::ALL {
            let (least, most) = (self.range.least[state], self.range.most[state]);
            all[state.index()] = (number(self.counts[state]), number(least), number(most));
        }
        all
    }
}
