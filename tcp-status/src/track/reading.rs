//! Readings: the counts of a namespace at one moment, whatever an audit does meanwhile.
//!
//! The ledger is locked only to find out where the counts are, never while the kernel is read. The
//! banks that are read cannot be emptied meanwhile: an audit waits for that, readers never wait.

use super::{
    audit_state::AuditState,
    gauge::{self, Gauges},
    tracker::Tracker,
};
use crate::{
    bpf::{BankReader, BankSum, BpfError},
    snapshot::Transitions,
};
use tcp_status_common::counters::NetnsId;

/// The counts of a namespace, read once.
pub(super) struct Reading {
    pub(super) gauges: Gauges,
    pub(super) transitions: Transitions,
    /// State changes of full sockets since start.
    pub(super) events: u64,
}

/// The banks that hold the counts.
pub(super) struct Counters<'a> {
    live: BankReader<'a>,
    /// The bank before the last switch, until the books have what it counted.
    retiring: Option<BankReader<'a>>,
}

impl Counters<'_> {
    /// What the banks hold of a namespace. After a switch, the live bank's own sockets are not
    /// compared yet: it only continues the count of the bank before.
    pub(super) fn of(&self, netns: NetnsId) -> Result<BankSum, BpfError> {
        let Some(retiring) = &self.retiring else {
            return self.live.counters(netns);
        };
        let before = retiring.counters(netns)?;
        Ok(before.plus_flows(&self.live.counters(netns)?))
    }
}

impl Tracker {
    /// The banks that hold the counts, and what the ledger holds at that moment.
    pub(super) fn counters_with<T>(
        &self,
        of_state: impl FnOnce(&AuditState) -> T,
    ) -> (Counters<'_>, T) {
        let audit_state = self.audit_state();
        let counters = Counters {
            live: self.bpf.read_bank(audit_state.live),
            retiring: audit_state.retiring.map(|bank| self.bpf.read_bank(bank)),
        };
        (counters, of_state(&audit_state))
    }

    /// The counts of a namespace.
    pub(super) fn read(&self, netns: NetnsId) -> Result<Reading, BpfError> {
        let (counters, (base, accumulated)) = self.counters_with(|audit_state| {
            let netns_state = audit_state.netns_state(netns);
            netns_state.map_or_else(Default::default, |netns_state| {
                (netns_state.base, netns_state.accumulated)
            })
        });
        let banks = counters.of(netns)?;
        let flows = banks.plus_flows(&accumulated);
        Ok(Reading {
            gauges: Gauges::of(&banks) + base,
            transitions: Transitions::from_flows(&gauge::flows(&flows)),
            events: gauge::events(&flows),
        })
    }

    /// The gauges of a namespace alone.
    pub(super) fn gauges(&self, netns: NetnsId) -> Result<Gauges, BpfError> {
        let (counters, base) = self.counters_with(|audit_state| {
            let netns_state = audit_state.netns_state(netns);
            netns_state.map_or_else(Gauges::default, |netns_state| netns_state.base)
        });
        Ok(Gauges::of(&counters.of(netns)?) + base)
    }

    /// The bank that events are counted into, which has the ports.
    pub(super) fn live_bank(&self) -> BankReader<'_> {
        self.live_bank_with(|_| ()).0
    }

    /// The same, and what the ledger holds at that moment.
    pub(super) fn live_bank_with<T>(
        &self,
        of_state: impl FnOnce(&AuditState) -> T,
    ) -> (BankReader<'_>, T) {
        let audit_state = self.audit_state();
        (self.bpf.read_bank(audit_state.live), of_state(&audit_state))
    }
}
