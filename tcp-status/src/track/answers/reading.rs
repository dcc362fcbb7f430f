//! Readings: the counts of a namespace at one moment, consistent during an audit.
//!
//! The audit state is locked only to select the banks, never while the kernel is read. A bank is not emptied while it
//! is read: the audit waits, readers never do.

use crate::{
    bpf::{BankReader, BankSum, BpfError, PortEnds, Scope},
    snapshot::Transitions,
    track::{audit::state::add_ends, gauge::Gauges},
};

use tcp_status_common::counters::NetnsId;

/// The counts of a namespace, read once.
pub(crate) struct Reading {
    pub(crate) gauges: Gauges,
    pub(crate) transitions: Transitions,
    /// State changes of full sockets since start.
    pub(crate) events: u64,
    /// Why the gauges may be off: what corrects them later also takes this back.
    pub(crate) degraded: Option<String>,
}

/// The banks that hold the counts.
pub(crate) struct Counters<'a> {
    pub(crate) live: BankReader<'a>,
    /// The bank before the last switch, until the audit state has what it counted.
    pub(crate) retiring: Option<(BankReader<'a>, Scope)>,
}

impl Counters<'_> {
    /// What the banks hold of a namespace. After a switch, the live bank's own sockets are not
    /// compared yet: it only continues the count of the bank before.
    pub(crate) fn of(&self, netns: NetnsId) -> Result<BankSum, BpfError> {
        match &self.retiring {
            Some((retiring, scope)) if scope.includes(netns) => {
                let before = retiring.counters(netns)?;
                Ok(before.plus_flows(&self.live.counters(netns)?))
            }
            _ => self.live.counters(netns),
        }
    }

    /// Connections that ended at those of the `ports` of a namespace that are kept apart, while the
    /// banks were live.
    pub(crate) fn ends_of(
        &self,
        netns: NetnsId,
        ports: impl Iterator<Item = u16> + Clone,
    ) -> Result<PortEnds, BpfError> {
        let mut ends = self.live.ends_of(netns, ports.clone())?;
        if let Some((retiring, scope)) = &self.retiring
            && scope.includes(netns)
        {
            add_ends(&mut ends, &retiring.ends_of(netns, ports)?);
        }
        Ok(ends)
    }
}
