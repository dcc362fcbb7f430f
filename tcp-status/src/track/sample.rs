//! What is seen between two polls: a thread samples gauges and accept queues of the tracker's own
//! namespace, at a fixed period, or more rarely where a sample costs too much.

use std::{
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tcp_status_common::state::{Family, State};

use super::{
    answer::unavailable,
    assemble::assemble,
    beside::Effort,
    cost::Cost,
    history::{History, Known},
    queues::Queues,
    reading::Reading,
    tracker::{Tracker, lock},
};
use crate::{
    bpf::wait,
    kernel::procfs,
    server::protocol::Refusal,
    snapshot::{Counts, Listener, Snapshot},
};
use tcp_status_common::counters::OWN_NETNS;

/// So many samples without any change, and the sampler rests.
const QUIET: u32 = 20;

/// How often it is looked for what changes without an event or a segment, at least.
const LOOK: Duration = Duration::from_secs(1);

/// The most of one core that samples may take: many listeners make them rarer.
const SHARE: f64 = 0.02;

/// What was sampled so far.
pub struct Samples {
    started: Instant,
    period: Duration,
    history: History,
    queues: Queues,
    /// The sampler sleeps until something happens.
    resting: bool,
    /// Counts, events since start, and connections that wait to be accepted.
    last: (Counts, u64, u64),
    /// Request sockets.
    requests: [u64; Family::COUNT],
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
            requests: [0; Family::COUNT],
        }
    }
}

impl Samples {
    /// Adds to a snapshot what was seen within its window.
    pub(super) fn tell(
        &self,
        window: u32,
        reading: &Reading,
        known: &Known,
        snapshot: &mut Snapshot,
        listeners: &mut [Listener],
    ) {
        let now = self.now();
        let period = u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX);
        snapshot.peaks = self.history.peaks(now, window, period, known);
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

/// Wakes the sampler, for good or for a look.
#[derive(Debug)]
pub(super) struct Bell {
    event: EventFd,
    end: AtomicBool,
}

impl Bell {
    fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            event: EventFd::from_value_and_flags(0, flags)?,
            end: AtomicBool::new(false),
        })
    }

    fn ring(&self) {
        // It can only be full, and has rung then.
        let _: nix::Result<usize> = self.event.write(1);
    }

    /// Whether the end was called for. Nothing that rang before counts any more.
    fn is_over(&self) -> bool {
        // There is nothing to read if it has not rung.
        let _: nix::Result<u64> = self.event.read();
        self.end.load(Ordering::Acquire)
    }
}

/// The thread that samples. Ends when dropped.
pub struct Sampler {
    bell: Arc<Bell>,
}

impl Sampler {
    /// Starts sampling `tracker`.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn spawn(tracker: Arc<Tracker>) -> io::Result<Self> {
        let bell = Arc::new(Bell::new()?);
        let rung = Arc::clone(tracker.bell.get_or_init(|| Arc::clone(&bell)));
        thread::Builder::new()
            .name("sample".into())
            .spawn(move || {
                let mut sampling = Sampling::default();
                while !rung.is_over() {
                    if let Err(error) = sampling.turn(&tracker, &rung)
                        && !sampling.failing
                    {
                        log::warn!(error:%; "peaks are incomplete");
                        sampling.failing = true;
                    }
                }
            })?;
        Ok(Self { bell })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.bell.end.store(true, Ordering::Release);
        self.bell.ring();
    }
}

/// What the thread remembers.
#[derive(Default)]
struct Sampling {
    failing: bool,
    /// Samples since something changed.
    quiet: u32,
}

impl Sampling {
    /// One sample, and the pause after it: for as long as nothing happens, if nothing did for a
    /// while. Then an event ends it at once, and what changes without one is seen by the audit's
    /// looks.
    fn turn(&mut self, tracker: &Tracker, bell: &Bell) -> Result<(), Refusal> {
        let cost = Cost::start();
        let sampled = tracker.sample();
        let period = tracker
            .settings
            .sample_interval
            .max(cost.spent().div_f64(SHARE));
        lock(&tracker.samples).period = period;
        let moved = sampled.as_ref().map_or(true, |&moved| moved);
        self.quiet = if moved { 0 } else { self.quiet + 1 };
        self.failing &= sampled.is_err();
        let rested = if self.quiet < QUIET {
            wait(&[bell.event.as_fd()], Some(period)).map(drop)
        } else {
            rest(tracker, bell, period)
        };
        rested.map_err(unavailable)?;
        sampled.map(|_| ())
    }
}

fn rest(tracker: &Tracker, bell: &Bell, period: Duration) -> io::Result<()> {
    tracker.bpf.arm().map_err(io::Error::other)?;
    // What came before that wakes nobody.
    let moved = tracker.sample().unwrap_or(true);
    let rested = if moved {
        Ok(())
    } else {
        lock(&tracker.samples).resting = true;
        sleep(tracker, bell, period)
    };
    lock(&tracker.samples).resting = false;
    tracker.bpf.disarm().map_err(io::Error::other)?;
    rested
}

/// Sleeps until an event comes, or half-open connections, which make none: once in a `period` the
/// listeners are looked at, unless no segment came meanwhile, without which nothing is half-open.
fn sleep(tracker: &Tracker, bell: &Bell, period: Duration) -> io::Result<()> {
    let interval = tracker.settings.pace.interval;
    let limit = (interval > LOOK).then_some(LOOK);
    let (began, mut before) = (Instant::now(), segments());
    while !tracker.bpf.wait(bell.event.as_fd(), Some(period))? {
        let now = segments();
        let came = now.is_none() || now != before;
        before = now;
        let over = limit.is_some_and(|limit| began.elapsed() >= limit);
        if over || (came && tracker.has_other_requests().unwrap_or(true)) {
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
    fn has_other_requests(&self) -> Result<bool, Refusal> {
        let gauges = self.gauges(OWN_NETNS).map_err(unavailable)?;
        Ok(self.requests(OWN_NETNS, &gauges)? != lock(&self.samples).requests)
    }

    /// While the sampler rests, looks for what changes without an event: queues, and minisockets
    /// that end.
    pub(super) fn sample_at_rest(&self) {
        if lock(&self.samples).resting
            && self.sample().unwrap_or(true)
            && let Some(bell) = self.bell.get()
        {
            bell.ring();
        }
    }

    /// Takes one sample, and says whether it differs from the last. Walks over listeners, and over
    /// nothing else.
    fn sample(&self) -> Result<bool, Refusal> {
        let split = self.hooks.split();
        let reading = self.read(OWN_NETNS).map_err(unavailable)?;
        let gauges = reading.gauges;
        let (listeners, half_open) = self.half_open(OWN_NETNS, &gauges)?;
        let requests = half_open.total();
        let beside = self.beside(
            OWN_NETNS,
            (split, &gauges),
            requests,
            &State::ALL,
            Effort::Last,
        )?;
        let [mut counts, v6] = assemble(&gauges, &beside);
        counts += &v6;
        let known = self.known(OWN_NETNS, split, &counts, &beside)?;
        let mut samples = lock(&self.samples);
        let now = samples.now();
        samples
            .history
            .enter(now, &known, &reading.transitions, reading.events);
        samples.requests = requests;
        samples.queues.enter(now, &listeners);
        let queued = listeners
            .iter()
            .map(|one| u64::from(one.accept_queue))
            .sum();
        let last = (counts, reading.events, queued);
        Ok(std::mem::replace(&mut samples.last, last) != last)
    }
}
