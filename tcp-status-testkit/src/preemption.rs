//! Tasks that stall inside connect(): one that runs only when nothing else wants its CPU, and one
//! that takes that CPU away from it for a while, again and again. What a loaded host does
//! now and then happens here many times a second.

use std::{
    hint, io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use rand::{SeedableRng, rngs::StdRng};

use crate::{
    Family, context,
    endpoints::{Endpoint, Listener, Style},
    netns::set_sysctl,
    sys,
};

/// Ports that clients may get: all but a few are taken, so that connect() takes its time to
/// find one. It has reported SYN_SENT then, and the socket is not listed yet.
const PORTS: u16 = 2000;
const FREE: u16 = 4;
const FIRST_PORT: u16 = 40_000;

/// How long the CPU is away, and for how long it is there in between.
const AWAY: Duration = Duration::from_millis(90);
const THERE: Duration = Duration::from_millis(4);

/// Longer than a stall is meant to be: something else took the CPU as well.
pub const LONG: Duration = Duration::from_millis(300);

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct PreemptionCounts {
    /// Connections and listeners that were opened.
    pub opened: u64,
    /// Calls of connect() and listen() that lasted so long that they must have stalled.
    pub stalled: u64,
    /// Those of them that lasted longer than [`LONG`].
    pub long: u64,
}

/// Connections that take all but a few ports of the calling thread's namespace, to one listener.
#[derive(Debug)]
pub struct PreemptedTask {
    listener: Listener,
    _held: Vec<(Endpoint, Endpoint)>,
    rng: StdRng,
}

impl PreemptedTask {
    /// Opens them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(seed: u64) -> io::Result<Self> {
        let range = format!("{FIRST_PORT} {}", FIRST_PORT + PORTS - 1);
        set_sysctl("ipv4/ip_local_port_range", &range)?;
        let mut rng = StdRng::seed_from_u64(seed);
        // From one address to one address: what must differ is the port.
        let listener = Listener::new(&mut rng, Family::V6, Style::PLAIN)?;
        let held = (0..PORTS - FREE)
            .map(|_| listener.pair(&mut rng))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            listener,
            _held: held,
            rng,
        })
    }

    /// Connects, listens and stalls on one CPU until `enough` says so, which runs in the calling
    /// thread, away from that CPU where there is another.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn stall(
        mut self,
        mut enough: impl FnMut(PreemptionCounts) -> bool,
    ) -> io::Result<PreemptionCounts> {
        let (here, elsewhere) = cpus()?;
        let seen = Mutex::new(PreemptionCounts::default());
        let stalls = || *seen.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = AtomicBool::new(false);
        let end = || ended.load(Ordering::Relaxed);
        thread::scope(|scope| {
            let busy = scope.spawn(|| {
                pin(&here)?;
                while !end() {
                    occupy(AWAY);
                    thread::sleep(THERE);
                }
                io::Result::Ok(())
            });
            let idle = scope.spawn(|| {
                pin(&here)?;
                sys::run_only_when_idle()?;
                while !end() {
                    let longest = self.open()?;
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.opened += 2;
                    seen.stalled += u64::from(longest > AWAY / 2);
                    seen.long += u64::from(longest > LONG);
                }
                io::Result::Ok(())
            });
            let watched = pin(&elsewhere);
            while watched.is_ok() && !enough(stalls()) && !idle.is_finished() {
                thread::sleep(Duration::from_millis(50));
            }
            ended.store(true, Ordering::Relaxed);
            let joined = [busy.join(), idle.join()];
            watched?;
            for result in joined {
                result.expect("a stalling thread does not panic")?;
            }
            Ok(stalls())
        })
    }

    /// One connection and one listener; how long the longer of the two calls took.
    fn open(&mut self) -> io::Result<Duration> {
        let (client, target) = self.listener.client(&mut self.rng)?;
        client.reset_on_close()?;
        let started = Instant::now();
        client
            .socket
            .connect(&target)
            .map_err(|error| context("connect, among taken ports", &error))?;
        let connected = started.elapsed();
        drop((client, self.listener.accept()?));
        let other = Endpoint::bound(&mut self.rng, Family::V4)?;
        let started = Instant::now();
        other.socket.listen(1)?;
        Ok(connected.max(started.elapsed()))
    }
}

/// Keeps the CPU from everybody of lower priority.
fn occupy(time: Duration) {
    let started = Instant::now();
    while started.elapsed() < time {
        hint::spin_loop();
    }
}

/// The last CPU that this thread may run on, and the others; twice the same where there is one.
fn cpus() -> io::Result<(CpuSet, CpuSet)> {
    let mut others = sched_getaffinity(Pid::from_raw(0))?;
    let allowed = |cpu: &usize| others.is_set(*cpu).unwrap_or(false);
    let mut all = (0..CpuSet::count()).filter(allowed);
    let (first, last) = (all.next(), all.next_back());
    let mut one = CpuSet::new();
    one.set(last.or(first).unwrap_or(0))?;
    if let Some(last) = last {
        others.unset(last)?;
    }
    Ok((one, others))
}

fn pin(cpus: &CpuSet) -> io::Result<()> {
    sched_setaffinity(Pid::from_raw(0), cpus)
        .map_err(|errno| context("pin, of this thread to its CPUs", &errno.into()))
}
