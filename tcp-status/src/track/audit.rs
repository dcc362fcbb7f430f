//! The audit: a thread that looks, at most once per interval, whether the counts may be off,
//! and has them counted again when they may.

use std::{collections::BTreeMap, sync::Arc, thread, time::Duration};

use super::{
    confirm::Finding,
    cost::Cost,
    gauge::Gauges,
    invariants, memory,
    recount::Error,
    schedule::{Cause, Motion, due},
    ticker::Ticker,
    tracker::{Tracker, disagreement},
};
use crate::{
    bpf::LoadError,
    kernel::{procfs, quiesce::GRACE},
};

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
        let mut watch = Watch::default();
        let interval = tracker.settings.pace.interval;
        let ticker = Ticker::spawn("audit", interval, move || {
            tracker.bpf.flush_log();
            tracker.sample_at_rest();
            if let Err(error) = watch.look(&tracker) {
                log::warn!(error:%; "audit failed");
                tracker.doubt(format!("the last audit failed: {error}"));
            }
            interval
        })?;
        Ok(Self { _ticker: ticker })
    }
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
    fn look(&mut self, tracker: &Tracker) -> Result<(), Error> {
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
            memory::give_back();
            // Only what an audit has looked into and left: another kind of audit may have come
            // before what makes the difference.
            let in_doubt = tracker.ledger_mut().own.doubt.is_some();
            if matches!(cause, Cause::Invariant(_)) && !in_doubt {
                self.accepted = tracker.differences()?;
            }
        }
        Ok(())
    }

    fn suspicion(&self, tracker: &Tracker) -> Result<Option<Cause>, Error> {
        let (baseline, doubt) = {
            let ledger = tracker.ledger_mut();
            let doubt = ledger.doubt.is_some() || ledger.own.doubt.is_some();
            (ledger.baseline, doubt)
        };
        let missed = disagreement(&tracker.bpf)?.abs_diff(baseline);
        if missed > 0 {
            return Ok(Some(Cause::Missed(missed)));
        }
        if let Some(state) = tracker.gauges(tracker.netns)?.negative() {
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
        if doubt {
            return Ok(Some(Cause::Failure));
        }
        Ok(tracker.has_unwalked_ports()?.then_some(Cause::Ports))
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
        let reading = self.read(self.netns)?;
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
    fn audit(&self, cause: &Cause) -> Result<(), Error> {
        let cost = Cost::start();
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
            if patience.is_some() {
                self.ledger_mut().doubt = Some("an audit looks again at what differed".into());
            }
        }
        self.decide(&mut findings)?;
        self.settle(cause, &findings, cost.spent(), baseline);
        Ok(())
    }

    /// Enters what the recounts agree on.
    fn settle(&self, cause: &Cause, findings: &Findings, cost: Duration, baseline: i64) {
        let mut ledger = self.ledger_mut();
        for (netns, book) in ledger.books_mut(self.netns) {
            if let Some(finding) = findings.get(&netns) {
                let agreed = finding.agreed();
                let corrections = agreed.distance(&Gauges::default());
                book.base = book.base + agreed;
                book.audited(corrections, finding.doubt());
                report(cause, netns, finding);
            }
        }
        ledger.audited(cost, baseline);
    }
}

/// What was found in each namespace.
type Findings = BTreeMap<u32, Finding>;

fn report(cause: &Cause, netns: u32, finding: &Finding) {
    let recounts = finding.recounts();
    let corrected = finding.describe();
    if corrected.is_empty() {
        log::debug!(cause:%, netns, recounts; "audited");
    } else {
        log::warn!(cause:%, netns, recounts, corrected = corrected.as_str();
            "audit corrected the counts");
    }
}
