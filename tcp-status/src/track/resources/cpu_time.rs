//! Processor time of walks, which does not grow on a busy host as elapsed time does.

use std::{cell::Cell, time::Duration};

use nix::time::{ClockId, clock_gettime};

thread_local! {
    /// Processor time that other threads spent for this one.
    static ELSEWHERE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Measures from [`CpuTimer::start`].
pub struct CpuTimer(Duration);

impl CpuTimer {
    /// Starts to measure the calling thread.
    #[must_use]
    pub fn start() -> Self {
        Self(spent())
    }

    /// Processor time since [`CpuTimer::start`] on this thread, with that of others for it.
    #[must_use]
    pub fn spent(&self) -> Duration {
        spent().saturating_sub(self.0)
    }
}

/// Processor time of the calling thread since its start, with that of others for it. Zero if the clock
/// cannot be read, which no Linux kernel refuses.
#[must_use]
pub fn spent() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
        + ELSEWHERE.get()
}

/// Adds processor time of another thread to the calling one.
pub fn charge(time: Duration) {
    ELSEWHERE.set(ELSEWHERE.get() + time);
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::{CpuTimer, charge, spent};

    #[test]
    fn what_others_spend_for_a_thread_is_its_cost() {
        let timer = CpuTimer::start();
        let worker = thread::spawn(|| {
            while spent() < Duration::from_millis(20) {}
            spent()
        });
        let spent_there = worker.join().unwrap();
        assert!(timer.spent() < spent_there);
        charge(spent_there);
        assert!(timer.spent() >= spent_there);
    }
}
