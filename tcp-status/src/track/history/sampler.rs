//! What is seen between two polls: a thread samples gauges and accept queues of the tracker's own
//! namespace, at a fixed period, or more rarely where a sample costs too much.

use std::{
    io,
    os::fd::AsFd as _,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use tcp_status_common::{counters::OWN_NETNS, state::State};

use super::{minutes::Sample, samples::Waker};
use crate::{
    bpf::wait,
    kernel::procfs,
    serve::protocol::ApiError,
    track::{
        answers::{api_error::unavailable, assemble::assemble, aux_counts::StalenessPolicy},
        resources::{cpu_time::CpuTimer, sync::lock},
        tracker::Tracker,
    },
};

/// So many samples without any change, and the sampler rests.
const QUIET: u32 = 20;

/// How often it is looked for what changes without an event or a segment, at least.
const LOOK: Duration = Duration::from_secs(1);

/// The most of one core that samples may take: many listeners make them rarer.
const SHARE: f64 = 0.02;

/// The thread that samples. Ends when dropped.
pub struct Sampler {
    waker: Arc<Waker>,
}

impl Sampler {
    /// Starts sampling `tracker`.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn spawn(tracker: Arc<Tracker>) -> io::Result<Self> {
        let waker = Arc::new(Waker::new()?);
        let stop_waker = Arc::clone(tracker.waker.get_or_init(|| Arc::clone(&waker)));
        thread::Builder::new()
            .name("sample".into())
            .spawn(move || {
                let mut sampling = SamplerLoop::default();
                while !stop_waker.stop_requested() {
                    if let Err(error) = sampling.sample_and_wait(&tracker, &stop_waker)
                        && !sampling.failing
                    {
                        log::warn!(error:%; "peaks are incomplete");
                        sampling.failing = true;
                    }
                }
            })?;
        Ok(Self { waker })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.waker.end.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// What the thread remembers.
#[derive(Default)]
struct SamplerLoop {
    failing: bool,
    /// Samples since something changed.
    quiet: u32,
}

impl SamplerLoop {
    /// One sample, and the pause after it: for as long as nothing happens, if nothing did for a
    /// while. Then an event ends it at once, and what changes without one is seen by the audit's
    /// looks.
    fn sample_and_wait(&mut self, tracker: &Tracker, waker: &Waker) -> Result<(), ApiError> {
        let timer = CpuTimer::start();
        let sampled = tracker.sample();
        let period = tracker
            .settings
            .sample_interval
            .max(timer.spent().div_f64(SHARE));
        lock(&tracker.samples).period = period;
        let moved = sampled.as_ref().map_or(true, |&moved| moved);
        self.quiet = if moved { 0 } else { self.quiet + 1 };
        self.failing &= sampled.is_err();
        if sampled.is_err() {
            lock(&tracker.samples).interrupt();
        }
        let rested = if self.quiet < QUIET {
            wait(&[waker.event.as_fd()], Some(period)).map(drop)
        } else {
            rest(tracker, waker, period)
        };
        rested.map_err(unavailable)?;
        sampled.map(|_| ())
    }
}

fn rest(tracker: &Tracker, waker: &Waker, period: Duration) -> io::Result<()> {
    tracker.bpf.arm().map_err(io::Error::other)?;
    // What came before that wakes nobody.
    let moved = tracker.sample().unwrap_or(true);
    let rested = if moved {
        Ok(())
    } else {
        lock(&tracker.samples).resting = true;
        sleep(tracker, waker, period)
    };
    {
        let mut samples = lock(&tracker.samples);
        if samples.resting {
            samples.extend_minutes();
        }
        samples.resting = false;
    }
    tracker.bpf.disarm().map_err(io::Error::other)?;
    rested
}

/// Sleeps until an event comes, or half-open connections, which make none: once in a `period` the
/// listeners are looked at, unless no segment came meanwhile, without which nothing is half-open.
fn sleep(tracker: &Tracker, waker: &Waker, period: Duration) -> io::Result<()> {
    let interval = tracker.settings.pace.interval;
    let limit = (interval > LOOK).then_some(LOOK);
    let (began, mut before) = (Instant::now(), segments());
    while !tracker.bpf.wait(waker.event.as_fd(), Some(period))? {
        let now = segments();
        let came = now.is_none() || now != before;
        before = now;
        let over = limit.is_some_and(|limit| began.elapsed() >= limit);
        if over || (came && tracker.requests_changed().unwrap_or(true)) {
            break;
        }
    }
    Ok(())
}

/// Segments received; none if they are not known.
fn segments() -> Option<u64> {
    procfs::segments().ok().flatten()
}

impl Tracker {
    /// Whether there are other request sockets than at the last sample.
    fn requests_changed(&self) -> Result<bool, ApiError> {
        let gauges = self.gauges(OWN_NETNS).map_err(unavailable)?;
        Ok(self.request_sockets(OWN_NETNS, &gauges)? != lock(&self.samples).requests)
    }

    /// Whether a count of the tracker's namespace may be off.
    fn is_degraded(&self) -> Result<bool, ApiError> {
        let unrecorded = self.unrecorded()?;
        let audit_state = self.audit_state();
        Ok(
            unrecorded != audit_state.unrecorded
                || audit_state.degraded(&audit_state.own).is_some(),
        )
    }

    /// While the sampler rests, looks for what changes without an event: queues, and minisockets
    /// that end.
    pub(crate) fn sample_at_rest(&self) {
        if lock(&self.samples).resting
            && self.sample().unwrap_or(true)
            && let Some(waker) = self.waker.get()
        {
            waker.wake();
        }
    }

    /// Reads the counters of full queues, once a second.
    fn sample_queue_counters(&self) {
        let is_due = {
            let samples = lock(&self.samples);
            samples.queue_counters.is_due(samples.now())
        };
        if !is_due {
            return;
        }
        match procfs::queue_counters() {
            Ok(counters) => {
                let mut samples = lock(&self.samples);
                let now = samples.now();
                samples.queue_counters.record(now, counters);
            }
            Err(error) => log::debug!(error:%; "the counters of full queues are not known"),
        }
    }

    /// Takes one sample, and says whether it differs from the last. Walks over listeners, and over
    /// nothing else.
    fn sample(&self) -> Result<bool, ApiError> {
        self.sample_queue_counters();
        let split = self.hooks.split();
        let reading = self.read(OWN_NETNS).map_err(unavailable)?;
        let gauges = reading.gauges;
        let (mut listeners, half_open) = self.half_open(OWN_NETNS, &gauges)?;
        let requests = half_open.total();
        let aux = self.aux_counts(
            OWN_NETNS,
            (split, &gauges),
            requests,
            &State::ALL,
            StalenessPolicy::UseCached,
        )?;
        let [mut counts, v6] = assemble(&gauges, &aux);
        counts += &v6;
        let range = self.gauge_range(OWN_NETNS, split, &counts, &aux)?;
        let totals = reading.transitions.totals(reading.events);
        let mut sample = Sample::new(counts, range, totals, &listeners);
        sample.degraded = self.is_degraded()?;
        let conditions = self.conditions(&counts, &mut listeners, (split, &gauges), &half_open);
        let mut samples = lock(&self.samples);
        let now = samples.now();
        samples
            .history
            .record(now, &range, &reading.transitions, reading.events);
        if samples.resting {
            samples.minutes.record_rest(now);
        }
        samples.minutes.record(now, sample);
        samples.requests = requests;
        samples.queues.record(now, &listeners);
        match conditions {
            Ok(conditions) => {
                for (rule, ports) in &conditions {
                    samples.onsets.record(now, *rule, ports.as_deref());
                }
            }
            // The counts were sampled all the same.
            Err(error) => {
                log::debug!(error:%; "the conditions of problems are not known");
                samples.interrupt_conditions();
            }
        }
        let queued = listeners
            .iter()
            .map(|one| u64::from(one.accept_queue))
            .sum();
        let last = (counts, reading.events, queued);
        let moved = std::mem::replace(&mut samples.last, last) != last;
        if moved {
            samples.changed.send_replace(());
        }
        Ok(moved)
    }
}
