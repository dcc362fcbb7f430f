//! Minutes of made-up samples.

use std::net::Ipv4Addr;

use super::{Minutes, Sample, State, Totals};
use crate::{
    snapshot::{Counts, Listener},
    track::history::seconds::GaugeRange,
};

/// 12:00:20 of some day.
const UNIX: u64 = 1_800_014_420_000;
const START: u64 = UNIX / 1000 - 20;

fn sample(established: u64, totals: Totals) -> Sample {
    let mut counts = Counts::default();
    counts[State::Established] = established;
    Sample::new(counts, GaugeRange::exact(&counts), totals, &[])
}

fn opened(count: u64) -> Totals {
    [0, count, 0, 0, 0, 0, count]
}

fn listener(port: u16, accept_queue: u32, accept_queue_limit: u32) -> Listener {
    Listener {
        accept_queue,
        ..Listener::new(Ipv4Addr::LOCALHOST.into(), port, accept_queue_limit)
    }
}

#[test]
fn a_minute_has_its_extremes_its_mean_and_the_time_of_its_peak() {
    let mut minutes = Minutes::new(0, UNIX);
    // Ten for 10 s, 40 for 5 s, 0 for the rest of the minute, and into the next one.
    for (now, established) in [(0, 10), (10_000, 40), (15_000, 0)] {
        minutes.record(now, sample(established, opened(0)));
    }
    minutes.extend(50_000);
    let all = minutes.report(50_000, UNIX + 50_000, 600, None);
    assert_eq!(all.len(), 2, "{all:#?}");
    let [first, second] = [&all[0], &all[1]];
    assert_eq!((first.start, second.start), (START, START + 60));
    assert_eq!((first.seconds, second.seconds), (40.0, 10.0));
    let of = first.states["established"];
    assert_eq!((of.min, of.max), (0, 40));
    assert!((of.mean - (10.0 * 10.0 + 40.0 * 5.0) / 40.0).abs() < 0.01);
    assert!((of.max_at - (UNIX as f64 / 1000.0 + 10.0)).abs() < 0.001);
    let of = second.states["established"];
    assert_eq!((of.min, of.max, of.mean), (0, 0, 0.0));
    assert_eq!(first.states.len(), State::COUNT);
    let in_state = minutes.state_seconds();
    assert_eq!(in_state[State::Established], 10.0 * 10.0 + 40.0 * 5.0);
    assert_eq!(in_state[State::Listen], 0.0);
    let one = minutes.report(50_000, UNIX + 50_000, 1, Some(State::Listen));
    assert_eq!((one.len(), one[0].states.len()), (1, 1));
    assert!(one[0].rates.is_empty() && one[0].accept_queues.is_none());
}

/// In the reduced tier, bounds of what is not known between two walks may cross each other.
#[test]
fn a_mean_lies_between_its_extremes() {
    let state = State::TimeWait;
    let mut minutes = Minutes::new(0, UNIX);
    for (now, [least, count, most]) in [(0, [3, 20, 45]), (10_000, [0, 30, 37])] {
        let [least, counts, most] = [least, count, most].map(|number| {
            let mut counts = Counts::default();
            counts[state] = number;
            counts
        });
        let range = GaugeRange { least, most };
        minutes.record(now, Sample::new(counts, range, opened(0), &[]));
    }
    minutes.extend(20_000);
    let of = minutes.report(20_000, UNIX + 20_000, 60, Some(state))[0].states[state.name()];
    assert_eq!((of.min, of.mean, of.max), (25, 25.0, 25), "{of:?}");
    let extremes = minutes.extremes(20_000, 3600).unwrap();
    assert_eq!((extremes.min[state], extremes.max[state]), (25, 25));
}

#[test]
fn a_minute_at_rest_has_the_resting_value_and_no_rate() {
    let mut minutes = Minutes::new(0, UNIX);
    minutes.record(0, sample(7, opened(0)));
    // Thirty in the last half second before the rest.
    minutes.record(500, sample(7, opened(30)));
    for now in [100_000, 100_000, 200_000] {
        minutes.record_rest(now);
    }
    minutes.record(200_000, sample(7, opened(1)));
    let all = minutes.report(200_000, UNIX + 200_000, 600, None);
    assert_eq!(all.len(), 4);
    for minute in &all {
        let of = minute.states["established"];
        assert_eq!((of.min, of.max, of.mean), (7, 7, 7.0), "{minute:?}");
    }
    let rates: Vec<_> = all.iter().map(|one| one.rates["passive_open"]).collect();
    // Not more than if it were a second.
    assert_eq!((rates[0].min, rates[0].max), (0.0, 30.0));
    assert!((rates[0].mean - 30.0 / 40.5).abs() < 0.01, "{:?}", rates[0]);
    for rate in &rates[1..] {
        assert_eq!((rate.min, rate.max, rate.mean), (0.0, 0.0, 0.0));
    }
}

#[test]
fn rates_are_by_the_second() {
    let mut minutes = Minutes::new(0, UNIX);
    for tenth in 0..400_u64 {
        // 50 a second, and 500 a second from 20 s to 22 s.
        let more = tenth.clamp(200, 220) - 200;
        minutes.record(tenth * 100, sample(0, opened(tenth * 5 + more * 45)));
    }
    let all = minutes.report(39_900, UNIX + 39_900, 60, None);
    let rate = all[0].rates["passive_open"];
    assert_eq!((rate.min, rate.max), (50.0, 500.0));
    assert!((rate.mean - (50.0 * 37.0 + 500.0 * 2.0) / 39.0).abs() < 0.01);
    assert!((rate.max_at - (UNIX as f64 / 1000.0 + 21.0)).abs() < 0.001);
    let rates = minutes.extremes(39_900, 3600).unwrap().rates().unwrap();
    assert!(
        (rates.passive_open - 2850.0 / 39.0).abs() < 0.01,
        "{rates:?}"
    );
}

#[test]
fn what_was_not_sampled_is_absent_and_doubts_are_marked() {
    let mut minutes = Minutes::new(0, UNIX);
    minutes.record(0, sample(5, opened(0)));
    minutes.extend(10_000);
    minutes.interrupt();
    minutes.extend(280_000);
    let mut degraded = sample(6, opened(0));
    degraded.degraded = true;
    minutes.record(290_000, degraded);
    minutes.extend(300_000);
    let all = minutes.report(300_000, UNIX + 300_000, 3600, None);
    let shown: Vec<_> = all
        .iter()
        .map(|one| (one.start - START, one.seconds, one.degraded))
        .collect();
    assert_eq!(shown, [(0, 10.0, false), (300, 10.0, true)]);
    assert!(all[1].rates.is_empty(), "{:?}", all[1]);
}

#[test]
fn the_fullest_queue_is_by_share_of_its_limit() {
    let mut minutes = Minutes::new(0, UNIX);
    let with = |listeners: &[Listener]| {
        let counts = Counts::default();
        Sample::new(counts, GaugeRange::exact(&counts), opened(0), listeners)
    };
    minutes.record(0, with(&[listener(80, 100, 4096), listener(81, 0, 0)]));
    minutes.record(5_000, with(&[listener(80, 90, 4096), listener(82, 9, 8)]));
    minutes.record(6_000, with(&[listener(80, 90, 4096)]));
    let minute = minutes.report(6_000, UNIX, 60, None).remove(0);
    let queues = minute.accept_queues.unwrap();
    assert_eq!((queues.min, queues.max), (90, 100));
    let fullest = minute.fullest_accept_queue.unwrap();
    assert_eq!((fullest.port, fullest.length, fullest.limit), (82, 9, 8));
}

#[test]
fn a_day_is_kept_and_no_more_of_memory() {
    let mut minutes = Minutes::new(0, UNIX);
    let mut now = 0;
    let used = allocation_counter::measure(|| {
        for minute in 0..3000 {
            now = minute * 60_000;
            minutes.record(now, sample(minute, opened(minute)));
            minutes.record(now + 30_000, sample(0, opened(minute)));
        }
    });
    assert!(used.bytes_max <= 1 << 20, "{used:?}");
    assert!(
        minutes.closed.len() <= super::KEPT,
        "{}",
        minutes.closed.len()
    );
    let all = minutes.report(now, UNIX + now, 86_400, Some(State::Established));
    assert_eq!(all.len(), 1441);
    assert_eq!(all[0].start, START + (2999 - 1440) * 60);
    assert_eq!(all[0].states["established"].max, 2999 - 1440);
    let extremes = minutes.extremes(now, 7200).unwrap();
    assert_eq!(extremes.max[State::Established], 2999);
    assert_eq!(extremes.min[State::Established], 0);
}
