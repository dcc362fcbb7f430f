//! Bounded mixed churn: workers that open and close connections in every order that the
//! kernel knows, drawn by a seeded generator. Leaves nothing behind but what the kernel keeps
//! for a while: TIME_WAIT, and for a few seconds half-open connections of closed listeners.

mod closing;
mod context;
mod opening;
mod report;

pub use context::Ctx;
pub use report::{Report, ScenarioTotals};

use std::{
    io,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rand::RngExt;

/// One way to open and close. May fail only when a call fails that should not.
pub type Scenario = fn(&mut Ctx) -> io::Result<()>;

/// What churn draws from, each with the same chance.
pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("client_first", closing::client_first),
    ("server_first", closing::server_first),
    ("both_at_once", closing::both_at_once),
    ("both_raced", closing::both_raced),
    ("client_reset", closing::client_reset),
    ("server_reset", closing::server_reset),
    ("half_closed", closing::half_closed),
    ("unread_data", closing::unread_data),
    ("orphan_fin_wait1", closing::orphan_fin_wait1),
    ("reset_fin_wait1", closing::reset_fin_wait1),
    ("orphan_fin_wait2", closing::orphan_fin_wait2),
    ("reset_fin_wait2", closing::reset_fin_wait2),
    ("last_ack", closing::last_ack),
    ("reset_closing", closing::reset_closing),
    ("disconnected", closing::disconnected),
    ("time_wait_reused", closing::time_wait_reused),
    ("refused", opening::refused),
    ("connect_aborted", opening::connect_aborted),
    ("connect_disconnected", opening::connect_disconnected),
    ("accept_queue_overflow", opening::accept_queue_overflow),
    ("listener_closed", opening::listener_closed),
    ("listen_again", opening::listen_again),
    ("deferred_data", opening::deferred_data),
    ("deferred_closed", opening::deferred_closed),
    ("deferred_reset", opening::deferred_reset),
    ("deferred_overflow", opening::deferred_overflow),
    (
        "deferred_listener_closed",
        opening::deferred_listener_closed,
    ),
    ("simultaneous_open", opening::simultaneous_open),
    ("fast_open", opening::fast_open),
];

/// What churn does not draw, since it makes the kernel's own events contradict each other:
/// only an audit can tell (the family of a socket changes while it is open).
pub const CONTRARY: &[(&str, Scenario)] = &[("address_form", closing::address_form)];

/// How much churn.
#[derive(Clone, Debug)]
pub struct Churn {
    /// Threads.
    pub workers: usize,
    /// Stop after so many connections, give or take a few per worker.
    pub connections: Option<u64>,
    /// Stop after so long.
    pub duration: Option<Duration>,
    /// Seed of the first worker; the others count up from it.
    pub seed: u64,
}

impl Churn {
    /// Runs until a bound is reached; for ever where there is none.
    ///
    /// # Errors
    /// When a worker cannot start. Scenarios that fail are counted in the report.
    pub fn run(&self) -> io::Result<Report> {
        self.start()?.wait()
    }

    /// Starts the workers, in the calling thread's namespace.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn start(&self) -> io::Result<Running> {
        self.start_paced(None)
    }

    /// The same, with at most so many connections a second.
    ///
    /// # Errors
    /// As [`Churn::start`].
    pub fn start_paced(&self, per_second: Option<u32>) -> io::Result<Running> {
        let mut running = Running {
            shared: Arc::new(Shared {
                stop: AtomicBool::new(false),
                connections: AtomicU64::new(0),
                pause: RwLock::new(()),
            }),
            seed: self.seed,
            started: Instant::now(),
            workers: Vec::new(),
        };
        for (number, seed) in (self.seed..).take(self.workers.max(1)).enumerate() {
            let (shared, bounds) = (Arc::clone(&running.shared), self.clone());
            let worker = thread::Builder::new()
                .name(format!("churn-{number}"))
                .spawn(move || work(&shared, &bounds, seed, per_second))?;
            running.workers.push(worker);
        }
        Ok(running)
    }
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    connections: AtomicU64,
    /// Shared by the scenarios that are going on.
    pause: RwLock<()>,
}

/// Churn that is going on. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    seed: u64,
    started: Instant,
    workers: Vec<thread::JoinHandle<io::Result<Report>>>,
}

impl Running {
    /// Connections opened so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Calls `f` while no scenario is going on.
    pub fn paused<T>(&self, f: impl FnOnce() -> T) -> T {
        let _paused = self
            .shared
            .pause
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        f()
    }

    /// Ends it, and waits until every socket is closed.
    ///
    /// # Errors
    /// As [`Churn::run`].
    pub fn stop(self) -> io::Result<Report> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Waits until a bound is reached and every socket is closed.
    ///
    /// # Errors
    /// As [`Churn::run`].
    ///
    /// # Panics
    /// When a worker did.
    pub fn wait(mut self) -> io::Result<Report> {
        let mut report = Report::new(self.seed);
        for worker in self.workers.drain(..) {
            let part = worker.join().expect("a churn worker panicked")?;
            report.add(part);
        }
        report.elapsed = self.started.elapsed();
        Ok(report)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            // Its report is not wanted any more.
            let _ = worker.join();
        }
    }
}

fn work(shared: &Shared, bounds: &Churn, seed: u64, per_second: Option<u32>) -> io::Result<Report> {
    let start = Instant::now();
    let mut ctx = Ctx::new(seed, None)?;
    let mut report = Report::new(seed);
    while !shared.stop.load(Ordering::Relaxed) {
        let scenario = ctx.rng.random_range(0..SCENARIOS.len());
        let going_on = shared.pause.read().unwrap_or_else(PoisonError::into_inner);
        let made = report.run(&mut ctx, scenario);
        drop(going_on);
        let all = shared.connections.fetch_add(made, Ordering::Relaxed) + made;
        if bounds.connections.is_some_and(|most| all >= most)
            || bounds.duration.is_some_and(|most| start.elapsed() >= most)
        {
            break;
        }
        if let Some(per_second) = per_second {
            let due = Duration::from_secs_f64(all as f64 / f64::from(per_second));
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    Ok(report)
}
