//! The destination that uses up the most ephemeral ports, and when it will have used up all. Walks look
//! for it only while there are so many outgoing connections that a destination may run out of ports,
//! or connects fail for want of one.

use std::{collections::VecDeque, time::Instant};

use tcp_status_common::{counters::OWN_NETNS, ends::EndReason, state::State};

use super::{api_error::unavailable, cpu_time::CpuTimer, sync::lock, tracker::Tracker, who::Walk};
use crate::{
    kernel::sysctl,
    serve::protocol::ApiError,
    snapshot::{
        DEFAULT_WINDOW, FullestDestination,
        who::{Group, GroupBy},
    },
};

/// Outgoing connections, in percent of the ephemeral ports, above which walks begin: no destination has
/// more than all together.
const MANY: u64 = 50;

/// The time between two looks, in intervals of the audit.
const PERIOD: u32 = 10;

/// Groups of a walk among which the one with the most ephemeral ports is searched.
const LARGEST: usize = 16;

/// Walks that are remembered.
const REMEMBERED: usize = 6;

/// Walks that must have found more ports in use each time, for a forecast.
const GROWING: usize = 3;

/// What walks found, all of one destination.
#[derive(Debug, Default)]
pub(super) struct Walks {
    destination: String,
    range: u32,
    /// Ports in use, the last walk last.
    used: VecDeque<(Instant, u64)>,
    /// No look before this.
    next: Option<Instant>,
    /// No walk before this: what walks may cost.
    affordable: Option<Instant>,
    /// Connects that had failed for want of a local port.
    failures: u64,
}

impl Walks {
    fn record(&mut self, now: Instant, group: &Group) {
        let range = group.ephemeral_range.unwrap_or(0);
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

    /// What the last walk found, and what follows from those before it.
    fn report(&self, now: Instant) -> Option<FullestDestination> {
        let &(at, used) = self.used.back()?;
        let since = now.saturating_duration_since(at);
        let rate = self.growth();
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

    /// Ports per second, over the last walks that each found more than the one before; none if there
    /// are too few.
    fn growth(&self) -> Option<f64> {
        let walks: Vec<_> = self.used.iter().rev().collect();
        let grows = |pair: &&[&(Instant, u64)]| pair[0].1 > pair[1].1;
        let steps = walks.windows(2).take_while(grows).count();
        if steps + 1 < GROWING {
            return None;
        }
        let (&(last, most), &(first, least)) = (walks[0], walks[steps]);
        let elapsed = last.saturating_duration_since(first).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "at most 65,535 ports")]
        let grown = (most - least) as f64;
        (elapsed > 0.0).then(|| grown / elapsed)
    }
}

impl Tracker {
    /// What is known of the fullest destination of the tracker's namespace.
    pub(super) fn fullest_destination(&self) -> Option<FullestDestination> {
        lock(&self.fullest).report(Instant::now())
    }

    /// Walks, if a destination may be short of ports and a walk is due.
    pub(super) fn watch_destinations(&self) -> Result<(), ApiError> {
        let now = Instant::now();
        let failures = self.bpf.ends()[EndReason::NoLocalPort as usize];
        let failing = {
            let mut walks = lock(&self.fullest);
            let failing = failures != walks.failures;
            if walks.affordable.is_some_and(|at| now < at)
                || (!failing && walks.next.is_some_and(|at| now < at))
            {
                return Ok(());
            }
            walks.next = Some(now + self.settings.pace.interval * PERIOD);
            walks.failures = failures;
            failing
        };
        if !failing && !self.has_many_outgoing()? {
            lock(&self.fullest).used.clear();
            return Ok(());
        }
        let timer = CpuTimer::start();
        let found = fullest();
        let (cost, now) = (timer.spent(), Instant::now());
        let mut walks = lock(&self.fullest);
        walks.affordable = Some(now + cost.div_f64(self.settings.pace.share));
        match found.map_err(unavailable)? {
            Some(group) => walks.record(now, &group),
            None => walks.used.clear(),
        }
        Ok(())
    }

    /// Whether there are so many outgoing connections that a destination may be short of ports.
    fn has_many_outgoing(&self) -> Result<bool, ApiError> {
        let Some(ports) = sysctl::settings().ephemeral_ports else {
            return Ok(false);
        };
        let is_many = |count: u64| count * 100 > u64::from(ports) * MANY;
        // By what was sampled, so that a host with few connections does no more.
        let sampled = lock(&self.samples).last.0;
        if !is_many(sampled.total() - sampled[State::Listen]) {
            return Ok(false);
        }
        let outgoing = self.snapshot(OWN_NETNS, DEFAULT_WINDOW)?.ports.outgoing;
        Ok(outgoing.is_some_and(|states| is_many(states.total())))
    }
}

/// The destination with the most ephemeral ports in use.
fn fullest() -> Result<Option<Group>, super::who::WalkError> {
    let walk = Walk {
        by: vec![GroupBy::Destination],
        states: Vec::new(),
        port: None,
        cgroup: None,
        remote: None,
        outgoing: false,
        prefixes: [32, 128],
        limit: LARGEST,
        netns: None,
    };
    let groups = walk.run()?.into_iter().flat_map(|report| report.groups);
    Ok(groups.max_by_key(|group| group.ephemeral_used))
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
        let report = walks.report(last + Duration::from_secs(seconds_later));
        let report = report.unwrap();
        (report.ports_per_second, report.seconds_until_exhausted)
    }

    #[test]
    fn three_walks_that_grow_make_a_forecast() {
        let growing = after(&[500, 550, 600]);
        assert_eq!(forecast(&growing, 0), (Some(5.0), Some(80)));
        assert_eq!(forecast(&growing, 30), (Some(5.0), Some(50)));
        assert_eq!(forecast(&growing, 300), (Some(5.0), Some(0)));
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
