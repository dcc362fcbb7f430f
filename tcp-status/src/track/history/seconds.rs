//! Extremes of gauges and totals of transitions, second by second, for the time between two polls. Pure: the
//! caller passes the time in milliseconds.

use std::collections::VecDeque;

use tcp_status_common::state::State;

use crate::snapshot::{Counts, FINE_WINDOW, Peaks, Rates, Totals, Transitions};

/// Retention, in milliseconds.
const KEPT: u64 = FINE_WINDOW as u64 * 1000;

/// The maximum over any window that ends now. Keeps only samples greater than all later ones, so the values
/// decrease from old to new.
#[derive(Clone, Debug, Default)]
pub struct WindowMax(VecDeque<(u64, u64)>);

impl WindowMax {
    /// Adds a sample taken at `now`.
    pub fn record(&mut self, now: u64, value: u64) {
        while self.0.back().is_some_and(|&(_, older)| older <= value) {
            self.0.pop_back();
        }
        // One sample per second: a window has whole seconds.
        let second = |time: u64| time / 1000;
        let newest = self.0.back().map(|&(time, _)| second(time));
        if newest != Some(second(now)) {
            self.0.push_back((now, value));
        }
        while self.0.front().is_some_and(|&(time, _)| time + KEPT < now) {
            self.0.pop_front();
        }
    }

    /// The maximum since `from`; none without a sample.
    #[must_use]
    pub fn max_since(&self, from: u64) -> Option<u64> {
        self.peak_since(from).map(|(_, value)| value)
    }

    /// The same, and when it was last reached.
    fn peak_since(&self, from: u64) -> Option<(u64, u64)> {
        let first = self.0.partition_point(|&(time, _)| time < from);
        self.0.get(first).copied()
    }
}

/// Bounds of the gauges at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GaugeRange {
    /// Lower bounds; the maxima are made of them.
    pub least: Counts,
    /// Upper bounds; the minima are made of them.
    pub most: Counts,
}

impl GaugeRange {
    /// Exact gauges.
    #[must_use]
    pub const fn exact(counts: &Counts) -> Self {
        Self {
            least: *counts,
            most: *counts,
        }
    }
}

/// Samples of one namespace.
#[derive(Clone, Debug, Default)]
pub struct History {
    greatest: [WindowMax; State::COUNT],
    /// Of the complements: their maximum is the minimum.
    least: [WindowMax; State::COUNT],
    totals: VecDeque<(u64, Totals)>,
    started: Option<u64>,
}

impl History {
    /// Adds a reading taken at `now`: bounds of its gauges, transitions since start, and their sum.
    pub fn record(&mut self, now: u64, range: &GaugeRange, flows: &Transitions, events: u64) {
        self.started.get_or_insert(now);
        for state in State::ALL {
            self.greatest[state.index()].record(now, range.least[state]);
            self.least[state.index()].record(now, !range.most[state]);
        }
        let newest = self.totals.back().map(|&(time, _)| time / 1000);
        if newest != Some(now / 1000) {
            self.totals.push_back((now, flows.totals(events)));
        }
        // One more than the window needs: what lies just before it is where it begins.
        while self
            .totals
            .get(1)
            .is_some_and(|&(time, _)| time + KEPT < now)
        {
            self.totals.pop_front();
        }
    }

    /// Extremes of the last `window` seconds; the current gauges are within `range`.
    #[must_use]
    pub fn peaks(&self, now: u64, window: u32, sample: u64, range: &GaugeRange) -> Option<Peaks> {
        let started = self.started?;
        let from = now.saturating_sub(u64::from(window) * 1000);
        let mut peaks = Peaks {
            window_seconds: seconds(now.saturating_sub(started.max(from))),
            sample_milliseconds: u32::try_from(sample).unwrap_or(u32::MAX),
            min: range.most,
            max: range.least,
            max_seconds_ago: Counts::default(),
        };
        for state in State::ALL {
            let i = state.index();
            let min = self.least[i].max_since(from);
            let max = self.greatest[i].peak_since(from);
            if let Some((time, max)) = max.filter(|&(_, max)| max > range.least[state]) {
                peaks.max[state] = max;
                peaks.max_seconds_ago[state] = now.saturating_sub(time) / 1000;
            }
            peaks.min[state] = min
                .map_or(u64::MAX, |complement| !complement)
                .min(range.most[state]);
        }
        Some(peaks)
    }

    /// Transitions per second over the last `window` seconds; their current totals are `flows`.
    #[must_use]
    pub fn rates(&self, now: u64, window: u32, flows: &Transitions, events: u64) -> Option<Rates> {
        let from = now.saturating_sub(u64::from(window) * 1000);
        let first = self.totals.partition_point(|&(time, _)| time < from);
        // What lies at the beginning of the window or just before; at the start, the first there is.
        let &(time, before) = self.totals.get(first.saturating_sub(1))?;
        let elapsed = now.saturating_sub(time);
        if elapsed == 0 {
            return Some(Rates::default());
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate is not more exact than its clock"
        )]
        let rate = |i: usize| {
            let after = flows.totals(events)[i];
            after.saturating_sub(before[i]) as f64 * 1000.0 / elapsed as f64
        };
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        let window_seconds = elapsed as f64 / 1000.0;
        Some(Rates::new(window_seconds, std::array::from_fn(rate)))
    }
}

fn seconds(milliseconds: u64) -> u32 {
    u32::try_from(milliseconds.div_ceil(1000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::{Counts, GaugeRange, History, State, Transitions, WindowMax};

    #[test]
    fn the_greatest_of_any_window_is_what_a_search_finds() {
        let mut rng = StdRng::seed_from_u64(rand::random());
        let mut greatest = WindowMax::default();
        let mut all = Vec::new();
        for second in 0..900_u64 {
            let (now, value) = (second * 1000, rng.random_range(0..50));
            greatest.record(now, value);
            all.push((now, value));
            let from = now.saturating_sub(rng.random_range(0..600_000));
            let expected = all.iter().filter(|(time, _)| *time >= from);
            let expected = expected.map(|&(_, value)| value).max();
            assert_eq!(greatest.max_since(from), expected);
        }
        assert!(greatest.0.len() <= 601);
    }

    #[test]
    fn samples_within_a_second_are_kept_as_one_but_none_greater_is_lost() {
        let mut greatest = WindowMax::default();
        for (now, value) in [(0, 1), (100, 9), (200, 3), (300, 2), (1000, 4)] {
            greatest.record(now, value);
        }
        assert_eq!(
            (greatest.max_since(0), greatest.max_since(1000)),
            (Some(9), Some(4))
        );
        assert_eq!(greatest.max_since(1001), None);
    }

    #[test]
    fn a_spike_between_two_polls_is_seen_in_its_window_only() {
        let mut history = History::default();
        let counts = |synrecv| {
            let mut counts = Counts::default();
            counts[State::SynRecv] = synrecv;
            GaugeRange::exact(&counts)
        };
        let none = Transitions::default();
        for tenth in 0..600 {
            let spike = if (200..220).contains(&tenth) { 50 } else { 1 };
            history.record(tenth * 100, &counts(spike), &none, 0);
        }
        let now = 60_000;
        let peaks = |window| history.peaks(now, window, 100, &counts(0)).unwrap();
        assert_eq!(peaks(60).max[State::SynRecv], 50);
        assert_eq!(peaks(30).max[State::SynRecv], 1);
        assert_eq!(
            (peaks(30).min[State::SynRecv], peaks(30).window_seconds),
            (0, 30)
        );
        assert_eq!(peaks(600).window_seconds, 60);
    }

    #[test]
    fn rates_are_differences_over_the_window() {
        let mut history = History::default();
        let opened = |count| Transitions {
            passive_open: count,
            ..Transitions::default()
        };
        for second in 0..=100_u64 {
            history.record(
                second * 1000,
                &GaugeRange::exact(&Counts::default()),
                &opened(second * 7),
                second * 70,
            );
        }
        let rates = history.rates(100_500, 10, &opened(703), 7035).unwrap();
        // The window begins with the second that holds its beginning.
        assert!((10.0..=11.5).contains(&rates.window_seconds), "{rates:?}");
        assert!((6.9..7.1).contains(&rates.passive_open), "{rates:?}");
        assert!((69.0..71.0).contains(&rates.events), "{rates:?}");
        assert_eq!(History::default().rates(5, 1, &opened(1), 1), None);
    }
}
