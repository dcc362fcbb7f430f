//! Limits how often a thread warns.

use std::time::{Duration, Instant};

/// Limits a warning to one per minute.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    last: Option<Instant>,
    suppressed: u64,
}

impl Limiter {
    const PAUSE: Duration = Duration::from_secs(60);

    /// Whether to warn at `now`: if so, how many warnings were suppressed before.
    pub(crate) fn allow(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now - last < Self::PAUSE) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }

    /// The same, and nothing where there is nothing `notable`.
    pub(crate) fn allow_if(&mut self, notable: bool, now: Instant) -> Option<u64> {
        notable.then(|| self.allow(now)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::Limiter;

    #[test]
    fn one_warning_a_minute_says_how_many_there_were() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        assert_eq!(limiter.allow(start), Some(0));
        assert_eq!(limiter.allow(start), None);
        assert_eq!(limiter.allow_if(false, start), None);
        assert_eq!(limiter.allow_if(true, start + Limiter::PAUSE / 2), None);
        assert_eq!(limiter.allow(start + Limiter::PAUSE), Some(2));
        assert_eq!(limiter.allow(start + 2 * Limiter::PAUSE), Some(0));
    }
}
