//! One namespace beside the tracker's own: whether it is at rest, and when its counts are confirmed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tcp_status_common::counters::NamespaceRecord;

use crate::{bpf::CgroupSum, track::gauge::Gauges};

/// So long without an event, and a namespace is at rest.
const QUIET: Duration = Duration::from_millis(200);

/// How many passes have to find the same amiss where no rest precedes them.
const AGREEING: u32 = 3;

/// By how much the sockets that are listed in a namespace exceed those that are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) gauges: Gauges,
    /// Of each cgroup for which they differ.
    pub(crate) cgroups: BTreeMap<u64, CgroupSum>,
}

/// What does not change in a namespace while nothing happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Events counted there.
    events: u64,
    /// The kernel's own number of its minisockets, where events count them: it does not change
    /// without an event, unless one was missed.
    timewait: Option<u32>,
}

/// One namespace, as it was last seen.
pub(crate) struct Watched {
    pub(crate) record: NamespaceRecord,
    /// Whether events count its minisockets.
    counts_timewait: bool,
    /// When an event was last found.
    pub(crate) moved: Instant,
    /// The moment at which a pass last found what is counted.
    pub(crate) confirmed: Option<Moment>,
    /// When it was last known to be right.
    pub(crate) verified: Instant,
    /// What the last pass found amiss, and when.
    pub(crate) found: Option<(Moment, Missing)>,
    /// What the last passes between two events found amiss, and how many these were.
    found_between: (Missing, u32),
    /// After how many events its ports without a socket were last given back.
    pub(crate) ports_freed_at: Option<u64>,
    /// The same of cgroups.
    pub(crate) cgroups_freed_at: Option<u64>,
    /// A port of it has a listener, and had no room when it was last looked for.
    pub(crate) lacks_room: bool,
    /// The same of a cgroup of it that has sockets.
    pub(crate) lacks_cgroup_slot: bool,
}

impl Watched {
    pub(crate) fn new(record: NamespaceRecord, now: Instant) -> Self {
        Self {
            record,
            counts_timewait: false,
            moved: now,
            confirmed: None,
            verified: now,
            found: None,
            found_between: (Missing::default(), 0),
            ports_freed_at: None,
            cgroups_freed_at: None,
            lacks_room: false,
            lacks_cgroup_slot: false,
        }
    }

    /// Enters what was read of it.
    pub(crate) fn observe(&mut self, record: NamespaceRecord, counts_timewait: bool, now: Instant) {
        let (before, moved) = (self.moment(), self.record.events != record.events);
        (self.record, self.counts_timewait) = (record, counts_timewait);
        if moved {
            self.moved = now;
        }
        if self.moment() != before {
            self.found = None;
        }
    }

    pub(crate) const fn moment(&self) -> Moment {
        Moment {
            events: self.record.events,
            timewait: match self.counts_timewait {
                true => Some(self.record.timewait),
                false => None,
            },
        }
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed == Some(self.moment()) && self.found.is_none()
    }

    pub(crate) fn is_at_rest(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.moved) >= QUIET
    }

    /// Whether it was not at rest, and not confirmed, for so long.
    pub(crate) fn is_restless_for(&self, time: Duration, now: Instant) -> bool {
        !self.is_confirmed()
            && !self.is_at_rest(now)
            && now.saturating_duration_since(self.verified) >= time
    }

    /// By how much the counts are corrected after a pass that met `missing` sockets more, and
    /// during which its moment did not change; none if it cannot be said.
    pub(crate) fn judge(
        &mut self,
        rested: bool,
        missing: Missing,
        began: Instant,
    ) -> Option<Missing> {
        let moment = self.moment();
        let agreed = if missing == Missing::default() {
            true
        } else if rested {
            let found = self.found.as_ref();
            found.is_some_and(|(at, found)| (*at, found) == (moment, &missing))
        } else {
            // What is in flight differs from pass to pass, what is off does not.
            let (found, times) = &self.found_between;
            let times = if *found == missing { times + 1 } else { 1 };
            self.found_between = (missing.clone(), times);
            times >= AGREEING
        };
        if !agreed {
            if rested {
                self.found = Some((moment, missing));
            }
            return None;
        }
        self.found = None;
        self.found_between = (Missing::default(), 0);
        self.confirmed = Some(moment);
        self.verified = began;
        Some(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::{AGREEING, Instant, Missing, NamespaceRecord, QUIET, Watched};

    fn missing(by: i64) -> Missing {
        let mut missing = Missing::default();
        missing.gauges.0[0][1] = by;
        missing
    }

    #[test]
    fn what_two_passes_at_rest_agree_on_is_corrected() {
        let now = Instant::now();
        let mut watched = Watched::new(NamespaceRecord::NONE, now);
        assert!(!watched.is_at_rest(now) && watched.is_at_rest(now + QUIET));
        assert_eq!(watched.judge(true, missing(1), now), None);
        assert_eq!(watched.judge(true, missing(2), now), None);
        assert!(!watched.is_confirmed());
        assert_eq!(watched.judge(true, missing(2), now), Some(missing(2)));
        assert!(watched.is_confirmed());
        assert_eq!(watched.judge(true, missing(0), now), Some(missing(0)));
    }

    /// What is in flight when a pass comes is in no other pass.
    #[test]
    fn between_two_events_more_passes_have_to_agree() {
        let now = Instant::now();
        let mut watched = Watched::new(NamespaceRecord::NONE, now);
        for by in [1, 2, 1, 1, 3] {
            assert_eq!(watched.judge(false, missing(by), now), None);
        }
        for pass in 1..=AGREEING {
            watched.record.events += 1;
            let judged = watched.judge(false, missing(7), now);
            assert_eq!(judged.is_some(), pass == AGREEING);
        }
        assert_eq!(watched.judge(false, missing(0), now), Some(missing(0)));
    }
    /// The kernel has another number of minisockets, and no event came.
    #[test]
    fn a_total_that_differs_without_an_event_is_looked_into() {
        let now = Instant::now();
        let record = |events, timewait| NamespaceRecord {
            events,
            timewait,
            ..NamespaceRecord::NONE
        };
        for counts_timewait in [true, false] {
            let mut watched = Watched::new(record(5, 3), now);
            watched.observe(record(5, 3), counts_timewait, now);
            assert_eq!(watched.judge(true, missing(0), now), Some(missing(0)));
            watched.observe(record(5, 3), counts_timewait, now + QUIET);
            assert!(watched.is_confirmed());
            watched.observe(record(5, 2), counts_timewait, now + QUIET);
            assert_eq!(watched.is_confirmed(), !counts_timewait);
            // At once: it is at rest.
            assert!(watched.is_at_rest(now + QUIET));
            assert_eq!(watched.judge(true, missing(-1), now), None);
            assert_eq!(watched.judge(true, missing(-1), now), Some(missing(-1)));
            assert!(watched.is_confirmed());
        }
    }
}
