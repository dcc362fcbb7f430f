//! What was sampled of the tracker's namespace, and how the thread that samples is woken.

use std::{
    collections::BTreeMap,
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tcp_status_common::state::{Family, State};
use tokio::sync::watch;

use super::{
    minutes::Minutes,
    onsets::Onsets,
    queue_counters::QueueCounters,
    seconds::{GaugeRange, History},
};
use crate::{
    kernel::sysctl,
    snapshot::{
        Counts, FINE_WINDOW, Listener, Rule, SCHEMA, Snapshot, minutes::History as HistoryReport,
    },
    track::answers::{queues::Queues, reading::Reading},
};

/// Time between two readings of the namespace's settings, in milliseconds.
const SETTINGS_AGE: u64 = 1000;

/// What was sampled so far.
pub struct Samples {
    pub(crate) started: Instant,
    pub(crate) period: Duration,
    pub(crate) history: History,
    pub(crate) minutes: Minutes,
    pub(crate) queues: Queues,
    pub(crate) queue_counters: QueueCounters,
    pub(crate) onsets: Onsets,
    /// Unix time when the first sample could be taken, in milliseconds.
    epoch: u64,
    /// Settings of the namespace, and when they were read.
    settings: Option<(u64, sysctl::Settings)>,
    /// The sampler sleeps until something happens.
    pub(crate) resting: bool,
    /// Counts, events since start, and connections that wait to be accepted.
    pub(crate) last: (Counts, u64, u64),
    /// Notified when a sample differs from the one before.
    pub(crate) changed: watch::Sender<()>,
    /// Request sockets.
    pub(crate) requests: [u64; Family::COUNT],
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            period: Duration::ZERO,
            history: History::default(),
            minutes: Minutes::new(0, unix_time()),
            queues: Queues::default(),
            queue_counters: QueueCounters::default(),
            onsets: Onsets::default(),
            epoch: unix_time(),
            settings: None,
            resting: false,
            last: (Counts::default(), 0, 0),
            changed: watch::Sender::default(),
            requests: [0; Family::COUNT],
        }
    }
}

impl Samples {
    /// Adds to a snapshot what was seen within its window.
    pub(crate) fn annotate(
        &mut self,
        window: u32,
        reading: &Reading,
        range: &GaugeRange,
        snapshot: &mut Snapshot,
        listeners: &mut [Listener],
    ) {
        self.extend_minutes();
        let now = self.now();
        let period = self.period_milliseconds();
        let Reading {
            transitions,
            events,
            ..
        } = reading;
        let long = (window > FINE_WINDOW).then(|| self.minutes.extremes(now, window));
        if let Some(before) = long.flatten() {
            snapshot.peaks = self.history.peaks(now, FINE_WINDOW, period, range);
            if let Some(peaks) = &mut snapshot.peaks {
                before.extend(now, peaks);
            }
            snapshot.rates = before.rates();
        } else {
            snapshot.peaks = self.history.peaks(now, window, period, range);
            snapshot.rates = self.history.rates(now, window, transitions, *events);
        }
        if let Some(peaks) = &mut snapshot.peaks {
            peaks.include(&snapshot.states);
        }
        snapshot.state_seconds = Some(self.minutes.state_seconds());
        self.queues.annotate(now, window, listeners);
        let counters = (snapshot.overflows, snapshot.syncookies);
        snapshot.queue_rates = self.queue_counters.rates(now, window, counters);
    }

    /// What was sampled in the last `since` seconds, of one state or of all.
    pub(crate) fn history(&mut self, netns: u32, since: u32, only: Option<State>) -> HistoryReport {
        self.extend_minutes();
        let (now, unix) = (self.now(), unix_time());
        HistoryReport {
            schema: SCHEMA,
            netns,
            now: Duration::from_millis(unix).as_secs_f64(),
            since_seconds: since,
            sample_milliseconds: u32::try_from(self.period_milliseconds()).unwrap_or(u32::MAX),
            peaks: BTreeMap::new(),
            minutes: self.minutes.report(now, unix, since, only),
        }
        .with_peaks()
    }

    /// Adds to each problem of a snapshot when it began.
    pub(crate) fn annotate_problems(&mut self, snapshot: &mut Snapshot) {
        let now = self.now();
        // A time stays what it was as long as the clock is not set.
        let epoch = unix_time().saturating_sub(now);
        if epoch.abs_diff(self.epoch) > 1000 {
            self.epoch = epoch;
        }
        for problem in &mut snapshot.problems {
            let onset = match problem.rule {
                Rule::AcceptQueueFilling => self.onsets.last(problem.key()),
                _ => self.onsets.observe(now, problem.key()),
            };
            let Some(onset) = onset else { continue };
            let at = Duration::from_millis(self.epoch + onset.began).as_secs_f64();
            if onset.is_exact {
                problem.since = Some(at);
            } else {
                problem.since_before = Some(at);
            }
        }
    }

    /// Nothing is known from the last sample to the next one.
    pub(crate) fn interrupt(&mut self) {
        self.minutes.interrupt();
        self.interrupt_conditions();
    }

    /// From the last sample on, it is not known whether problems last.
    pub(crate) fn interrupt_conditions(&mut self) {
        for rule in Rule::ALL {
            self.onsets.interrupt(rule);
        }
    }

    /// Settings of the namespace that were read a moment ago, if so.
    pub(crate) fn settings(&self) -> Option<sysctl::Settings> {
        let (read, settings) = self.settings?;
        (self.now() - read < SETTINGS_AGE).then_some(settings)
    }

    /// Keeps settings that were read just now.
    pub(crate) fn keep_settings(&mut self, settings: sysctl::Settings) {
        self.settings = Some((self.now(), settings));
    }

    fn period_milliseconds(&self) -> u64 {
        u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX)
    }

    /// Extends the minutes to the present: the last sample still holds.
    pub(crate) fn extend_minutes(&mut self) {
        let now = self.now();
        if self.resting {
            self.minutes.record_rest(now);
        } else {
            self.minutes.extend(now);
        }
    }

    /// Milliseconds since the first sample could be taken.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Milliseconds of Unix time.
pub(crate) fn unix_time() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    time.map_or(0, |time| {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Wakes the sampler, for good or for a look.
#[derive(Debug)]
pub(crate) struct Waker {
    pub(crate) event: EventFd,
    pub(crate) end: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            event: EventFd::from_value_and_flags(0, flags)?,
            end: AtomicBool::new(false),
        })
    }

    pub(crate) fn wake(&self) {
        // It can only be full, and has rung then.
        let _: nix::Result<usize> = self.event.write(1);
    }

    /// Whether the end was called for. Nothing that rang before counts any more.
    pub(crate) fn stop_requested(&self) -> bool {
        // There is nothing to read if it has not rung.
        let _: nix::Result<u64> = self.event.read();
        self.end.load(Ordering::Acquire)
    }
}
