//! What was sampled of the tracker's namespace, and how the thread that samples is woken.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tcp_status_common::state::Family;
use tokio::sync::watch;

use super::{
    history::{GaugeRange, History},
    queues::Queues,
    reading::Reading,
};
use crate::snapshot::{Counts, Listener, Snapshot};

/// What was sampled so far.
pub struct Samples {
    pub(super) started: Instant,
    pub(super) period: Duration,
    pub(super) history: History,
    pub(super) queues: Queues,
    /// The sampler sleeps until something happens.
    pub(super) resting: bool,
    /// Counts, events since start, and connections that wait to be accepted.
    pub(super) last: (Counts, u64, u64),
    /// Notified when a sample differs from the one before.
    pub(super) changed: watch::Sender<()>,
    /// Request sockets.
    pub(super) requests: [u64; Family::COUNT],
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            period: Duration::ZERO,
            history: History::default(),
            queues: Queues::default(),
            resting: false,
            last: (Counts::default(), 0, 0),
            changed: watch::Sender::default(),
            requests: [0; Family::COUNT],
        }
    }
}

impl Samples {
    /// Adds to a snapshot what was seen within its window.
    pub(super) fn annotate(
        &self,
        window: u32,
        reading: &Reading,
        range: &GaugeRange,
        snapshot: &mut Snapshot,
        listeners: &mut [Listener],
    ) {
        let now = self.now();
        let period = u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX);
        snapshot.peaks = self.history.peaks(now, window, period, range);
        snapshot.rates = self
            .history
            .rates(now, window, &reading.transitions, reading.events);
        self.queues.annotate(now, window, listeners);
    }

    /// Milliseconds since the first sample could be taken.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Wakes the sampler, for good or for a look.
#[derive(Debug)]
pub(super) struct Waker {
    pub(super) event: EventFd,
    pub(super) end: AtomicBool,
}

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            event: EventFd::from_value_and_flags(0, flags)?,
            end: AtomicBool::new(false),
        })
    }

    pub(super) fn wake(&self) {
        // It can only be full, and has rung then.
        let _: nix::Result<usize> = self.event.write(1);
    }

    /// Whether the end was called for. Nothing that rang before counts any more.
    pub(super) fn stop_requested(&self) -> bool {
        // There is nothing to read if it has not rung.
        let _: nix::Result<u64> = self.event.read();
        self.end.load(Ordering::Acquire)
    }
}
