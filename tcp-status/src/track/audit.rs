//! The audit: a thread that looks, at most once per interval, whether the counts may be off,
//! and has them counted again when they may.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tcp_status_common::{control::Mode, state::State};

use super::{
    confirm::Finding,
    cost::Cost,
    gauge::Gauges,
    invariants,
    schedule::{Cause, Motion, due},
    seed::{self, SeedError},
    tracker::{Tracker, disagreement, sockets_listed},
};
use crate::{
    bpf::{Banks, LoadError},
    kernel::{
        plan::SeedMethod,
        procfs,
        quiesce::{GRACE, quiesce},
        sock_diag,
    },
};

/// An audit that could not be held; the counts stay as they are, and are marked.
#[derive(Debug, thiserror::Error)]
enum AuditError {
    #[error(transparent)]
    Kernel(#[from] LoadError),
    #[error(transparent)]
    Seed(#[from] SeedError),
    #[error(transparent)]
    SockDiag(#[from] sock_diag::Error),
    #[error("connections came and went during the walk")]
    Unrest,
}

/// The thread that audits. Ends when dropped, after the walk that it may be in.
pub struct Auditor {
    stop: Arc<(Mutex<bool>, Condvar)>,
}

impl Auditor {
    /// Starts auditing `tracker`.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn spawn(tracker: Arc<Tracker>) -> std::io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let ended = Arc::clone(&stop);
        thread::Builder::new().name("audit".into()).spawn(move || {
            let mut watch = Watch::default();
            while !wait(&ended, tracker.settings.pace.interval) {
                tracker.bpf.flush_log();
                if let Err(error) = watch.look(&tracker) {
                    log::warn!(error:%; "audit failed");
                    tracker.doubt(format!("the last audit failed: {error}"));
                }
            }
        })?;
        Ok(Self { stop })
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
    }
}

/// Whether the end was called for within `time`.
fn wait((ended, called): &(Mutex<bool>, Condvar), time: Duration) -> bool {
    let guard = ended.lock().unwrap_or_else(PoisonError::into_inner);
    let (guard, _) = called
        .wait_timeout_while(guard, time, |ended| !*ended)
        .unwrap_or_else(PoisonError::into_inner);
    *guard
}

/// What was seen at the last look.
#[derive(Default)]
struct Watch {
    /// Events counted by then.
    events: u64,
    /// Events counted when the last audit began.
    audited: Option<u64>,
    /// The last audit began with no event since the look before it.
    settled: bool,
    /// What the kernel's totals differed by after the last audit, which they then do for a
    /// reason that is not ours.
    accepted: invariants::Differences,
}

impl Watch {
    fn look(&mut self, tracker: &Tracker) -> Result<(), AuditError> {
        let events = tracker.bpf.writers()?.counted;
        let quiet = events == self.events;
        self.events = events;
        self.settled &= self.audited == Some(events);
        let suspicion = self.suspicion(tracker)?;
        let motion = {
            let mut ledger = tracker.ledger_mut();
            ledger.suspicion.clone_from(&suspicion);
            Motion {
                since_audit: ledger.since_audit(),
                cost: ledger.cost(),
                moved: self.audited != Some(events),
                quiet,
                settled: self.settled,
                suspicion,
            }
        };
        if let Some(cause) = due(&tracker.settings.pace, &motion) {
            self.audited = Some(events);
            self.settled = quiet;
            tracker.audit(&cause)?;
            let in_doubt = tracker.ledger_mut().doubt.is_some();
            self.accepted = if in_doubt {
                invariants::Differences::default()
            } else {
                tracker.differences()?
            };
        }
        Ok(())
    }

    fn suspicion(&self, tracker: &Tracker) -> Result<Option<Cause>, AuditError> {
        let (baseline, doubt) = {
            let ledger = tracker.ledger_mut();
            (ledger.baseline, ledger.doubt.is_some())
        };
        let missed = disagreement(&tracker.bpf)?.abs_diff(baseline);
        if missed > 0 {
            return Ok(Some(Cause::Missed(missed)));
        }
        if let Some(state) = tracker.read()?.gauges.negative() {
            return Ok(Some(Cause::Negative(state)));
        }
        // What differs only in passing, because things move while they are read, is nothing.
        let first = tracker.differences()?.beyond(&self.accepted);
        if first.is_some() {
            thread::sleep(GRACE);
            let second = tracker.differences()?.beyond(&self.accepted);
            if second.is_some() {
                return Ok(second.map(Cause::Invariant));
            }
        }
        Ok(doubt.then_some(Cause::Failure))
    }
}

impl Tracker {
    fn doubt(&self, why: String) {
        let mut ledger = self.ledger_mut();
        let cost = ledger.cost();
        ledger.settle(cost);
        ledger.doubt = Some(why);
    }

    /// How the totals that the kernel keeps itself differ from the sums of the gauges.
    fn differences(&self) -> Result<invariants::Differences, LoadError> {
        let before = self.bpf.writers()?.counted;
        let reading = self.read()?;
        let totals = procfs::invariants().unwrap_or_default();
        let moved = self.bpf.writers()?.counted - before;
        let split = self.plan.split;
        Ok(invariants::Differences::new(
            &reading.gauges,
            split,
            &totals,
            moved,
        ))
    }

    /// Counts everything again beside the count that is kept, and corrects that where recounts
    /// agree that it is off: a single one may have come between two steps of a stalled task.
    fn audit(&self, cause: &Cause) -> Result<(), AuditError> {
        let cost = Cost::start();
        let baseline = disagreement(&self.bpf)?;
        let mut finding = Finding::new(self.recount(Duration::ZERO)?);
        while let Some(patience) = finding.wants_recount() {
            self.ledger_mut().doubt = Some("an audit looks again at what differed".into());
            finding.recounted(self.recount(patience)?);
        }
        let agreed = finding.agreed();
        let corrections = agreed.distance(&Gauges::default());
        {
            let mut ledger = self.ledger_mut();
            ledger.base = ledger.base + agreed;
            ledger.audited(corrections, cost.spent(), baseline);
            ledger.doubt = finding.doubt().map(str::to_owned);
        }
        report(cause, corrections, &finding);
        Ok(())
    }

    /// By how much the sockets that there are exceed those that are counted. Changes no reading.
    fn recount(&self, patience: Duration) -> Result<Gauges, AuditError> {
        match self.plan.seed {
            SeedMethod::Iterator => self.recount_by_iterator(patience),
            SeedMethod::Procfs => {
                thread::sleep(patience);
                self.recount_at_rest()
            }
        }
    }

    /// Seeds the other bank while events go on, and switches to it. At the moment of the switch
    /// both banks have counted the same events, so that what differs then is drift. What the old
    /// one had more or less goes into the base for now.
    fn recount_by_iterator(&self, patience: Duration) -> Result<Gauges, AuditError> {
        let old = self.ledger_mut().live;
        let new = 1 - old;
        let walked = seed::fill(&self.bpf, Some(old), new, sockets_listed(), patience)?;
        let (retired, base) = {
            let mut ledger = self.ledger_mut();
            self.bpf.switch(Mode::new(Some(new), None))?;
            ledger.live = new;
            let before = (ledger.retired, ledger.base);
            let counted = self.bpf.bank(old)?;
            ledger.retired = counted.plus_flows(&before.0);
            ledger.base = Gauges::of(&counted) + before.1 - self.seeded(new)?;
            before
        };
        self.saw_aside(&walked)?;
        quiesce();
        // Once more, now that events which began before the switch have ended.
        let counted = self.bpf.bank(old)?;
        let found = self.seeded(new)? - (Gauges::of(&counted) + base);
        let mut ledger = self.ledger_mut();
        ledger.retired = counted.plus_flows(&retired);
        ledger.base = -found;
        drop(ledger);
        self.bpf.remember(0)?;
        Ok(found)
    }

    /// What the seeding alone has counted into `bank`.
    fn seeded(&self, bank: u32) -> Result<Gauges, LoadError> {
        Ok(Gauges::of(&Banks {
            seeded: self.bpf.bank(bank)?.seeded,
            ..Banks::default()
        }))
    }

    /// Where the kernel has no iterator: a dump, which tells the truth only if nothing moved.
    fn recount_at_rest(&self) -> Result<Gauges, AuditError> {
        let before = self.bpf.writers()?.counted;
        let truth = Gauges::full_sockets(&sock_diag::listing(None)?, &sock_diag::minisockets()?);
        let counted = self.read()?.gauges;
        if self.bpf.writers()?.counted != before {
            return Err(AuditError::Unrest);
        }
        Ok(truth - counted)
    }
}

fn report(cause: &Cause, corrections: [u64; State::COUNT], finding: &Finding) {
    let recounts = finding.recounts();
    let total: u64 = corrections.iter().sum();
    if total == 0 {
        log::debug!(cause:%, recounts; "audited");
        return;
    }
    let states = State::ALL.into_iter().zip(corrections);
    let states: Vec<_> = states
        .filter(|&(_, by)| by > 0)
        .map(|(state, by)| format!("{state} {by}"))
        .collect();
    log::warn!(cause:%, recounts, corrections = total, states = states.join(", ").as_str();
        "audit corrected the counts");
}
