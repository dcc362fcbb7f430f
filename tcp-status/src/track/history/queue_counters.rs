//! Counters of full queues over time, for their rates over any window that ends now. Pure: the caller passes the
//! time in milliseconds.

use std::collections::VecDeque;

use crate::snapshot::{FINE_WINDOW, Overflows, QueueRates, Syncookies};

/// Retention, in milliseconds.
const KEPT: u64 = FINE_WINDOW as u64 * 1000;

/// Both groups of counters of one namespace, as far as the kernel reports them.
pub type Counters = (Option<Overflows>, Option<Syncookies>);

/// A value, and when it was first and last read.
#[derive(Debug)]
struct Held {
    first: u64,
    last: u64,
    counters: Counters,
}

/// Readings of the counters.
#[derive(Debug, Default)]
pub struct QueueCounters {
    values: VecDeque<Held>,
}

impl QueueCounters {
    /// Whether the counters were not read yet in the current second.
    #[must_use]
    pub fn is_due(&self, now: u64) -> bool {
        let held = self.values.back();
        held.is_none_or(|held| held.last / 1000 != now / 1000)
    }

    /// Adds a reading taken at `now`.
    pub fn record(&mut self, now: u64, counters: Counters) {
        match self.values.back_mut() {
            Some(held) if held.counters == counters => held.last = now,
            _ => self.values.push_back(Held {
                first: now,
                last: now,
                counters,
            }),
        }
        // The value that holds when the longest window begins is kept.
        while self
            .values
            .get(1)
            .is_some_and(|held| held.first + KEPT < now)
        {
            self.values.pop_front();
        }
    }

    /// Averages per second over the last `window` seconds, at most [`FINE_WINDOW`], since the reading before
    /// them or the first one; the counters are now `counters`. None if they are not known, or not for a second yet.
    #[must_use]
    pub fn rates(
        &self,
        now: u64,
        window: u32,
        (overflows, syncookies): Counters,
    ) -> Option<QueueRates> {
        let from = now.saturating_sub(u64::from(window.min(FINE_WINDOW)) * 1000);
        let begun = self.values.partition_point(|held| held.first <= from);
        let held = self.values.get(begun.saturating_sub(1))?;
        // What grew after the last reading of this value is counted, so its time is as well.
        let since = held.first.max(held.last.min(from));
        let elapsed = now.saturating_sub(since);
        if elapsed < 1000 {
            return None;
        }
        let before = held.counters;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate is not more exact than its clock"
        )]
        let rate =
            |before: u64, now: u64| now.saturating_sub(before) as f64 * 1000.0 / elapsed as f64;
        let (overflows_before, overflows) = before.0.zip(overflows)?;
        let (syncookies_before, syncookies) = before.1.zip(syncookies)?;
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        Some(QueueRates {
            window_seconds: elapsed as f64 / 1000.0,
            listen_overflows: rate(
                overflows_before.listen_overflows,
                overflows.listen_overflows,
            ),
            listen_drops: rate(overflows_before.listen_drops, overflows.listen_drops),
            syncookies_sent: rate(syncookies_before.sent, syncookies.sent),
            syncookies_failed: rate(syncookies_before.failed, syncookies.failed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Counters, Overflows, QueueCounters, QueueRates, Syncookies};

    fn counters(drops: u64, failed: u64) -> Counters {
        let overflows = Overflows {
            listen_drops: drops,
            ..Overflows::default()
        };
        let syncookies = Syncookies {
            failed,
            ..Syncookies::default()
        };
        (Some(overflows), Some(syncookies))
    }

    #[test]
    fn rates_are_what_grew_within_the_window() {
        let mut kept = QueueCounters::default();
        assert_eq!(kept.rates(0, 60, counters(0, 0)), None);
        kept.record(500, counters(7, 1));
        let rates = |kept: &QueueCounters, now, window, of| {
            let rates = kept.rates(now, window, of).unwrap();
            let QueueRates {
                window_seconds,
                listen_drops,
                syncookies_failed,
                ..
            } = rates;
            (window_seconds, listen_drops, syncookies_failed)
        };
        // Nothing before the first reading is known.
        assert_eq!(kept.rates(1499, 60, counters(7, 1)), None);
        assert_eq!(rates(&kept, 2500, 60, counters(11, 1)), (2.0, 2.0, 0.0));
        for second in 1..=100 {
            kept.record(second * 1000, counters(7, 1));
        }
        // A value that does not change takes no room, and holds however long ago it was first read.
        assert_eq!(kept.values.len(), 1);
        assert_eq!(rates(&kept, 100_000, 10, counters(27, 6)), (10.0, 2.0, 0.5));
        kept.record(101_000, counters(27, 6));
        assert_eq!(rates(&kept, 121_000, 20, counters(27, 6)), (20.0, 0.0, 0.0));
        assert_eq!(
            rates(&kept, 121_000, 40, counters(27, 6)),
            (40.0, 0.5, 0.125)
        );
        assert_eq!(kept.rates(121_000, 60, (None, None)), None);
    }

    #[test]
    fn a_steady_growth_has_the_same_rate_in_every_window() {
        for period in [1, 25] {
            let mut kept = QueueCounters::default();
            for second in (0..200).step_by(period) {
                kept.record(second * 1000, counters(second * 100, 0));
            }
            for (now, window) in [(199_900, 1), (200_500, 2), (199_001, 5), (200_000, 60)] {
                let rates = kept.rates(now, window, counters(now / 10, 0)).unwrap();
                assert!((rates.listen_drops - 100.0).abs() < 0.2, "{rates:?}");
                assert!(rates.window_seconds >= f64::from(window), "{rates:?}");
            }
        }
    }

    #[test]
    fn memory_is_bounded_by_the_longest_window() {
        let mut kept = QueueCounters::default();
        for second in 0..2000 {
            assert!(kept.is_due(second * 1000));
            kept.record(second * 1000, counters(second, 0));
            assert!(!kept.is_due(second * 1000 + 999));
        }
        assert_eq!(kept.values.len(), 602);
        let rates = kept.rates(2_000_000, 86_400, counters(2000, 0)).unwrap();
        assert_eq!((rates.window_seconds, rates.listen_drops), (600.0, 1.0));
    }
}
