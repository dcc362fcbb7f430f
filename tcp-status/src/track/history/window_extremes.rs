//! Extremes over several minutes, for windows that are longer than the time for which seconds are kept. Pure.

use tcp_status_common::state::State;

use crate::snapshot::{Counts, Peaks, Rates};

/// Extremes and sums over several minutes.
#[derive(Clone, Debug)]
pub struct WindowExtremes {
    /// When the first sample was taken, about, in milliseconds.
    pub(crate) start: u64,
    pub(crate) min: Counts,
    pub(crate) max: Counts,
    /// When the largest samples were taken last, in milliseconds.
    pub(crate) max_at: Counts,
    /// The time that the rates cover.
    pub(crate) rated_seconds: f64,
    /// State changes within that time, in the order of the totals.
    pub(crate) changes: [f64; 7],
}

impl WindowExtremes {
    /// Adds these minutes to the peaks of the last ones as of `now`.
    pub fn extend(&self, now: u64, peaks: &mut Peaks) {
        let ago = |time: u64| now.saturating_sub(time).div_ceil(1000);
        let whole = u32::try_from(ago(self.start)).unwrap_or(u32::MAX);
        peaks.window_seconds = peaks.window_seconds.max(whole);
        for state in State::ALL {
            peaks.min[state] = peaks.min[state].min(self.min[state]);
            if self.max[state] > peaks.max[state] {
                peaks.max[state] = self.max[state];
                peaks.max_seconds_ago[state] = ago(self.max_at[state]);
            }
        }
    }

    /// The mean rates; none if no time is covered.
    #[must_use]
    pub fn rates(&self) -> Option<Rates> {
        let rates = self.changes.map(|changes| changes / self.rated_seconds);
        (self.rated_seconds > 0.0).then(|| Rates::new(self.rated_seconds, rates))
    }

    /// Of no minute yet.
    pub(crate) fn none(start: u64) -> Self {
        let mut min = Counts::default();
        for state in State::ALL {
            min[state] = u64::MAX;
        }
        Self {
            start,
            min,
            max: Counts::default(),
            max_at: Counts::default(),
            rated_seconds: 0.0,
            changes: [0.0; 7],
        }
    }
}
