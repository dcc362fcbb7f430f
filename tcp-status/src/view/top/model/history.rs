//! The readings before the last: what sparklines show, and what happened per second between two.

use std::{collections::VecDeque, time::Instant};

use tcp_status_common::state::State;

use crate::snapshot::{Counts, Overflows, Snapshot, Transitions};

/// How many readings are kept: more than the widest terminal shows.
const KEPT: usize = 512;

/// What happened per second, from one reading to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PerSecond {
    /// Connections begun by this side.
    pub active_open: f64,
    /// Connections accepted by a listener.
    pub passive_open: f64,
    /// Connections begun that came to nothing.
    pub failed_open: f64,
    /// Connections that this side closed first.
    pub active_close: f64,
    /// Connections that the peer closed first.
    pub passive_close: f64,
    /// Connections that ended at once.
    pub aborted: f64,
    /// Handshakes that found a full accept queue.
    pub overflows: f64,
    /// What listeners dropped in all.
    pub drops: f64,
    /// SYN-ACKs with a cookie; none where the kernel does not count them.
    pub syncookies: Option<f64>,
}

/// Counters that only grow, and when they were read.
#[derive(Clone, Debug)]
struct Counters {
    at: Instant,
    of: Transitions,
    overflows: Overflows,
    syncookies: Option<u64>,
}

/// Readings of one namespace.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The newest first.
    gauges: VecDeque<Counts>,
    last: Option<Counters>,
    rates: Option<PerSecond>,
}

impl History {
    pub(super) fn add(&mut self, reading: &Snapshot, at: Instant) {
        self.gauges.push_front(reading.states);
        self.gauges.truncate(KEPT);
        let now = reading.transitions.as_ref().map(|transitions| Counters {
            at,
            of: Transitions {
                flows: Vec::new(),
                ..*transitions
            },
            overflows: reading.overflows.unwrap_or_default(),
            syncookies: reading.syncookies.map(|of| of.sent),
        });
        self.rates = match (&self.last, &now) {
            (Some(before), Some(now)) => between(before, now),
            _ => None,
        };
        self.last = now;
    }

    /// What happened between the last two readings; none where nobody counts, or the tracker was
    /// started anew.
    #[must_use]
    pub const fn rates(&self) -> Option<&PerSecond> {
        self.rates.as_ref()
    }

    /// A gauge over time, the newest first.
    pub fn of(&self, state: State) -> impl Iterator<Item = u64> + '_ {
        self.gauges.iter().map(move |counts| counts[state])
    }

    /// How many readings there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.gauges.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gauges.is_empty()
    }
}

fn between(before: &Counters, now: &Counters) -> Option<PerSecond> {
    let seconds = now.at.checked_duration_since(before.at)?.as_secs_f64();
    let rate = |before: u64, now: u64| {
        #[expect(clippy::cast_precision_loss, reason = "shown with three digits or so")]
        let growth = now.checked_sub(before)? as f64;
        (seconds > 0.0).then_some(growth / seconds)
    };
    Some(PerSecond {
        active_open: rate(before.of.active_open, now.of.active_open)?,
        passive_open: rate(before.of.passive_open, now.of.passive_open)?,
        failed_open: rate(before.of.failed_open, now.of.failed_open)?,
        active_close: rate(before.of.active_close, now.of.active_close)?,
        passive_close: rate(before.of.passive_close, now.of.passive_close)?,
        aborted: rate(before.of.aborted, now.of.aborted)?,
        overflows: rate(
            before.overflows.listen_overflows,
            now.overflows.listen_overflows,
        )?,
        drops: rate(before.overflows.listen_drops, now.overflows.listen_drops)?,
        syncookies: (before.syncookies.zip(now.syncookies))
            .and_then(|(before, now)| rate(before, now)),
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tcp_status_common::state::State;

    use super::{History, KEPT};
    use crate::snapshot::Transitions;
    use crate::view::top::fixtures::{OWN, reading};

    #[test]
    fn rates_are_what_grew_over_the_time_it_took() {
        let start = Instant::now();
        let mut history = History::default();
        let (mut first, mut second) = (reading(OWN, 0), reading(OWN, 0));
        let opened = |passive_open| {
            Some(Transitions {
                passive_open,
                ..Transitions::default()
            })
        };
        first.transitions = opened(100);
        second.transitions = opened(700);
        second.overflows.as_mut().unwrap().listen_drops += 4;
        history.add(&first, start);
        assert_eq!(history.rates(), None);
        history.add(&second, start + Duration::from_secs(2));
        let rates = history.rates().unwrap();
        assert_eq!((rates.passive_open, rates.drops), (300.0, 2.0));
        // A tracker that was started anew counts from zero.
        history.add(&first, start + Duration::from_secs(3));
        assert_eq!(history.rates(), None);
        // No time has passed.
        history.add(&first, start + Duration::from_secs(3));
        assert_eq!(history.rates(), None);
        // Nobody counts.
        first.transitions = None;
        history.add(&first, start + Duration::from_secs(4));
        assert_eq!(history.rates(), None);
    }

    #[test]
    fn the_newest_is_first_and_the_oldest_goes() {
        let start = Instant::now();
        let mut history = History::default();
        for i in 0..KEPT as u64 + 10 {
            let mut one = reading(OWN, 0);
            one.states[State::SynRecv] = i;
            history.add(&one, start);
        }
        assert_eq!(history.len(), KEPT);
        let newest: Vec<_> = history.of(State::SynRecv).take(2).collect();
        assert_eq!(newest, [KEPT as u64 + 9, KEPT as u64 + 8]);
    }
}
