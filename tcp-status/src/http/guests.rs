//! Who is connected, and who has to go: deadlines, and whom to drop when there are too many.
//! Knows no HTTP.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{task::AbortHandle, time::Instant};

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// It has not asked anything since it came.
    Came(Instant),
    /// It has been answered: it may still be reading the answer, and may ask again.
    Answered(Instant),
    /// Its answer is being made.
    Asked,
}

/// How long a connection may stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stay {
    /// Until its first request is complete.
    pub(super) request: Duration,
    /// From an answer until the next request is complete.
    pub(super) idle: Duration,
}

/// The open connections, by number.
#[derive(Debug)]
pub(super) struct Guests {
    stay: Stay,
    open: Mutex<BTreeMap<u64, (Stage, Option<AbortHandle>)>>,
}

impl Guests {
    pub(super) const fn new(stay: Stay) -> Self {
        Self {
            stay,
            open: Mutex::new(BTreeMap::new()),
        }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, (Stage, Option<AbortHandle>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has come; `spawn` starts its task.
    pub(super) fn come(&self, number: u64, spawn: impl FnOnce() -> Option<AbortHandle>) {
        // Held until the handle is in: the task takes it out again.
        let mut open = self.open();
        open.insert(number, (Stage::Came(Instant::now()), spawn()));
    }

    pub(super) fn leave(&self, number: u64) {
        self.open().remove(&number);
    }

    pub(super) fn asked(&self, number: u64) {
        self.enter(number, Stage::Asked);
    }

    pub(super) fn answered(&self, number: u64) {
        self.enter(number, Stage::Answered(Instant::now()));
    }

    fn enter(&self, number: u64, stage: Stage) {
        if let Some((now, _)) = self.open().get_mut(&number) {
            *now = stage;
        }
    }

    /// When to look again whether a connection has to go; none if it has to go now.
    pub(super) fn may_stay_until(&self, number: u64) -> Option<Instant> {
        let now = Instant::now();
        let deadline = match self.open().get(&number)?.0 {
            Stage::Came(since) => since + self.stay.request,
            Stage::Answered(since) => since + self.stay.idle,
            Stage::Asked => now + self.stay.idle,
        };
        (deadline > now).then_some(deadline)
    }

    /// Drops the connection that is missed least: of those that have not asked anything the one
    /// that came first, else of those that were answered the one that was so first. None whose
    /// answer is being made. Whether there was one.
    pub(super) fn drop_one(&self) -> bool {
        let mut open = self.open();
        let idle = open.iter().filter(|(_, (stage, _))| *stage != Stage::Asked);
        let Some(number) = idle
            .min_by_key(|(_, (stage, _))| *stage)
            .map(|(number, _)| *number)
        else {
            return false;
        };
        if let Some((_, Some(handle))) = open.remove(&number) {
            handle.abort();
        }
        true
    }

    /// Drops every connection whose answer is not being made.
    pub(super) fn drop_idle(&self) {
        while self.drop_one() {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Guests, Stay};

    const STAY: Stay = Stay {
        request: Duration::from_millis(20),
        idle: Duration::from_secs(3600),
    };

    fn open(guests: &Guests) -> Vec<u64> {
        guests.open().keys().copied().collect()
    }

    #[test]
    fn those_who_never_asked_go_first_and_those_who_wait_for_an_answer_stay() {
        let guests = Guests::new(STAY);
        for number in 0..6 {
            guests.come(number, || None);
        }
        guests.asked(0);
        guests.asked(1);
        guests.answered(1);
        guests.asked(3);
        guests.answered(3);
        guests.asked(1);
        guests.answered(1);
        for left in [
            vec![0, 1, 3, 4, 5],
            vec![0, 1, 3, 5],
            vec![0, 1, 3],
            vec![0, 1],
            vec![0],
            vec![0],
        ] {
            guests.drop_one();
            assert_eq!(open(&guests), left);
        }
        guests.come(7, || None);
        guests.drop_idle();
        assert_eq!(open(&guests), [0]);
    }

    #[test]
    fn who_does_not_ask_in_time_has_to_go() {
        let guests = Guests::new(STAY);
        guests.come(1, || None);
        guests.come(2, || None);
        assert!(guests.may_stay_until(1).is_some());
        guests.asked(2);
        std::thread::sleep(STAY.request * 2);
        assert_eq!(guests.may_stay_until(1), None);
        assert!(guests.may_stay_until(2).is_some());
        guests.answered(2);
        assert!(guests.may_stay_until(2).is_some());
        guests.leave(2);
        assert_eq!(guests.may_stay_until(2), None);
    }
}
