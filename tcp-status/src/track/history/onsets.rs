//! When the conditions of problems began to hold, in bounded memory. Pure: the caller passes the time in
//! milliseconds, of a clock that is never set.

use std::collections::HashMap;

use crate::snapshot::{FINE_WINDOW, ProblemKey, Rule};

/// A condition that holds again within so many milliseconds has gone on.
const GAP: u64 = 10_000;

/// Maximum number of problems with an onset: any user may open listeners.
const MAX_ONSETS: usize = 1024;

/// When a problem began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Onset {
    /// When its condition was first seen to hold.
    pub began: u64,
    /// Whether it was seen not to hold before; otherwise it may be older.
    pub is_exact: bool,
    /// When it was first seen not to hold any more.
    ended: Option<u64>,
}

impl Onset {
    fn goes_on(&self, now: u64) -> bool {
        self.ended
            .is_none_or(|ended| now.saturating_sub(ended) <= GAP)
    }
}

/// The onsets of problems. Each is kept while its condition holds, and for the longest window after that in which
/// a queue counts as one that was full.
#[derive(Debug, Default)]
pub struct Onsets {
    onsets: HashMap<ProblemKey, Onset>,
    /// When each rule was last evaluated.
    evaluated: HashMap<Rule, u64>,
}

impl Onsets {
    /// At which ports the condition of a rule holds now, in ascending order, and at no others; none if that is not
    /// known.
    pub fn record(&mut self, now: u64, rule: Rule, ports: Option<&[u16]>) {
        let Some(ports) = ports else {
            return self.interrupt(rule);
        };
        for ((of, port), onset) in &mut self.onsets {
            if *of == rule && ports.binary_search(port).is_err() {
                onset.ended.get_or_insert(now);
            }
        }
        let oldest = now.saturating_sub(u64::from(FINE_WINDOW) * 1000);
        self.onsets
            .retain(|_, onset| onset.ended.is_none_or(|ended| ended >= oldest));
        self.make_room();
        let is_exact = self.evaluated.contains_key(&rule);
        for &port in ports {
            self.begin(now, (rule, port), is_exact);
        }
        self.evaluated.insert(rule, now);
    }

    /// The onset of a problem that a query finds, perhaps before the next sample does.
    pub fn observe(&mut self, now: u64, key: ProblemKey) -> Option<Onset> {
        // What nothing samples would never end.
        if self.evaluated.contains_key(&key.0) {
            self.make_room();
            self.begin(now, key, true);
        }
        self.last(key).filter(|onset| onset.goes_on(now))
    }

    /// From its last evaluation on, it is not known whether the condition of a rule holds.
    pub fn interrupt(&mut self, rule: Rule) {
        let Some(last) = self.evaluated.remove(&rule) else {
            return;
        };
        for ((of, _), onset) in &mut self.onsets {
            if *of == rule {
                onset.ended.get_or_insert(last);
            }
        }
    }

    /// The last onset of a problem, which may have ended.
    #[must_use]
    pub fn last(&self, key: ProblemKey) -> Option<Onset> {
        self.onsets.get(&key).copied()
    }

    /// Forgets what has ended, where there is no room.
    fn make_room(&mut self) {
        if self.onsets.len() >= MAX_ONSETS {
            self.onsets.retain(|_, onset| onset.ended.is_none());
        }
    }

    fn begin(&mut self, now: u64, key: ProblemKey, is_exact: bool) {
        if let Some(onset) = self.onsets.get_mut(&key)
            && onset.goes_on(now)
        {
            onset.ended = None;
            return;
        }
        if self.onsets.len() < MAX_ONSETS {
            let onset = Onset {
                began: now,
                is_exact,
                ended: None,
            };
            self.onsets.insert(key, onset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FINE_WINDOW, GAP, MAX_ONSETS, Onsets, Rule};

    const RULE: Rule = Rule::AcceptQueueOverflow;
    const KEY: (Rule, u16) = (RULE, 80);
    const NONE: Option<&[u16]> = Some(&[]);
    const FULL: Option<&[u16]> = Some(&[80]);

    /// When it began, and whether exactly then.
    fn of(onsets: &Onsets, key: (Rule, u16)) -> Option<(u64, bool)> {
        onsets.last(key).map(|onset| (onset.began, onset.is_exact))
    }

    #[test]
    fn a_short_gap_is_none_and_a_long_one_ends_it() {
        let mut onsets = Onsets::default();
        onsets.record(0, RULE, NONE);
        onsets.record(100, RULE, FULL);
        onsets.record(200, RULE, NONE);
        onsets.record(200 + GAP, RULE, FULL);
        assert_eq!(of(&onsets, KEY), Some((100, true)));
        onsets.record(300 + GAP, RULE, NONE);
        onsets.record(301 + 2 * GAP, RULE, FULL);
        assert_eq!(of(&onsets, KEY), Some((301 + 2 * GAP, true)));
        let end = 400 + 2 * GAP;
        onsets.record(end, RULE, NONE);
        onsets.record(end + u64::from(FINE_WINDOW) * 1000, RULE, NONE);
        assert!(of(&onsets, KEY).is_some());
        onsets.record(end + u64::from(FINE_WINDOW) * 1000 + 1, RULE, NONE);
        assert_eq!(of(&onsets, KEY), None);
    }

    #[test]
    fn what_was_there_first_is_older_than_the_samples() {
        let mut onsets = Onsets::default();
        assert_eq!(onsets.observe(5, KEY), None);
        onsets.record(10, RULE, FULL);
        onsets.record(20, RULE, FULL);
        assert_eq!(of(&onsets, KEY), Some((10, false)));
        // Nothing is known for long enough to have ended it.
        onsets.interrupt(RULE);
        assert_eq!(onsets.observe(21 + GAP, KEY), None);
        onsets.record(21 + GAP, RULE, FULL);
        assert_eq!(of(&onsets, KEY), Some((21 + GAP, false)));
        onsets.record(22 + GAP, RULE, None);
        onsets.record(23 + GAP, RULE, FULL);
        assert_eq!(of(&onsets, KEY), Some((21 + GAP, false)));
    }

    #[test]
    fn a_query_may_be_the_first_to_see_it() {
        let mut onsets = Onsets::default();
        onsets.record(0, RULE, NONE);
        onsets.observe(50, KEY);
        onsets.record(100, RULE, FULL);
        onsets.observe(150, KEY);
        assert_eq!(of(&onsets, KEY), Some((50, true)));
        assert_eq!(of(&onsets, (Rule::SynQueueFull, 80)), None);
    }

    #[test]
    fn memory_is_bounded_and_what_has_ended_makes_room() {
        let ports: Vec<u16> = (1..3000).collect();
        let mut onsets = Onsets::default();
        onsets.record(0, RULE, Some(&ports));
        assert_eq!(onsets.onsets.len(), MAX_ONSETS);
        onsets.record(1, RULE, Some(&ports[..1]));
        onsets.record(2, RULE, Some(&ports[2000..2001]));
        assert_eq!(of(&onsets, (RULE, ports[2000])), Some((2, true)));
    }
}
