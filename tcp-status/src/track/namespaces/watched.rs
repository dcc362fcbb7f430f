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

/// One namespace, as it was last seen.
pub(crate) struct Watched {
    pub(crate) record: NamespaceRecord,
    /// When an event was last found.
    pub(crate) moved: Instant,
    /// How many events there were when a pass last found what is counted.
    pub(crate) confirmed: Option<u64>,
    /// When it was last known to be right.
    pub(crate) verified: Instant,
    /// What the last pass found amiss, after how many events.
    pub(crate) found: Option<(u64, Missing)>,
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

    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed == Some(self.record.events) && self.found.is_none()
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
    /// during which `events` did not change; none if it cannot be said.
    pub(crate) fn judge(
        &mut self,
        rested: bool,
        missing: Missing,
        began: Instant,
    ) -> Option<Missing> {
        let events = self.record.events;
        let agreed = if missing == Missing::default() {
            true
        } else if rested {
            let found = self.found.as_ref();
            found.is_some_and(|(at, found)| (*at, found) == (events, &missing))
        } else {
            // What is in flight differs from pass to pass, what is off does not.
            let (found, times) = &self.found_between;
            let times = if *found == missing { times + 1 } else { 1 };
            self.found_between = (missing.clone(), times);
            times >= AGREEING
        };
        if !agreed {
            if rested {
                self.found = Some((events, missing));
            }
            return None;
        }
        self.found = None;
        self.found_between = (Missing::default(), 0);
        self.confirmed = Some(events);
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
}
