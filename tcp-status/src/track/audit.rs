//! The audit: a thread that looks, at most once per interval, whether the counts may be off,
//! and has them counted again when they may.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    budget::Budget,
    confirm::Finding,
    cost::Cost,
    gauge::{Bounds, Gauges},
    invariants::{Accepted, Differences},
    memory,
    recount::Error,
    schedule::{Cause, Motion, Pace, due},
    ticker::Ticker,
    tracker::{Tracker, disagreement},
};
use crate::{
    bpf::LoadError,
    kernel::{procfs, quiesce::GRACE},
};
use tcp_status_common::counters::{NetnsId, OWN_NETNS};

/// So many looks an interval has while events come.
const LOOKS: u32 = 4;

/// How often namespaces that are gone are forgotten, whatever becomes of audits.
const FORGET: Duration = Duration::from_secs(5);

/// So long without an event, and things are at rest.
const QUIET: Duration = Duration::from_millis(200);

/// So long after the last event counts are taken for exact without an audit, on a host where events
/// were lost before.
const REST: Duration = Duration::from_secs(2);

/// The thread that audits. Ends when dropped, after the walk that it may be in.
pub struct Auditor {
    _ticker: Ticker,
}

impl Auditor {
    /// Starts auditing `tracker`.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn spawn(tracker: Arc<Tracker>) -> std::io::Result<Self> {
        let mut watch = Watch::new(&tracker);
        let interval = tracker.settings.pace.interval;
        let ticker = Ticker::spawn("audit", interval, move || {
            if let Err(error) = watch.look(&tracker) {
                if let Some(suppressed) = watch.failures.admit(Instant::now()) {
                    log::warn!(error:%, suppressed; "audit failed");
                }
                tracker.doubt(format!("the last audit failed: {error}"));
            }
            watch.pause(interval)
        })?;
        Ok(Self { _ticker: ticker })
    }
}

/// What was seen at the last look.
struct Watch {
    /// Events counted by then.
    events: u64,
    /// When a look last found more of them.
    last_event: Instant,
    /// When a whole interval was last over.
    looked: Instant,
    /// Events counted when the last audit began.
    audited: Option<u64>,
    /// The last audit began with no event since the look before it.
    settled: bool,
    /// What the kernel's totals differed by after the last audit, which they then do for a
    /// reason that is not ours.
    accepted: Accepted,
    /// Since when there has been a reason to expect a difference.
    suspected: Option<Instant>,
    /// The recounts of the last audit disagreed in some namespace.
    disagreed: bool,
    /// A port has got a listener since the last audit.
    unwalked: bool,
    budget: Budget,
    failures: Limiter,
    corrections: Limiter,
    /// When namespaces that are gone were last forgotten.
    forgot: Instant,
}

impl Watch {
    fn new(tracker: &Tracker) -> Self {
        let (share, cost) = (tracker.settings.pace.share, tracker.ledger().cost());
        let now = Instant::now();
        Self {
            events: 0,
            last_event: now,
            looked: now,
            audited: None,
            settled: false,
            accepted: Accepted::default(),
            suspected: None,
            disagreed: false,
            unwalked: true,
            budget: Budget::new(share, Pace::SAVED, cost, now),
            failures: Limiter::default(),
            corrections: Limiter::default(),
            forgot: now,
        }
    }

    /// The time to the next look: short until an audit has confirmed what events left, so that it
    /// comes soon after they cease.
    fn pause(&self, interval: Duration) -> Duration {
        if self.settled {
            interval
        } else {
            interval / LOOKS
        }
    }

    fn look(&mut self, tracker: &Tracker) -> Result<(), Error> {
        let (events, now) = (tracker.bpf.writers()?.counted, Instant::now());
        if events != self.events {
            (self.events, self.last_event) = (events, now);
        }
        let quiet = now - self.last_event >= QUIET;
        self.settled &= self.audited == Some(events);
        let mut suspicion = None;
        if now - self.looked >= tracker.settings.pace.interval {
            self.looked = now;
            tracker.bpf.flush_log();
            tracker.sample_at_rest();
            if now - self.forgot >= FORGET && self.last_event >= self.forgot {
                self.forgot = now;
                tracker.living()?;
            }
            suspicion = self.suspicion(tracker, quiet)?;
            self.mark(tracker, suspicion.as_ref())?;
        }
        let motion = {
            let ledger = tracker.ledger();
            Motion {
                since_audit: ledger.since_audit(),
                cost: ledger.cost(),
                saved: self.budget.saved(Instant::now()),
                moved: self.audited != Some(events),
                quiet,
                settled: self.settled,
                suspicion,
            }
        };
        if let Some(cause) = due(&tracker.settings.pace, &motion) {
            self.audited = Some(events);
            self.settled = quiet;
            let findings = self.audit(tracker)?;
            self.disagreed = findings.values().any(Finding::is_disagreement);
            self.report(tracker, &cause, &findings, !motion.moved)?;
            // Only what an audit has looked into and left: another kind of audit may have come
            // before what makes the difference.
            let in_doubt = tracker.ledger().own.doubt.is_some();
            if matches!(cause, Cause::Invariant(_)) && !in_doubt {
                self.accepted = tracker.bracket()?.1.least();
            }
        }
        Ok(())
    }

    /// Audits at the expense of the budget, whether that succeeds or not.
    fn audit(&mut self, tracker: &Tracker) -> Result<Findings, Error> {
        let cost = Cost::start();
        let audited = tracker.audit();
        let now = Instant::now();
        self.budget.spend(cost.spent(), now);
        self.budget.expect(tracker.ledger().cost(), now);
        memory::give_back();
        audited
    }

    /// A reason to expect a difference. What shows only in passing, because things move while they
    /// are read, is none.
    fn suspicion(&mut self, tracker: &Tracker, quiet: bool) -> Result<Option<Cause>, Error> {
        let mut found = self.contradiction(tracker)?;
        // A task may be preempted between two steps that belong together.
        for pause in [GRACE, 10 * GRACE] {
            if found.is_some() {
                thread::sleep(pause);
                found = self.contradiction(tracker)?;
            }
        }
        if found.is_some() {
            return Ok(found);
        }
        let doubt = {
            let ledger = tracker.ledger();
            ledger.doubt.is_some() || ledger.own.doubt.is_some()
        };
        if doubt {
            return Ok(Some(Cause::Failure));
        }
        if self.disagreed {
            return Ok(Some(Cause::Disagreement));
        }
        let unconfirmed = quiet && !self.settled && self.last_event.elapsed() >= REST;
        if unconfirmed && tracker.ledger().own.is_corrected() {
            return Ok(Some(Cause::Unconfirmed));
        }
        if tracker.hooks.need_seeding() {
            return Ok(Some(Cause::Hooks));
        }
        // A port gets its listener by an event.
        if !quiet || self.unwalked {
            self.unwalked = tracker.has_unwalked_ports()?;
        }
        Ok(self.unwalked.then_some(Cause::Ports))
    }

    /// Has readings show a reason to expect a difference: at once when nothing happens, else where
    /// it has stood long enough.
    fn mark(&mut self, tracker: &Tracker, suspicion: Option<&Cause>) -> Result<(), LoadError> {
        let now = Instant::now();
        let since = *self.suspected.get_or_insert(now);
        let at_rest = tracker.bpf.writers()?.counted == self.events;
        let marked = suspicion.filter(|cause| {
            let after = cause.marked_after();
            after.is_some_and(|after| at_rest || now - since >= after)
        });
        tracker.ledger_mut().suspicion = marked.cloned();
        if suspicion.is_none() {
            self.suspected = None;
        }
        Ok(())
    }

    /// What the counters cannot be, whatever moved while they were read.
    fn contradiction(&self, tracker: &Tracker) -> Result<Option<Cause>, Error> {
        let baseline = tracker.ledger().baseline;
        let missed = disagreement(&tracker.bpf)?.abs_diff(baseline);
        if missed > 0 {
            return Ok(Some(Cause::Missed(missed)));
        }
        let (bounds, differences) = tracker.bracket()?;
        let negative = bounds.most.negative().map(Cause::Negative);
        Ok(negative.or_else(|| differences.beyond(&self.accepted).map(Cause::Invariant)))
    }

    /// Logs what an audit found. `at_rest`: no event came since the audit before it.
    fn report(
        &mut self,
        tracker: &Tracker,
        cause: &Cause,
        findings: &Findings,
        at_rest: bool,
    ) -> Result<(), Error> {
        for (&id, finding) in findings {
            let netns = tracker.inode(id);
            let (recounts, corrected) = (finding.recounts(), finding.describe());
            if corrected.is_empty() {
                log::debug!(cause:%, netns, recounts; "audited");
                continue;
            }
            let notable = at_rest || finding.is_notable(&tracker.gauges(id)?);
            match self.corrections.admit_if(notable, Instant::now()) {
                Some(suppressed) => {
                    log::warn!(cause:%, netns, recounts, corrected = corrected.as_str(), suppressed;
                        "audit corrected the counts");
                }
                None => {
                    log::debug!(cause:%, netns, recounts, corrected = corrected.as_str();
                        "audit corrected the counts");
                }
            }
        }
        Ok(())
    }
}

/// Limits a warning to one per minute.
#[derive(Debug, Default)]
struct Limiter {
    last: Option<Instant>,
    suppressed: u64,
}

impl Limiter {
    const PAUSE: Duration = Duration::from_secs(60);

    /// Whether to warn at `now`: if so, how many warnings were suppressed before.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now - last < Self::PAUSE) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }

    fn admit_if(&mut self, notable: bool, now: Instant) -> Option<u64> {
        notable.then(|| self.admit(now)).flatten()
    }
}

impl Tracker {
    fn doubt(&self, why: String) {
        let mut ledger = self.ledger_mut();
        let cost = ledger.cost();
        ledger.settle(cost);
        ledger.doubt = Some(why);
    }

    /// Reads the tracker's namespace twice, and in between what the kernel keeps itself. Only the
    /// thread that audits may call it: nothing else switches banks.
    fn bracket(&self) -> Result<(Bounds, Differences), LoadError> {
        let (counters, base) = self.counters_with(|ledger| ledger.own.base);
        let earlier = counters.of(OWN_NETNS)?;
        let totals = procfs::invariants().unwrap_or_default();
        let later = counters.of(OWN_NETNS)?;
        let bounds = Bounds::new(&earlier, &later, base);
        let differences = Differences::new(&bounds, self.hooks.split(), &totals);
        Ok((bounds, differences))
    }

    /// Counts everything again beside the count that is kept, and corrects that where recounts
    /// agree that it is off: a single one may have come between two steps of a stalled task.
    fn audit(&self) -> Result<Findings, Error> {
        let cost = Cost::start();
        let events = self.bpf.writers()?.counted;
        let baseline = disagreement(&self.bpf)?;
        let mut findings = Findings::new();
        let mut patience = Some(Duration::ZERO);
        while let Some(time) = patience {
            for (netns, found) in self.recount(time)? {
                findings
                    .entry(netns)
                    .and_modify(|finding| finding.recounted(found))
                    .or_insert_with(|| Finding::new(found));
            }
            patience = findings.values().filter_map(Finding::wants_recount).max();
            let confirmed = findings.values().any(Finding::is_confirmed);
            // Amid events, a task that was preempted between two steps explains it as well.
            if confirmed && patience.is_some() && self.bpf.writers()?.counted == events {
                self.ledger_mut().doubt =
                    Some("an audit found a difference twice, and looks again".into());
            }
        }
        self.decide(&mut findings)?;
        self.settle(&findings, cost.spent(), baseline);
        Ok(findings)
    }

    /// Enters what the recounts agree on.
    fn settle(&self, findings: &Findings, cost: Duration, baseline: i64) {
        let mut ledger = self.ledger_mut();
        for (netns, book) in ledger.books_mut() {
            if let Some(finding) = findings.get(&netns) {
                let agreed = finding.agreed();
                let corrections = agreed.distance(&Gauges::default());
                book.base = book.base + agreed;
                book.audited(corrections, finding.doubt());
            }
        }
        ledger.audited(cost, baseline);
    }
}

/// What was found in each namespace.
type Findings = BTreeMap<NetnsId, Finding>;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::Limiter;

    #[test]
    fn one_warning_a_minute_says_how_many_there_were() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        assert_eq!(limiter.admit(start), Some(0));
        assert_eq!(limiter.admit(start), None);
        assert_eq!(limiter.admit_if(false, start), None);
        assert_eq!(limiter.admit_if(true, start + Limiter::PAUSE / 2), None);
        assert_eq!(limiter.admit(start + Limiter::PAUSE), Some(2));
        assert_eq!(limiter.admit(start + 2 * Limiter::PAUSE), Some(0));
    }
}
