//! What a walk costs: processor time of the threads that walk, which a busy host does not inflate.

use std::{cell::Cell, time::Duration};

use nix::time::{ClockId, clock_gettime};

thread_local! {
    /// What others have spent for this thread.
    static ELSEWHERE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Runs since [`CpuTimer::start`].
pub struct CpuTimer(Duration);

impl CpuTimer {
    /// Begins to measure the calling thread.
    #[must_use]
    pub fn start() -> Self {
        Self(spent())
    }

    /// What the calling thread, which must be the one that started, has spent since, and others
    /// for it.
    #[must_use]
    pub fn spent(&self) -> Duration {
        spent().saturating_sub(self.0)
    }
}

/// All that the calling thread has spent since it began, and others for it. Zero if the clock cannot
/// be read, which no Linux kernel refuses.
#[must_use]
pub fn spent() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
        + ELSEWHERE.get()
}

/// Another thread has spent this for the calling one.
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
