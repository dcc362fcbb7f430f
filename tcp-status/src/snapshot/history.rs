//! Peaks, rates and stale connections: what happened between two polls.

use serde::{Deserialize, Serialize};

use super::Counts;

/// The default window of [`Peaks`] and [`Rates`], in seconds.
pub const DEFAULT_WINDOW: u32 = 60;

/// The longest window, in seconds.
pub const MAX_WINDOW: u32 = 86_400;

/// The longest window that is kept by seconds; a longer one has whole minutes.
pub const FINE_WINDOW: u32 = 600;

/// Extremes of every gauge, sampled inside the tracker; the counts beside them are among the samples. In the
/// reduced tier, earlier ones of FIN_WAIT2 and TIME_WAIT are bounds: their split is unknown between two walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peaks {
    /// Time covered: the requested window, or the time since start.
    pub window_seconds: u32,
    /// Time between samples; shorter spikes may be missed.
    pub sample_milliseconds: u32,
    /// The smallest sample of each state.
    pub min: Counts,
    /// The largest sample of each state.
    pub max: Counts,
    /// Seconds since each largest sample was last reached.
    #[serde(default)]
    pub max_seconds_ago: Counts,
}

impl Peaks {
    /// Adds the counts of this moment.
    pub(crate) fn include(&mut self, counts: &Counts) {
        for (state, count) in counts.iter() {
            self.min[state] = self.min[state].min(count);
            if count > self.max[state] {
                self.max[state] = count;
                self.max_seconds_ago[state] = 0;
            }
        }
    }
}

/// Averages per second over a window, with the names of [`super::Transitions`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// The window, in seconds.
    pub window_seconds: f64,
    /// Active opens.
    pub active_open: f64,
    /// Passive opens.
    pub passive_open: f64,
    /// Failed opens.
    pub failed_open: f64,
    /// Connections that this side closed first.
    pub active_close: f64,
    /// Connections that the peer closed first.
    pub passive_close: f64,
    /// Aborted connections.
    pub aborted: f64,
    /// State changes of any kind.
    pub events: f64,
}

impl Rates {
    /// From the rates in the order of [`super::Totals`].
    #[must_use]
    pub const fn new(window_seconds: f64, rates: [f64; 7]) -> Self {
        let [
            active_open,
            passive_open,
            failed_open,
            active_close,
            passive_close,
            aborted,
            events,
        ] = rates;
        Self {
            window_seconds,
            active_open,
            passive_open,
            failed_open,
            active_close,
            passive_close,
            aborted,
            events,
        }
    }
}

/// Averages per second of [`super::Overflows`] and [`super::Syncookies`] over a window of at most [`FINE_WINDOW`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueRates {
    /// The window, in seconds.
    pub window_seconds: f64,
    /// Completed handshakes that found the accept queue full.
    pub listen_overflows: f64,
    /// These, and connections dropped for other reasons.
    pub listen_drops: f64,
    /// SYN-ACKs with a cookie.
    pub syncookies_sent: f64,
    /// ACKs with an invalid cookie.
    pub syncookies_failed: f64,
}

/// Connections in CLOSE_WAIT or FIN_WAIT2 whose last segment from the peer is more than a minute ago. Counted
/// by the last walk and carried forward: at least those of the walk that still exist, at most all that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// How long, in seconds.
    pub older_than_seconds: u32,
    /// Closed by the peer only: the application does not close them.
    pub closewait: u64,
    /// Closed by this side only; full sockets.
    pub finwait2: u64,
    /// Seconds since that walk.
    pub walked_seconds_ago: u64,
}

#[cfg(test)]
mod tests {
    use tcp_status_common::state::State;

    use super::{Counts, Peaks};

    /// Bounds of what is not known cross each other.
    #[test]
    fn a_count_lies_between_its_extremes() {
        let (mut counts, mut min, mut max) = <(Counts, Counts, Counts)>::default();
        (counts[State::TimeWait], min[State::TimeWait]) = (45, 37);
        max[State::TimeWait] = 3;
        let mut peaks = Peaks {
            window_seconds: 60,
            sample_milliseconds: 100,
            min,
            max,
            max_seconds_ago: Counts::default(),
        };
        peaks.max_seconds_ago[State::TimeWait] = 9;
        peaks.include(&counts);
        assert_eq!(
            (peaks.min[State::TimeWait], peaks.max[State::TimeWait]),
            (37, 45)
        );
        assert_eq!(peaks.max_seconds_ago[State::TimeWait], 0);
    }
}
