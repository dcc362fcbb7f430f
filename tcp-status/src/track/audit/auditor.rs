//! The audit: a thread that looks, at most once per interval, whether the counts may be off,
//! and has them counted again when they may.

use std::{
    collections::BTreeSet,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    contradiction::Contradiction,
    corrections::AuditDiffs,
    diff::AuditDiff,
    invariants::{Accepted, Differences},
    recount::RecountError,
    schedule::{AuditInputs, Cause, Pace, due},
};
use crate::{
    bpf::{BpfError, Scope},
    kernel::{procfs, quiesce::GRACE},
    track::{
        gauge::Bounds,
        namespaces::passes::Namespaces,
        resources::{budget::Budget, cpu_time::CpuTimer, limiter::Limiter, memory, ticker::Ticker},
        seed::netns_targets::Area,
        tracker::{Tracker, copy_mismatch},
    },
};

use tcp_status_common::counters::{NetnsId, OWN_NETNS};

/// So many looks an interval has while events come.
const TICKS_PER_INTERVAL: u32 = 4;

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
        let mut audit_loop = AuditLoop::new(&tracker);
        let interval = tracker.settings.pace.interval;
        let ticker = Ticker::spawn("audit", interval, move || {
            if let Err(error) = audit_loop.tick(&tracker) {
                if let Some(suppressed) = audit_loop.failures.allow(Instant::now()) {
                    log::warn!(error:%, suppressed; "audit failed");
                }
                tracker.mark_degraded(format!("the last audit failed: {error}"));
            }
            audit_loop.pause(interval)
        })?;
        Ok(Self { _ticker: ticker })
    }
}

/// What was seen at the last look.
struct AuditLoop {
    /// Events counted by then in all namespaces.
    all_events: u64,
    /// When a look last found more of them.
    last_of_all: Instant,
    /// Those that audits are about: where others are confirmed by passes, those of the tracker's namespace.
    events: u64,
    /// When a look last found more of these.
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
    /// What the counters have contradicted since a look that found it first.
    contradiction: Option<Contradiction>,
    /// The recounts of the last audit disagreed in some namespace.
    disagreed: bool,
    /// A port has got a listener since the last audit.
    unaudited: bool,
    budget: Budget,
    namespaces: Namespaces,
    failures: Limiter,
    corrections: Limiter,
    /// When namespaces that are gone were last forgotten.
    forgot: Instant,
}

impl AuditLoop {
    fn new(tracker: &Tracker) -> Self {
        let (share, cost) = (tracker.settings.pace.share, tracker.audit_state().cost());
        let now = Instant::now();
        Self {
            all_events: 0,
            last_of_all: now,
            events: 0,
            last_event: now,
            looked: now,
            audited: None,
            settled: false,
            accepted: Accepted::default(),
            contradiction: None,
            disagreed: false,
            unaudited: true,
            budget: Budget::new(share, Pace::SAVED, cost, now),
            namespaces: Namespaces::new(share, now),
            failures: Limiter::default(),
            corrections: Limiter::default(),
            forgot: now,
        }
    }

    /// The time to the next look: short until an audit has confirmed what events left, so that it
    /// comes soon after they cease. Namespaces that come and go have to be forgotten in time.
    fn pause(&self, interval: Duration) -> Duration {
        let at_rest = self.last_of_all.elapsed() >= interval;
        if at_rest && self.settled && self.namespaces.are_settled() {
            interval
        } else {
            interval / TICKS_PER_INTERVAL
        }
    }

    fn tick(&mut self, tracker: &Tracker) -> Result<(), RecountError> {
        let all_events = tracker.bpf.writers().counted;
        // First, for it waits for no other namespace; what fails in one delays no audit of the other.
        let own = self.tick_own(tracker, all_events);
        let others = self.tick_others(tracker, all_events);
        own.and(others)
    }

    /// Namespaces other than the tracker's own.
    fn tick_others(&mut self, tracker: &Tracker, all_events: u64) -> Result<(), RecountError> {
        self.namespaces.tick(tracker, all_events)?;
        let busy = self.namespaces.busy(Instant::now());
        if busy.is_empty() {
            return Ok(());
        }
        self.audit_busy(tracker, &busy)
    }

    /// Events that audits are about, when there were `all_events` in all namespaces.
    fn audited_events(&self, tracker: &Tracker, all_events: u64) -> Result<u64, RecountError> {
        if tracker.settings.all_namespaces && tracker.scope() == Scope::Own {
            return Ok(tracker.read(OWN_NETNS)?.events);
        }
        Ok(all_events)
    }

    fn tick_own(&mut self, tracker: &Tracker, all_events: u64) -> Result<(), RecountError> {
        let now = Instant::now();
        if all_events != self.all_events {
            (self.all_events, self.last_of_all) = (all_events, now);
            let events = self.audited_events(tracker, all_events)?;
            if events != self.events {
                (self.events, self.last_event) = (events, now);
            }
        }
        let events = self.events;
        let quiet = now - self.last_event >= QUIET;
        self.settled &= self.audited == Some(events);
        let mut suspicion = None;
        if now - self.looked >= tracker.settings.pace.interval {
            self.looked = now;
            tracker.bpf.flush_log();
            tracker.sample_at_rest();
            tracker.name_cgroups()?;
            self.watch_destinations(tracker);
            if now - self.forgot >= FORGET && self.last_of_all >= self.forgot {
                self.forgot = now;
                tracker.live_namespaces()?;
            }
            suspicion = self.suspicion(tracker, quiet)?;
            self.publish_suspicion(tracker, suspicion.as_ref())?;
        }
        let inputs = {
            let audit_state = tracker.audit_state();
            AuditInputs {
                since_audit: audit_state.since_audit(),
                cost: audit_state.cost(),
                saved: self.budget.saved(Instant::now()),
                moved: self.audited != Some(events),
                quiet,
                settled: self.settled,
                suspicion,
            }
        };
        if let Some(cause) = due(&tracker.settings.pace, &inputs) {
            self.audited = Some(events);
            self.settled = quiet;
            let scope = tracker.scope();
            let diffs = self.audit(tracker, scope)?;
            self.disagreed = diffs.values().any(AuditDiff::is_disagreement);
            self.report(tracker, &cause, &diffs, !inputs.moved)?;
            // Only what an audit has looked into and left: another kind of audit may have come
            // before what makes the difference.
            let is_degraded = tracker.audit_state().own.degraded_reason.is_some();
            if matches!(cause, Cause::Invariant(_)) && !is_degraded {
                self.accepted = tracker.read_bounds()?.1.least();
            }
        }
        Ok(())
    }

    /// A walk over destinations is at the expense of audits; without one there is no forecast.
    fn watch_destinations(&mut self, tracker: &Tracker) {
        let timer = CpuTimer::start();
        if let Err(error) = tracker.forget_destinations() {
            log::debug!(error:%; "there may be no room for further destinations");
        }
        if let Err(error) = tracker.watch_destinations() {
            log::debug!(error:%; "the fullest destination is not known");
        }
        self.budget.spend(timer.spent(), Instant::now());
    }

    /// Audits at the expense of the budget, whether that succeeds or not.
    fn audit(&mut self, tracker: &Tracker, scope: Scope) -> Result<AuditDiffs, RecountError> {
        let timer = CpuTimer::start();
        let audited = tracker.audit(&Area::of(scope));
        if scope == Scope::All {
            self.namespaces.recounted();
        }
        let now = Instant::now();
        self.budget.spend(timer.spent(), now);
        self.budget.expect(tracker.audit_state().cost(), now);
        memory::release_heap();
        audited
    }

    /// Counts namespaces again from inside that never rest, as far as they can be entered.
    fn audit_busy(
        &mut self,
        tracker: &Tracker,
        busy: &BTreeSet<NetnsId>,
    ) -> Result<(), RecountError> {
        if !self.namespaces.affords(Instant::now()) {
            return Ok(());
        }
        let timer = CpuTimer::start();
        let audited = tracker.audit(&Area::Busy(busy));
        self.namespaces
            .add_recount(busy, timer.spent(), Instant::now());
        memory::release_heap();
        self.report(tracker, &Cause::Busy, &audited?, false)
    }

    /// A reason to expect a difference. What shows only in passing, because things move while they
    /// are read, is none.
    fn suspicion(&mut self, tracker: &Tracker, quiet: bool) -> Result<Option<Cause>, RecountError> {
        self.contradiction = self.contradict(tracker)?;
        // A task may be preempted between two steps that belong together.
        for pause in [GRACE, 10 * GRACE] {
            if self.contradiction.is_some() {
                thread::sleep(pause);
                self.contradiction = self.contradict(tracker)?;
            }
        }
        if let Some(contradiction) = &self.contradiction {
            return Ok(Some(contradiction.cause.clone()));
        }
        let degraded_reason = {
            let audit_state = tracker.audit_state();
            audit_state.degraded_reason.is_some() || audit_state.own.degraded_reason.is_some()
        };
        if degraded_reason {
            return Ok(Some(Cause::Failure));
        }
        if self.disagreed {
            return Ok(Some(Cause::Disagreement));
        }
        let unconfirmed = quiet && !self.settled && self.last_event.elapsed() >= REST;
        if unconfirmed && tracker.audit_state().own.is_corrected() {
            return Ok(Some(Cause::Unconfirmed));
        }
        if tracker.hooks.need_seeding() {
            return Ok(Some(Cause::TimewaitHooks));
        }
        // A port gets its listener by an event.
        if !quiet || self.unaudited {
            self.unaudited = tracker.has_unaudited_ports()?;
        }
        Ok(self.unaudited.then_some(Cause::Ports))
    }

    /// Has readings show a reason to expect a difference: at once when nothing happens, else where
    /// it has stood long enough.
    fn publish_suspicion(
        &mut self,
        tracker: &Tracker,
        suspicion: Option<&Cause>,
    ) -> Result<(), RecountError> {
        let all_events = tracker.bpf.writers().counted;
        let at_rest = all_events == self.all_events
            || self.audited_events(tracker, all_events)? == self.events;
        let mut audit_state = tracker.audit_state_mut();
        let stood = match &self.contradiction {
            Some(contradiction) => contradiction.since.elapsed(),
            // The last audit left it.
            None => audit_state.since_audit(),
        };
        let marked = suspicion.filter(|cause| {
            let after = cause.marked_after();
            after.is_some_and(|after| at_rest || stood >= after)
        });
        audit_state.suspicion = marked.cloned();
        Ok(())
    }

    /// What the counters cannot be, whatever moved while they were read.
    fn contradict(&self, tracker: &Tracker) -> Result<Option<Contradiction>, RecountError> {
        let baseline = tracker.audit_state().baseline;
        let missed = copy_mismatch(&tracker.bpf)?.abs_diff(baseline);
        let found = if missed > 0 {
            Some((Cause::Missed(missed), 1..=1))
        } else {
            let (bounds, differences) = tracker.read_bounds()?;
            let negative = bounds.most.negative();
            let negative = negative.map(|state| (Cause::Negative(state), 1..=1));
            negative.or_else(|| {
                let (name, by) = differences.beyond(&self.accepted)?;
                Some((Cause::Invariant(name), by))
            })
        };
        Ok(found.map(|(cause, by)| Contradiction::new(cause, by, self.contradiction.as_ref())))
    }

    /// Logs what an audit found. `at_rest`: no event came since the audit before it.
    fn report(
        &mut self,
        tracker: &Tracker,
        cause: &Cause,
        diffs: &AuditDiffs,
        at_rest: bool,
    ) -> Result<(), RecountError> {
        for (&id, diff) in diffs {
            let netns = tracker.inode(id);
            let (recounts, corrected) = (diff.recounts(), diff.describe());
            if corrected.is_empty() {
                log::debug!(cause:%, netns, recounts; "audited");
                continue;
            }
            let notable = at_rest || diff.is_notable(&tracker.gauges(id)?);
            match self.corrections.allow_if(notable, Instant::now()) {
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

impl Tracker {
    fn mark_degraded(&self, why: String) {
        let mut audit_state = self.audit_state_mut();
        let cost = audit_state.cost();
        audit_state.record_attempt(cost);
        audit_state.degraded_reason = Some(why);
    }

    /// Reads the tracker's namespace twice, and in between what the kernel keeps itself. Only the
    /// thread that audits may call it: nothing else switches banks.
    fn read_bounds(&self) -> Result<(Bounds, Differences), BpfError> {
        let (counters, base) = self.counters_with(|audit_state| audit_state.own.base);
        let earlier = counters.of(OWN_NETNS)?;
        let totals = procfs::invariants().unwrap_or_default();
        let later = counters.of(OWN_NETNS)?;
        let bounds = Bounds::new(&earlier, &later, base);
        let differences = Differences::new(&bounds, self.hooks.split(), &totals);
        Ok((bounds, differences))
    }

    /// What an audit counts again: other namespaces only where nothing else confirms them, and when
    /// their banks are to count timewait minisockets.
    fn scope(&self) -> Scope {
        let begins = self.hooks.need_seeding();
        if self.settings.all_namespaces && (begins || !self.bpf.lists_tables()) {
            Scope::All
        } else {
            Scope::Own
        }
    }
}
