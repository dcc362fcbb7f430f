//! Counters of full queues over time, for their rates over any window that ends now. Pure: the caller passes the
//! time in milliseconds.

use std::collections::VecDeque;

use crate::snapshot::{FINE_WINDOW, Overflows, QueueRates, Syncookies};

/// Retention, in milliseconds.
const KEPT: u64 = FINE_WINDOW as u64 * 1000;

/// Both groups of counters of one namespace, as far as the kernel reports them.
pub type Counters = (Option<Overflows>, Option<Syncookies>);

/// Readings of the counters.
#[derive(Debug, Default)]
pub struct QueueCounters {
    /// Each value with the time at which it was first read. It holds until the next one.
    values: VecDeque<(u64, Counters)>,
    last_read: Option<u64>,
}

impl QueueCounters {
    /// Whether the counters were not read yet in the current second.
    #[must_use]
    pub fn is_due(&self, now: u64) -> bool {
        self.last_read.is_none_or(|last| last / 1000 != now / 1000)
    }

    /// Adds a reading taken at `now`.
    pub fn record(&mut self, now: u64, counters: Counters) {
        self.last_read = Some(now);
        if self.values.back().is_none_or(|(_, last)| *last != counters) {
            self.values.push_back((now, counters));
        }
        // The value that holds when the longest window begins is kept.
        while self
            .values
            .get(1)
            .is_some_and(|&(time, _)| time + KEPT < now)
        {
            self.values.pop_front();
        }
    }

    /// Averages per second over the last `window` seconds, at most [`FINE_WINDOW`], or since the first reading;
    /// the counters are now `counters`. None if they are not known.
    #[must_use]
    pub fn rates(
        &self,
        now: u64,
        window: u32,
        (overflows, syncookies): Counters,
    ) -> Option<QueueRates> {
        let from = now.saturating_sub(u64::from(window.min(FINE_WINDOW)) * 1000);
        let held = self.values.partition_point(|&(time, _)| time <= from);
        let &(time, before) = self.values.get(held.saturating_sub(1))?;
        let elapsed = now.saturating_sub(time.max(from));
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate is not more exact than its clock"
        )]
        let rate = |before: u64, now: u64| {
            now.saturating_sub(before) as f64 * 1000.0 / elapsed.max(1) as f64
        };
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
        assert_eq!(rates(&kept, 500, 60, counters(7, 1)), (0.0, 0.0, 0.0));
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
