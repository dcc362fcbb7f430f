//! Readings: the counts of a namespace at one moment, consistent during an audit.
//!
//! The audit state is locked only to select the banks, never while the kernel is read. A bank is not emptied while it
//! is read: the audit waits, readers never do.

use std::collections::BTreeMap;

use crate::{
    bpf::{BankReader, BankSum, BpfError, PortEnds, PortSums, Scope},
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

    /// Calls `visit` with what the banks hold of each other namespace.
    pub(crate) fn for_each_namespace(
        &self,
        mut visit: impl FnMut(NetnsId, BankSum),
    ) -> Result<(), BpfError> {
        let retiring = self.retiring.as_ref();
        let before = retiring.filter(|(_, scope)| *scope == Scope::All);
        let before = before.map(|(retiring, _)| retiring);
        self.live.for_each_namespace(before, |netns, live, before| {
            let sum = before.map(|before| before.plus_flows(&live));
            visit(netns, sum.unwrap_or(live));
        })
    }

    /// The ports of all namespaces that are kept apart, and connections that ended at them while the
    /// banks were live.
    pub(crate) fn ports_with_ends(
        &self,
    ) -> Result<(PortSums, BTreeMap<NetnsId, PortEnds>), BpfError> {
        let (sums, mut ends) = self.live.ports_with_ends()?;
        if let Some((retiring, scope)) = &self.retiring {
            for (netns, retired) in retiring.port_ends()? {
                if scope.includes(netns) {
                    add_ends(ends.entry(netns).or_default(), &retired);
                }
            }
        }
        Ok((sums, ends))
    }

    /// Connections that ended at one port of a namespace, while the banks were live; nothing if it is
    /// not kept apart.
    pub(crate) fn ends_of(&self, netns: NetnsId, port: u16) -> Result<PortEnds, BpfError> {
        let mut ends = self.live.ends_of(netns, port)?;
        if let Some((retiring, scope)) = &self.retiring
            && scope.includes(netns)
        {
            add_ends(&mut ends, &retiring.ends_of(netns, port)?);
        }
        Ok(ends)
    }
}
