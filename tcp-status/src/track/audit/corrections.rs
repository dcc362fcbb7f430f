//! One audit: counts again until recounts agree, and corrects what they agree on.

use std::{collections::BTreeMap, time::Duration};

use tcp_status_common::counters::NetnsId;

use super::{diff::AuditDiff, recount::RecountError};
use crate::{
    bpf::Scope,
    track::{
        gauge::Gauges,
        resources::cpu_time::CpuTimer,
        seed::netns_targets::Area,
        tracker::{Tracker, copy_mismatch},
    },
};

/// What was found in each namespace.
pub(super) type AuditDiffs = BTreeMap<NetnsId, AuditDiff>;

impl Tracker {
    /// Counts everything again beside the count that is kept, and corrects that where recounts
    /// agree that it is off: a single one may have come between two steps of a stalled task.
    pub(super) fn audit(&self, area: &Area<'_>) -> Result<AuditDiffs, RecountError> {
        let scope = area.scope();
        let timer = CpuTimer::start();
        let events = self.bpf.writers().counted;
        let baseline = copy_mismatch(&self.bpf)?;
        let mut diffs = AuditDiffs::new();
        let aligned = {
            let audit_state = self.audit_state();
            audit_state.live == audit_state.live_of_others
        };
        if scope == Scope::All && !aligned {
            // Both are counted again from one bank: the other one. What differs is found again.
            self.recount(Duration::ZERO, &Area::Own)?;
        }
        let mut settle_time = Some(Duration::ZERO);
        while let Some(time) = settle_time {
            for (netns, found) in self.recount(time, area)? {
                diffs
                    .entry(netns)
                    .and_modify(|diff| diff.add_recount(found))
                    .or_insert_with(|| AuditDiff::new(found));
            }
            settle_time = diffs
                .values()
                .filter_map(AuditDiff::next_recount_delay)
                .max();
            let confirmed = diffs.values().any(AuditDiff::is_confirmed);
            // Amid events, a task that was preempted between two steps explains it as well.
            if confirmed && settle_time.is_some() && self.bpf.writers().counted == events {
                self.audit_state_mut().degraded_reason =
                    Some("an audit found a difference twice, and looks again".into());
            }
        }
        self.apply_rest_listings(&mut diffs, area)?;
        let cost = match scope {
            Scope::All if self.bpf.lists_tables() => self.audit_state().cost(),
            _ => timer.spent(),
        };
        self.apply_corrections(&diffs, cost, baseline);
        Ok(diffs)
    }

    /// Enters what the recounts agree on.
    fn apply_corrections(&self, diffs: &AuditDiffs, cost: Duration, baseline: i64) {
        let mut audit_state = self.audit_state_mut();
        for (netns, netns_state) in audit_state.netns_states_mut() {
            if let Some(diff) = diffs.get(&netns) {
                let agreed = diff.agreed();
                let corrections = agreed.distance(&Gauges::default());
                netns_state.base = netns_state.base + agreed;
                netns_state.audited(corrections, diff.degraded_reason());
            }
        }
        audit_state.audited(cost, baseline);
    }
}
