//! Gauges over time, by the tracker's minutes and then by readings; and what happened per second between two
//! readings.

use std::{collections::VecDeque, time::Instant};

use tcp_status_common::state::State;

#[cfg(test)]
use crate::snapshot::minutes::Extremes;
use crate::snapshot::{
    Counts, Ends, Overflows, Rates, Snapshot, Totals,
    minutes::{self, Minute},
};

/// How many readings are kept.
const KEPT: usize = 512;

/// What happened per second, from one reading to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct PerSecond {
    /// State changes.
    pub rates: Rates,
    /// Handshakes that found a full accept queue.
    pub overflows: f64,
    /// What listeners dropped in all.
    pub drops: f64,
    /// Why connects failed, as far as any did.
    pub connect_failures: Vec<(&'static str, f64)>,
    /// Why connections ended without being closed, as far as any did.
    pub aborts: Vec<(&'static str, f64)>,
    /// SYN-ACKs with a cookie, and ACKs with an invalid one; none where the kernel does not count them.
    pub syncookies: Option<[f64; 2]>,
}

/// Counters that only grow, and when they were read.
#[derive(Clone, Debug)]
struct Counters {
    at: Instant,
    totals: Totals,
    overflows: Overflows,
    ends: Option<Ends>,
    syncookies: Option<[u64; 2]>,
}

/// One gauge over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Seconds ago it began and ended to have a value, or its maximum was this.
    spans: Vec<(f64, f64, u64)>,
    /// How many seconds are shown.
    seconds: f64,
}

impl Series {
    /// The largest value that is shown; none if nothing is known.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        let shown = self.spans.iter().filter(|(_, to, _)| *to < self.seconds);
        shown.map(|(_, _, value)| *value).max()
    }

    /// The maxima of so many parts of the time, the oldest first; none where nothing is known.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a terminal is not as wide; a cast saturates"
    )]
    pub fn parts(&self, count: usize) -> Vec<Option<u64>> {
        let mut parts = vec![None; count];
        let part = |ago: f64| (self.seconds - ago) / self.seconds * count as f64;
        for &(from, to, value) in &self.spans {
            if to >= self.seconds {
                continue;
            }
            let last = (part(to).ceil() as usize).clamp(1, count);
            let first = (part(from) as usize).min(last - 1);
            for part in &mut parts[first..last] {
                *part = (*part).max(Some(value));
            }
        }
        parts
    }
}

/// The last readings of something.
#[derive(Clone, Debug, Default)]
pub struct Readings(VecDeque<(Instant, Counts)>);

impl Readings {
    pub(super) fn add(&mut self, at: Instant, counts: Counts) {
        self.0.push_back((at, counts));
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
    }

    /// How many seconds they cover.
    pub(super) fn known(&self, now: Instant) -> f64 {
        let first = self
            .0
            .front()
            .map(|(at, _)| now.saturating_duration_since(*at));
        first.map_or(0.0, |ago| ago.as_secs_f64())
    }

    /// One state over the last `seconds`.
    pub(super) fn series(&self, state: State, now: Instant, seconds: f64) -> Series {
        let ago = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        let ends = self.0.iter().skip(1).map(|(at, _)| ago(*at)).chain([0.0]);
        let spans = self.0.iter().zip(ends);
        let spans = spans.map(|((at, counts), to)| (ago(*at), to, counts[state]));
        Series {
            spans: spans.collect(),
            seconds,
        }
    }
}

/// Readings of one namespace.
#[derive(Clone, Debug, Default)]
pub struct History {
    readings: Readings,
    /// What the tracker kept, and when it came.
    minutes: Option<(Instant, minutes::History)>,
    last: Option<Counters>,
    rates: Option<PerSecond>,
}

impl History {
    pub(super) fn add(&mut self, reading: &Snapshot, at: Instant) {
        self.readings.add(at, reading.states);
        let now = reading.transitions.as_ref().map(|transitions| Counters {
            at,
            totals: transitions.totals(reading.events.map_or(0, |events| events.counted)),
            overflows: reading.overflows.unwrap_or_default(),
            ends: reading.ends,
            syncookies: reading.syncookies.map(|of| [of.sent, of.failed]),
        });
        self.rates = match (&self.last, &now) {
            (Some(before), Some(now)) => between(before, now),
            _ => None,
        };
        self.last = now;
    }

    pub(super) fn set_minutes(&mut self, minutes: minutes::History, at: Instant) {
        self.minutes = Some((at, minutes));
    }

    /// What happened between the last two readings; none where nobody counts, or the tracker was
    /// started anew.
    #[must_use]
    pub const fn rates(&self) -> Option<&PerSecond> {
        self.rates.as_ref()
    }

    /// How many seconds ago the first value was.
    pub(super) fn known(&self, now: Instant) -> f64 {
        let minutes = self.minutes.as_ref().map(|(_, history)| history);
        let first = minutes.and_then(|of| Some(of.age(of.minutes.first()?.begin())));
        first.unwrap_or(0.0).max(self.readings.known(now))
    }

    /// The last whole minute.
    pub(super) fn last_minute(&self) -> Option<&Minute> {
        self.minutes.as_ref()?.1.last_whole_minute()
    }

    /// One state over the last `seconds`: by readings as far as they reach, before by minutes.
    pub(super) fn series(&self, state: State, now: Instant, seconds: f64) -> Series {
        let mut series = self.readings.series(state, now, seconds);
        let Some((at, history)) = &self.minutes else {
            return series;
        };
        let since = now.saturating_duration_since(*at).as_secs_f64();
        let oldest = series.spans.first().map_or(0.0, |(from, _, _)| *from);
        for minute in &history.minutes {
            let Some(of) = minute.states.get(state.name()) else {
                continue;
            };
            let from = history.age(minute.begin()) + since;
            let to = (from - 60.0).max(oldest);
            if from > to {
                series.spans.push((from, to, of.max));
            }
        }
        series
    }

    /// How many readings there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.readings.0.len()
    }
}

fn between(before: &Counters, now: &Counters) -> Option<PerSecond> {
    let seconds = now.at.checked_duration_since(before.at)?.as_secs_f64();
    let rate = |before: u64, now: u64| {
        #[expect(clippy::cast_precision_loss, reason = "shown with three digits or so")]
        let growth = now.checked_sub(before)? as f64;
        (seconds > 0.0).then_some(growth / seconds)
    };
    let mut rates = [0.0; 7];
    for (i, per_second) in rates.iter_mut().enumerate() {
        *per_second = rate(before.totals[i], now.totals[i])?;
    }
    let reasons = |of: fn(&Ends) -> Vec<(&'static str, u64)>| {
        let [before, now] = [before, now].map(|counters| counters.ends.as_ref().map(of));
        let pairs = before.into_iter().flatten().zip(now.into_iter().flatten());
        let rates =
            pairs.map(|((name, before), (_, now))| (name, rate(before, now).unwrap_or(0.0)));
        rates.filter(|(_, rate)| *rate > 0.0).collect()
    };
    let full = |of: &Counters| of.overflows.listen_overflows;
    let drops = |of: &Counters| of.overflows.listen_drops;
    Some(PerSecond {
        rates: Rates::new(seconds, rates),
        overflows: rate(full(before), full(now))?,
        drops: rate(drops(before), drops(now))?,
        connect_failures: reasons(|ends| ends.failed_connects().into()),
        aborts: reasons(|ends| ends.connection_ends.aborts().into()),
        syncookies: (before.syncookies.zip(now.syncookies))
            .and_then(|(before, now)| Some([rate(before[0], now[0])?, rate(before[1], now[1])?])),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        time::{Duration, Instant},
    };

    use tcp_status_common::state::State;

    use super::{Extremes, History, KEPT, Minute};
    use crate::{
        snapshot::Transitions,
        view::top::fixtures::{OWN, reading},
    };

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
        assert_eq!((rates.rates.passive_open, rates.drops), (300.0, 2.0));
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
    fn minutes_fill_the_time_before_the_first_reading() {
        let start = Instant::now();
        let mut history = History::default();
        let mut one = reading(OWN, 0);
        for second in 0..30 {
            one.states[State::SynRecv] = second;
            history.add(&one, start + Duration::from_secs(second));
        }
        let now = start + Duration::from_secs(30);
        let parts = |history: &History| {
            let series = history.series(State::SynRecv, now, 120.0);
            (series.max(), series.parts(4))
        };
        let readings = (Some(29), vec![None, None, None, Some(29)]);
        assert_eq!(parts(&history), readings);
        let minute = |start, max| {
            let extremes = Extremes {
                min: 0,
                max,
                mean: 1.0,
                max_at: 0.0,
            };
            Minute {
                start,
                seconds: 60.0,
                degraded: false,
                states: [("synrecv".to_owned(), extremes)].into(),
                rates: BTreeMap::default(),
                accept_queues: None,
                fullest_accept_queue: None,
            }
        };
        let minutes = crate::snapshot::minutes::History {
            schema: 1,
            netns: OWN,
            now: 629.0,
            since_seconds: 300,
            sample_milliseconds: 100,
            peaks: BTreeMap::default(),
            // 629 to 569 seconds ago, 89 to 29, and 29 to now: by readings.
            minutes: vec![minute(0, 900), minute(540, 70), minute(600, 5000)],
        };
        history.set_minutes(minutes, now);
        let filled = (Some(70), vec![None, Some(70), Some(70), Some(29)]);
        assert_eq!(parts(&history), filled);
        for _ in 0..KEPT {
            history.add(&one, now);
        }
        assert_eq!(history.len(), KEPT);
    }
}
