//! What is seen between two polls: a thread samples gauges and accept queues of the tracker's own
//! namespace, at a fixed period, or more rarely where a sample costs too much.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tcp_status_common::state::State;

use super::{
    answer::Effort,
    assemble::assemble,
    cost::Cost,
    history::History,
    queues::{self, Queues},
    ticker::Ticker,
    tracker::{Reading, Tracker, lock},
};
use crate::{
    server::protocol::Refusal,
    snapshot::{Counts, Listener, Snapshot},
};

/// The most of one core that samples may take: many listeners make them rarer.
const SHARE: f64 = 0.02;

/// What was sampled so far.
pub struct Samples {
    started: Instant,
    period: Duration,
    history: History,
    queues: Queues,
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            period: Duration::ZERO,
            history: History::default(),
            queues: Queues::default(),
        }
    }
}

impl Samples {
    /// Adds to a snapshot what was seen within its window.
    pub(super) fn tell(
        &self,
        window: u32,
        reading: &Reading,
        snapshot: &mut Snapshot,
        listeners: &mut [Listener],
    ) {
        let now = self.now();
        let period = u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX);
        snapshot.peaks = self.history.peaks(now, window, period, &snapshot.states);
        snapshot.rates = self
            .history
            .rates(now, window, &reading.transitions, reading.events);
        self.queues.tell(now, window, listeners);
    }

    /// Milliseconds since the first sample could be taken.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The thread that samples. Ends when dropped.
pub struct Sampler {
    _ticker: Ticker,
}

impl Sampler {
    /// Starts sampling `tracker`.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn spawn(tracker: Arc<Tracker>) -> io::Result<Self> {
        let shortest = tracker.settings.sample_interval;
        let mut failing = false;
        let ticker = Ticker::spawn("sample", Duration::ZERO, move || {
            let cost = Cost::start();
            let sampled = tracker.sample();
            if let Err(error) = &sampled
                && !failing
            {
                log::warn!(error:%; "peaks are incomplete");
            }
            failing = sampled.is_err();
            let period = shortest.max(cost.spent().div_f64(SHARE));
            lock(&tracker.samples).period = period;
            period
        })?;
        Ok(Self { _ticker: ticker })
    }
}

impl Tracker {
    /// Takes one sample. Walks over listeners, and over nothing else.
    fn sample(&self) -> Result<(), Refusal> {
        let reading = self.read(self.netns).map_err(super::answer::unavailable)?;
        let gauges = reading.gauges;
        let listeners = self.listeners(self.netns, &gauges)?;
        let requests = queues::total(&queues::requests(&listeners));
        let beside = self.beside(self.netns, &gauges, requests, &State::ALL, Effort::Last)?;
        let [mut counts, v6] = assemble(&gauges, &beside);
        counts += &v6;
        self.keep_sample(&reading, &counts, &listeners);
        Ok(())
    }

    fn keep_sample(&self, reading: &Reading, counts: &Counts, listeners: &[Listener]) {
        let mut samples = lock(&self.samples);
        let now = samples.now();
        samples
            .history
            .enter(now, counts, &reading.transitions, reading.events);
        samples.queues.enter(now, listeners);
    }
}
