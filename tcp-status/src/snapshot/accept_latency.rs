//! Time that connections waited in the accept queue of a port, as a histogram.

use std::iter;

use serde::{Deserialize, Serialize};
use tcp_status_common::accept::{BOUNDS, BUCKETS};

/// Connections that were accepted since start, by the time from the end of the handshake to `accept()`,
/// of which the kernel keeps whole jiffies. Connections by Fast Open are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AcceptLatency {
    /// Local port; none for all ports beyond the limit together.
    pub port: Option<u16>,
    /// How many there were.
    pub accepted: u64,
    /// The sum of their times, in seconds.
    pub sum_seconds: f64,
    /// Median in seconds, interpolated within its bucket.
    pub p50_seconds: f64,
    /// 99th percentile in seconds; 10 where it is longer.
    pub p99_seconds: f64,
    /// How many belong to each of [`AcceptLatency::bounds`].
    pub buckets: [u64; BUCKETS],
}

impl AcceptLatency {
    /// From what was counted.
    #[must_use]
    pub fn new(port: Option<u16>, buckets: [u64; BUCKETS], sum_seconds: f64) -> Self {
        Self {
            port: port.filter(|&port| port > 0),
            accepted: buckets.iter().sum(),
            sum_seconds,
            p50_seconds: quantile(0.5, &buckets),
            p99_seconds: quantile(0.99, &buckets),
            buckets,
        }
    }

    /// Upper bounds of the buckets in seconds, each part of its bucket; the last is infinite.
    pub fn bounds() -> impl Iterator<Item = f64> {
        let bounds = BOUNDS.iter().map(|&bound| f64::from(bound) / 1e6);
        bounds.chain([f64::INFINITY])
    }
}

/// As `histogram_quantile()` of Prometheus; 0 of nothing.
fn quantile(quantile: f64, buckets: &[u64; BUCKETS]) -> f64 {
    let rank = quantile * buckets.iter().sum::<u64>() as f64;
    let mut below = 0.0;
    let mut lower = 0.0;
    for (bound, &count) in iter::zip(AcceptLatency::bounds(), buckets) {
        let count = count as f64;
        if count > 0.0 && below + count >= rank {
            return match bound.is_finite() {
                true => lower + (bound - lower) * (rank - below) / count,
                false => lower,
            };
        }
        below += count;
        lower = bound;
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::{AcceptLatency, BUCKETS};

    fn of(filled: &[(usize, u64)]) -> AcceptLatency {
        let mut buckets = [0; BUCKETS];
        for &(bucket, count) in filled {
            buckets[bucket] = count;
        }
        AcceptLatency::new(Some(443), buckets, 1.5)
    }

    fn assert_near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-9, "{found}, not {wanted}");
    }

    #[test]
    fn percentiles_are_those_of_prometheus() {
        // 90 below a jiffy, 10 of 50 to 100 ms: the median is in the middle of the first 90.
        let latency = of(&[(0, 90), (5, 10)]);
        assert_eq!(latency.accepted, 100);
        assert_near(latency.p50_seconds, 0.001 * 50.0 / 90.0);
        assert_near(latency.p99_seconds, 0.05 + 0.05 * 0.9);
        // Longer than the last bound.
        assert_near(of(&[(BUCKETS - 1, 1)]).p99_seconds, 10.0);
        assert_near(of(&[]).p50_seconds, 0.0);
    }
}
