//! What a walk costs: processor time of the calling thread, which a busy host does not inflate.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Runs since [`Cost::start`].
pub struct Cost(Duration);

impl Cost {
    /// Begins to measure the calling thread.
    #[must_use]
    pub fn start() -> Self {
        Self(spent())
    }

    /// What the calling thread, which must be the one that started, has spent since.
    #[must_use]
    pub fn spent(&self) -> Duration {
        spent().saturating_sub(self.0)
    }
}

/// Zero if the clock cannot be read, which no Linux kernel refuses.
fn spent() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
