//! Pushes readings to an OpenTelemetry collector: OTLP over HTTP, in JSON, without TLS, so to one on
//! this host or in a network that is trusted. What cannot be delivered waits in a bounded queue.

mod payload;
mod request;

use std::{
    collections::VecDeque,
    fs,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hyper::body::Bytes;
use tokio::{
    pin, select,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use self::{
    payload::Times,
    request::{Delivery, post},
};
use super::{Limits, Source, calls::Calls, connections::Peer, protocol::Show};

pub use request::{Target, TargetError};

/// Readings that wait for the collector; the oldest are dropped for a new one.
const QUEUE: usize = 60;

/// What they may take together, in bytes; one alone may take more.
const QUEUE_BYTES: usize = 8 << 20;

/// The first pause after a failure; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Pushes a reading every `period`, until `shutdown` completes. Needs a runtime with timers and I/O.
pub async fn push(
    target: &Target,
    period: Duration,
    source: Arc<dyn Source>,
    shutdown: impl Future<Output = ()>,
) {
    let mut exporter = Exporter::new(target, source);
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pin!(shutdown);
    loop {
        select! {
            biased;
            () = &mut shutdown => return,
            _ = ticks.tick() => select! {
                biased;
                () = &mut shutdown => return,
                // However long it took, what was read is sent before the next.
                () = exporter.read() => ticks.reset(),
            },
            () = sleep_until(exporter.next), if !exporter.queue.is_empty() => select! {
                biased;
                () = &mut shutdown => return,
                () = exporter.send() => {}
            },
        }
    }
}

struct Exporter<'a> {
    target: &'a Target,
    calls: Calls,
    host: String,
    start: u64,
    queue: VecDeque<Bytes>,
    /// When the oldest is sent.
    next: Instant,
    /// The last pause; zero while the collector takes everything.
    pause: Duration,
    /// Readings that were not delivered since the last one that was.
    lost: u64,
}

impl<'a> Exporter<'a> {
    fn new(target: &'a Target, source: Arc<dyn Source>) -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            target,
            calls: Calls::new(source, &Limits::DEFAULT),
            host: host.trim_end().to_owned(),
            start: now(),
            queue: VecDeque::new(),
            next: Instant::now(),
            pause: Duration::ZERO,
            lost: 0,
        }
    }

    async fn read(&mut self) {
        let query = Show {
            all_netns: true,
            ..Show::default()
        };
        let (host, start) = (self.host.clone(), self.start);
        // It may be megabytes: put together outside of the event loop.
        let call = self.calls.call(Peer::User(0), move |source| {
            let snapshots = source.show(&query)?;
            let times = Times { start, now: now() };
            Ok(payload::body(&host, &snapshots, times))
        });
        match call.await.flatten() {
            Ok(body) => self.enqueue(body.into()),
            Err(error) => log::debug!(error:%; "no reading to push"),
        }
    }

    fn enqueue(&mut self, body: Bytes) {
        let mut bytes = body.len() + self.queue.iter().map(Bytes::len).sum::<usize>();
        while self.queue.len() >= QUEUE || bytes > QUEUE_BYTES {
            let Some(oldest) = self.queue.pop_front() else {
                break;
            };
            bytes -= oldest.len();
            self.lost += 1;
        }
        self.queue.push_back(body);
    }

    /// Sends the oldest reading.
    async fn send(&mut self) {
        let Some(body) = self.queue.front() else {
            return;
        };
        let delivery = post(self.target, body.clone()).await;
        let first = self.pause.is_zero();
        match delivery {
            Delivery::Taken => {
                self.queue.pop_front();
                if !first {
                    log::info!(lost = self.lost; "metrics pushed again");
                }
                (self.pause, self.lost) = (Duration::ZERO, 0);
                return;
            }
            Delivery::Later { why, after } => {
                let pause = after.unwrap_or((self.pause * 2).max(FIRST_PAUSE));
                self.pause = pause.clamp(FIRST_PAUSE, LONGEST_PAUSE);
                self.report(first, &why);
            }
            Delivery::Refused(why) => {
                self.queue.pop_front();
                self.lost += 1;
                self.pause = FIRST_PAUSE;
                self.report(first, &why);
            }
        }
        self.next = Instant::now() + self.pause;
    }

    fn report(&self, first: bool, why: &str) {
        let target = self.target;
        if first {
            log::warn!(target:%, why; "metrics not pushed");
        } else {
            log::debug!(target:%, why; "metrics not pushed yet");
        }
    }
}

/// In nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos().try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        serve::protocol::{ApiError, Get},
        snapshot::{Counts, Snapshot, Tier},
    };

    struct Empty;

    impl Source for Empty {
        fn get(&self, _: &Get) -> Result<u64, ApiError> {
            unreachable!("readings are pushed")
        }

        fn show(&self, _: &Show) -> Result<Vec<Snapshot>, ApiError> {
            Ok(vec![Snapshot::of(Tier::Full, 1, [Counts::default(); 2])])
        }
    }

    #[tokio::test]
    async fn a_collector_that_is_away_for_long_costs_the_oldest_readings() {
        let target = "http://127.0.0.1:1".parse().unwrap();
        let mut exporter = Exporter::new(&target, Arc::new(Empty));
        exporter.read().await;
        let oldest = exporter.queue[0].clone();
        for _ in 0..QUEUE + 4 {
            exporter.read().await;
        }
        assert_eq!((exporter.queue.len(), exporter.lost), (QUEUE, 5));
        assert!(!exporter.queue.contains(&oldest));
        exporter.enqueue(vec![0; QUEUE_BYTES].into());
        exporter.enqueue(vec![0; QUEUE_BYTES].into());
        assert_eq!((exporter.queue.len(), exporter.lost), (1, 66));
    }
}
