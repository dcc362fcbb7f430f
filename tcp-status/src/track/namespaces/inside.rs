//! What only the inside of another namespace tells: counters of full queues, and settings. Readings
//! of all namespaces enter few at a time, those first where something may have changed.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tcp_status_common::counters::NetnsId;

use crate::{
    kernel::{
        procfs,
        sysctl::{self, Settings},
    },
    snapshot::{Overflows, Syncookies},
};

/// How many namespaces one reading enters at most.
const AT_ONCE: usize = 16;

/// How old what was read may get where nothing seems to happen.
const AT_REST: Duration = Duration::from_secs(600);

/// How old it may get where something happens.
const BUSY: Duration = Duration::from_secs(1);

/// What was read inside a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inside {
    pub(crate) overflows: Option<Overflows>,
    pub(crate) syncookies: Option<Syncookies>,
    pub(crate) settings: Settings,
}

impl Inside {
    /// Reads the calling thread's namespace.
    pub(crate) fn read() -> Result<Self, procfs::Error> {
        let (overflows, syncookies) = procfs::queue_counters()?;
        Ok(Self {
            overflows,
            syncookies,
            settings: sysctl::settings(),
        })
    }
}

/// A namespace that may be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) netns: NetnsId,
    /// Events counted there since start.
    pub(crate) events: u64,
    /// Whether a connection waits for a listener.
    pub(crate) queued: bool,
}

#[derive(Debug)]
struct Cached {
    /// None where it cannot be entered.
    inside: Option<Inside>,
    events: u64,
    taken: Instant,
}

/// What was last read inside each namespace.
#[derive(Debug, Default)]
pub(crate) struct InsideCache(BTreeMap<NetnsId, Cached>);

impl InsideCache {
    pub(crate) fn get(&self, netns: NetnsId) -> Option<Inside> {
        self.0.get(&netns)?.inside
    }

    /// Removes the namespaces that are not `kept`.
    pub(crate) fn retain(&mut self, kept: impl Fn(NetnsId) -> bool) {
        self.0.retain(|&netns, _| kept(netns));
    }

    pub(crate) fn put(&mut self, candidate: Candidate, inside: Option<Inside>, taken: Instant) {
        let cached = Cached {
            inside,
            events: candidate.events,
            taken,
        };
        self.0.insert(candidate.netns, cached);
    }

    /// Those that are to be entered, the most urgent first: those that never were, then those where
    /// something happened, then the others, the longest ago first.
    pub(crate) fn due(&self, candidates: Vec<Candidate>, now: Instant) -> Vec<Candidate> {
        let urgency = |candidate: &Candidate| {
            let Some(cached) = self.0.get(&candidate.netns) else {
                return Some((2, Duration::MAX));
            };
            let age = now.saturating_duration_since(cached.taken);
            let changed = candidate.queued || candidate.events != cached.events;
            match changed {
                true if age >= BUSY => Some((1, age)),
                _ if age >= AT_REST => Some((0, age)),
                _ => None,
            }
        };
        let due = candidates.into_iter();
        let mut due: Vec<_> = due.filter_map(|one| Some((urgency(&one)?, one))).collect();
        due.sort_by_key(|&(urgency, _)| Reverse(urgency));
        due.truncate(AT_ONCE);
        due.into_iter().map(|(_, candidate)| candidate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{AT_ONCE, AT_REST, BUSY, Candidate, Duration, InsideCache, Instant};

    fn candidate(netns: u64, events: u64) -> Candidate {
        Candidate {
            netns,
            events,
            queued: false,
        }
    }

    #[test]
    fn few_are_entered_at_once_the_most_urgent_first() {
        let (mut cache, now) = (InsideCache::default(), Instant::now());
        let many: Vec<_> = (1..=100).map(|netns| candidate(netns, 5)).collect();
        assert_eq!(cache.due(many.clone(), now).len(), AT_ONCE);
        for &one in &many {
            cache.put(one, None, now);
        }
        let later = now + BUSY;
        assert_eq!(cache.due(many.clone(), later), []);
        let mut moved = many.clone();
        moved[50].events = 6;
        moved[70].queued = true;
        moved.push(candidate(200, 0));
        assert_eq!(
            cache
                .due(moved.clone(), now + Duration::from_millis(1))
                .len(),
            1
        );
        let due = cache.due(moved, later);
        let due: Vec<_> = due.iter().map(|one| one.netns).collect();
        assert_eq!(due, [200, 51, 71]);
        assert_eq!(cache.due(many, now + AT_REST).len(), AT_ONCE);
        cache.retain(|netns| netns == 1);
        assert_eq!(cache.due(vec![candidate(1, 5)], later), []);
        assert_eq!(cache.due(vec![candidate(2, 5)], later).len(), 1);
    }
}
