//! Extremes and means, minute by minute, for a day, in bounded memory. Pure: the caller passes the time in
//! milliseconds, of a clock that is never set.

mod sample;

pub use sample::Sample;

use std::{collections::VecDeque, ops::AddAssign};

use tcp_status_common::state::State;

use self::sample::{GAUGES, QUEUED, Queue};
use super::window_extremes::WindowExtremes;
use crate::snapshot::{
    StateSeconds, Totals,
    minutes::{Extremes, FullestQueue, MAX_MINUTES, Minute},
};

/// A minute, in milliseconds.
const MINUTE: i64 = 60_000;

/// How many minutes are kept beside the current one.
const KEPT: usize = MAX_MINUTES as usize;

/// A rate is the difference over so long at least, in milliseconds.
const RATE: i64 = 1000;

/// The names of [`Totals`], in that order.
const RATES: [&str; 7] = [
    "active_open",
    "passive_open",
    "failed_open",
    "active_close",
    "passive_close",
    "aborted",
    "events",
];

/// One number within a closed minute: 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Extreme<T> {
    min: T,
    max: T,
    mean: f32,
    /// Milliseconds since the minute began.
    max_at: u16,
}

/// A closed minute. All that is kept of a day has to fit into a mebibyte.
#[derive(Clone, Debug)]
struct Record {
    /// Minutes since the clock began, shifted by [`Minutes::phase`].
    index: i32,
    covered: u16,
    degraded: bool,
    gauges: [Extreme<u32>; GAUGES],
    /// None where no rate ended in the minute.
    rates: Option<[Extreme<f32>; RATES.len()]>,
    fullest: Queue,
}

const _: () = assert!(size_of::<Record>() * (KEPT + 1) <= 1 << 19);

/// One number within the current minute.
#[derive(Clone, Copy, Debug, Default)]
struct Accumulator {
    /// None before the first value.
    extremes: Option<(f64, f64, u16)>,
    /// Values, each multiplied by how long it held.
    sum: f64,
    weight: f64,
}

impl Accumulator {
    /// Bounds of the value from `at` on, milliseconds into the minute.
    fn observe(&mut self, least: f64, most: f64, at: u16) {
        self.extremes = Some(match self.extremes {
            None => (most, least, at),
            Some((min, max, _)) if least > max => (min.min(most), least, at),
            Some((min, max, max_at)) => (min.min(most), max, max_at),
        });
    }

    fn hold(&mut self, value: f64, milliseconds: f64) {
        self.sum += value * milliseconds;
        self.weight += milliseconds;
    }

    /// What is kept of it: `exact` decides how numbers are stored.
    fn close<T>(&self, exact: fn(f64) -> T) -> Option<Extreme<T>> {
        let (min, max, max_at) = self.extremes?;
        let mean = if self.weight > 0.0 {
            self.sum / self.weight
        } else {
            max
        };
        // Bounds of what is not known may cross each other; the mean lies between the true extremes.
        #[expect(clippy::cast_possible_truncation, reason = "a mean needs few digits")]
        Some(Extreme {
            min: exact(min.min(mean)),
            max: exact(max.max(mean)),
            mean: mean as f32,
            max_at,
        })
    }
}

/// The current minute.
#[derive(Clone, Debug, Default)]
struct Current {
    index: i64,
    covered: i64,
    degraded: bool,
    gauges: [Accumulator; GAUGES],
    rates: [Accumulator; RATES.len()],
    fullest: Queue,
}

impl Current {
    fn record(&self) -> Option<Record> {
        let mut gauges = [Extreme::default(); GAUGES];
        for (extreme, of) in gauges.iter_mut().zip(&self.gauges) {
            *extreme = of.close(nearest)?;
        }
        let mut rates = Some([Extreme::default(); RATES.len()]);
        for (i, of) in self.rates.iter().enumerate() {
            #[expect(clippy::cast_possible_truncation, reason = "seven digits are enough")]
            match (&mut rates, of.close(|rate| rate as f32)) {
                (Some(rates), Some(closed)) => rates[i] = closed,
                _ => rates = None,
            }
        }
        Some(Record {
            index: i32::try_from(self.index).unwrap_or(i32::MAX),
            covered: u16::try_from(self.covered).unwrap_or(u16::MAX),
            degraded: self.degraded,
            gauges,
            rates,
            fullest: self.fullest,
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast saturates, and counts are not negative"
)]
const fn nearest(value: f64) -> u32 {
    value.round() as u32
}

/// What holds until the next sample.
#[derive(Clone, Debug)]
struct Held {
    /// Until when it has been entered.
    until: i64,
    sample: Sample,
    /// The rates that were not entered yet begin here.
    rate_from: (i64, Totals),
}

/// The minutes of one namespace.
#[derive(Clone, Debug, Default)]
pub struct Minutes {
    /// By how much the clock's minutes are ahead of those of the wall clock, in milliseconds.
    phase: i64,
    closed: VecDeque<Record>,
    current: Option<Current>,
    held: Option<Held>,
    in_state: StateSeconds,
}

impl Minutes {
    /// Empty; minutes begin as those of the wall clock, which is at `unix` milliseconds when the other one is at
    /// `now`.
    #[must_use]
    pub fn new(now: u64, unix: u64) -> Self {
        Self {
            phase: (signed(unix) - signed(now)).rem_euclid(MINUTE),
            ..Self::default()
        }
    }

    /// Enters a sample taken at `now`; the one before held until then.
    pub fn record(&mut self, now: u64, sample: Sample) {
        let now = signed(now);
        self.hold(now, false);
        let (index, at) = self.minute(now);
        let gauges = sample.gauges();
        let rate_from = match self.held.take() {
            Some(held) => self.enter_rates(held.rate_from, now, &sample.totals, RATE),
            None => (now, sample.totals),
        };
        let current = self.open(index);
        for (of, (_, least, most)) in current.gauges.iter_mut().zip(gauges) {
            of.observe(least, most, at);
        }
        if sample.fullest.is_fuller(&current.fullest) {
            current.fullest = Queue {
                at,
                ..sample.fullest
            };
        }
        current.degraded |= sample.degraded;
        self.held = Some(Held {
            until: now,
            sample,
            rate_from,
        });
    }

    /// Enters that nothing has changed since the last sample.
    pub fn record_rest(&mut self, now: u64) {
        self.hold(signed(now), true);
    }

    /// Enters that the last sample holds until `now`.
    pub fn extend(&mut self, now: u64) {
        self.hold(signed(now), false);
    }

    /// Enters that nothing is known from the last sample to the next one.
    pub fn interrupt(&mut self) {
        self.held = None;
    }

    /// The rates since `from`, if they cover `least` milliseconds; where the next ones begin.
    fn enter_rates(
        &mut self,
        from: (i64, Totals),
        now: i64,
        totals: &Totals,
        least: i64,
    ) -> (i64, Totals) {
        let (since, before) = from;
        if now - since < least {
            return from;
        }
        let (index, at) = self.minute(now);
        let current = self.open(index);
        let elapsed = milliseconds((now - since).max(RATE));
        for (i, of) in current.rates.iter_mut().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "as exact as its clock")]
            let rate = totals[i].saturating_sub(before[i]) as f64 * 1000.0 / elapsed;
            of.observe(rate, rate, at);
            of.hold(rate, elapsed);
        }
        (now, *totals)
    }

    /// Extends the last sample to `to`. At rest, there was no state change either.
    fn hold(&mut self, to: i64, rest: bool) {
        let Some(mut held) = self.held.take() else {
            return;
        };
        if rest {
            // What changed before the rest began, and was too short for a rate of its own.
            let (before, totals) = (held.rate_from, held.sample.totals);
            held.rate_from = self.enter_rates(before, held.until, &totals, 1);
        }
        let gauges = held.sample.gauges();
        while held.until < to {
            let (index, from) = self.minute(held.until);
            let end = ((index + 1) * MINUTE - self.phase).min(to);
            let elapsed = milliseconds(end - held.until);
            for state in State::ALL {
                self.in_state[state] += gauges[state.index()].0 * elapsed / 1000.0;
            }
            let current = self.open(index);
            for (of, (value, least, most)) in current.gauges.iter_mut().zip(gauges) {
                of.observe(least, most, from);
                of.hold(value, elapsed);
            }
            if held.sample.fullest.is_fuller(&current.fullest) {
                current.fullest = Queue {
                    at: from,
                    ..held.sample.fullest
                };
            }
            current.degraded |= held.sample.degraded;
            current.covered += end - held.until;
            let idle = end - held.until.max(held.rate_from.0);
            if rest && idle > 0 {
                for of in &mut current.rates {
                    of.observe(0.0, 0.0, from);
                    of.hold(0.0, milliseconds(idle));
                }
                held.rate_from.0 = end;
            }
            held.until = end;
        }
        self.held = Some(held);
    }

    /// Seconds that sockets were in each state since the first sample, summed over sockets.
    #[must_use]
    pub const fn state_seconds(&self) -> StateSeconds {
        self.in_state
    }

    /// The minute with this index; closes the one before.
    fn open(&mut self, index: i64) -> &mut Current {
        if self.current.as_ref().is_some_and(|one| one.index != index)
            && let Some(record) = self.current.take().and_then(|closed| closed.record())
        {
            if self.closed.len() >= KEPT {
                self.closed.pop_front();
            } else if self.closed.len() == self.closed.capacity() {
                // Doubling would take twice as much.
                self.closed.reserve_exact(60);
            }
            self.closed.push_back(record);
        }
        self.current.get_or_insert_with(|| Current {
            index,
            ..Current::default()
        })
    }

    /// The index of a minute, and how far into it a time lies.
    fn minute(&self, time: i64) -> (i64, u16) {
        let shifted = time + self.phase;
        let into = shifted.rem_euclid(MINUTE);
        (
            shifted.div_euclid(MINUTE),
            u16::try_from(into).unwrap_or(u16::MAX),
        )
    }

    /// The minutes that overlap with the last `window` seconds.
    fn within(&self, now: u64, window: u32) -> impl Iterator<Item = Record> {
        let first = self.minute(signed(now) - i64::from(window) * 1000).0;
        let oldest = self.minute(signed(now)).0 - i64::from(MAX_MINUTES);
        let first = first.max(oldest);
        let current = self.current.as_ref().and_then(Current::record);
        let all = self.closed.iter().cloned().chain(current);
        all.filter(move |record| i64::from(record.index) >= first)
    }

    /// Minima and maxima over the last `window` seconds, in whole minutes; none if nothing is kept.
    #[must_use]
    pub fn extremes(&self, now: u64, window: u32) -> Option<WindowExtremes> {
        let mut all: Option<WindowExtremes> = None;
        for record in self.within(now, window) {
            let start = i64::from(record.index) * MINUTE - self.phase;
            let one = all.get_or_insert_with(|| {
                let end = start.saturating_add(MINUTE).min(signed(now));
                let first = end - i64::from(record.covered);
                WindowExtremes::none(first.try_into().unwrap_or(0))
            });
            for state in State::ALL {
                let of = record.gauges[state.index()];
                one.min[state] = one.min[state].min(of.min.into());
                if u64::from(of.max) >= one.max[state] {
                    one.max[state] = of.max.into();
                    let at = start + i64::from(of.max_at);
                    one.max_at[state] = at.try_into().unwrap_or(0);
                }
            }
            if let Some(rates) = &record.rates {
                let weight = f64::from(record.covered) / 1000.0;
                one.rated_seconds += weight;
                for (sum, of) in one.changes.iter_mut().zip(rates) {
                    sum.add_assign(f64::from(of.mean) * weight);
                }
            }
        }
        all
    }

    /// The minutes of the last `window` seconds, of one state or of all, as of `now`, which is `unix` milliseconds
    /// of the wall clock.
    #[must_use]
    pub fn report(&self, now: u64, unix: u64, window: u32, only: Option<State>) -> Vec<Minute> {
        let offset = signed(unix) - signed(now);
        let all = self.within(now, window);
        all.map(|record| record.report(offset - self.phase, only))
            .collect()
    }
}

impl Record {
    /// With times of the wall clock, by which minutes begin `offset` milliseconds later.
    fn report(&self, offset: i64, only: Option<State>) -> Minute {
        let start = i64::from(self.index) * MINUTE + offset;
        let time = |at: u16| milliseconds(start + i64::from(at)) / 1000.0;
        let gauge = |of: &Extreme<u32>| Extremes {
            min: of.min.into(),
            max: of.max.into(),
            mean: rounded(of.mean),
            max_at: time(of.max_at),
        };
        let rate = |of: &Extreme<f32>| Extremes {
            min: rounded(of.min),
            max: rounded(of.max),
            mean: rounded(of.mean),
            max_at: time(of.max_at),
        };
        let states = State::ALL.into_iter();
        let states = states.filter(|state| only.is_none_or(|only| only == *state));
        let is_for_all = only.is_none();
        let rates = self.rates.iter().filter(|_| is_for_all);
        let fullest = self.fullest;
        Minute {
            // The clocks drift apart by less than a second a day.
            start: u64::try_from((start + 500).div_euclid(1000)).unwrap_or(0),
            seconds: f64::from(self.covered) / 1000.0,
            degraded: self.degraded,
            states: states
                .map(|state| (state.name().into(), gauge(&self.gauges[state.index()])))
                .collect(),
            rates: rates
                .flat_map(|rates| RATES.into_iter().zip(rates))
                .map(|(name, of)| (name.into(), rate(of)))
                .collect(),
            accept_queues: is_for_all.then(|| gauge(&self.gauges[QUEUED])),
            fullest_accept_queue: (is_for_all && fullest.length > 0).then(|| FullestQueue {
                port: fullest.port,
                length: fullest.length,
                limit: fullest.limit,
                at: time(fullest.at),
            }),
        }
    }
}

/// Three digits after the point are as much as samples are worth.
fn rounded(value: f32) -> f64 {
    (f64::from(value) * 1000.0).round() / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "times are far below 2^53")]
const fn milliseconds(value: i64) -> f64 {
    value as f64
}

fn signed(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
