//! What walks found of the destination that uses up the most ephemeral ports, and when it will have used
//! up all. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::snapshot::{FullestDestination, who::Group};

/// Walks that are remembered.
const REMEMBERED: usize = 6;

/// Walks that must have found more ports in use each time, for a forecast.
const GROWING: usize = 3;

/// What walks found, all of one destination.
#[derive(Debug, Default)]
pub(crate) struct Walks {
    destination: String,
    range: u32,
    /// Ports in use, the last walk last.
    pub(crate) used: VecDeque<(Instant, u64)>,
    /// No look before this.
    pub(crate) next: Option<Instant>,
    /// No walk before this: what walks may cost.
    pub(crate) affordable: Option<Instant>,
    /// Connects that had failed for want of a local port.
    pub(crate) failures: u64,
}

impl Walks {
    /// Takes what a walk found.
    pub(crate) fn record(&mut self, now: Instant, group: &Group) {
        let Some(range) = group.ephemeral_range else {
            self.used.clear();
            return;
        };
        if (&self.destination, self.range) != (&group.key, range) {
            self.used.clear();
            self.destination.clone_from(&group.key);
            self.range = range;
        }
        self.used.push_back((now, group.ephemeral_used));
        if self.used.len() > REMEMBERED {
            self.used.pop_front();
        }
    }

    /// What the last walk found, and what follows from those before it if they span `least`, for no longer
    /// than they span.
    pub(crate) fn report(&self, now: Instant, least: Duration) -> Option<FullestDestination> {
        let &(at, used) = self.used.back()?;
        let since = now.saturating_duration_since(at);
        let growth = self
            .growth()
            .filter(|(_, span)| *span >= least && *span >= since);
        let rate = growth.map(|(rate, _)| rate);
        let left = u64::from(self.range).saturating_sub(used);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 65,535 ports, and a rate above zero"
        )]
        let seconds = |rate: f64| (left as f64 / rate - since.as_secs_f64()).max(0.0) as u64;
        Some(FullestDestination {
            destination: self.destination.clone(),
            used_ports: used,
            ephemeral_ports: self.range,
            ports_per_second: rate,
            seconds_until_exhausted: rate.map(seconds),
            walked_seconds_ago: since.as_secs(),
        })
    }

    /// Ports per second, over the last walks that each found more than the one before, and the time that these
    /// span; none if there are too few.
    fn growth(&self) -> Option<(f64, Duration)> {
        let walks: Vec<_> = self.used.iter().rev().collect();
        let grows = |pair: &&[&(Instant, u64)]| pair[0].1 > pair[1].1;
        let steps = walks.windows(2).take_while(grows).count();
        if steps + 1 < GROWING {
            return None;
        }
        let (&(last, most), &(first, least)) = (walks[0], walks[steps]);
        let span = last.saturating_duration_since(first);
        #[expect(clippy::cast_precision_loss, reason = "at most 65,535 ports")]
        let grown = (most - least) as f64;
        (!span.is_zero()).then(|| (grown / span.as_secs_f64(), span))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Group, Walks};

    /// What walks found, 10 s apart.
    fn after(found: &[u64]) -> Walks {
        let (start, mut walks) = (Instant::now(), Walks::default());
        for (i, &used) in (0..).zip(found) {
            walks.record(start + Duration::from_secs(10) * i, &group("a", used));
        }
        walks
    }

    fn group(key: &str, used: u64) -> Group {
        Group::of_destination(key.into(), used, 1000)
    }

    fn forecast(walks: &Walks, seconds_later: u64) -> (Option<f64>, Option<u64>) {
        let last = walks.used.back().unwrap().0;
        let now = last + Duration::from_secs(seconds_later);
        let report = walks.report(now, Duration::from_secs(20)).unwrap();
        (report.ports_per_second, report.seconds_until_exhausted)
    }

    #[test]
    fn three_walks_that_grow_make_a_forecast() {
        let growing = after(&[500, 550, 600]);
        assert_eq!(forecast(&growing, 0), (Some(5.0), Some(80)));
        assert_eq!(forecast(&growing, 20), (Some(5.0), Some(60)));
        // Too long ago for what they span.
        assert_eq!(forecast(&growing, 21), (None, None));
        // As far back as they grow.
        assert_eq!(forecast(&after(&[900, 500, 550, 600]), 0).0, Some(5.0));
    }

    #[test]
    fn what_does_not_grow_makes_none() {
        for found in [
            &[500][..],
            &[500, 600],
            &[500, 600, 600],
            &[500, 600, 700, 690],
            &[700, 500, 600],
        ] {
            assert_eq!(forecast(&after(found), 0), (None, None), "{found:?}");
        }
    }

    #[test]
    fn another_destination_begins_anew() {
        let mut walks = after(&[500, 550, 600]);
        walks.record(Instant::now(), &group("b", 610));
        assert_eq!(walks.used.len(), 1);
        assert_eq!(forecast(&walks, 0), (None, None));
    }
}
