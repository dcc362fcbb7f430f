//! Readings: the counts of a namespace at one moment, whatever an audit does meanwhile.
//!
//! The ledger is locked only to find out where the counts are, never while the kernel is read. The
//! banks that are read cannot be emptied meanwhile: an audit waits for that, readers never wait.

use super::{
    gauge::{self, Gauges},
    ledger::Ledger,
    tracker::Tracker,
};
use crate::{
    bpf::{BankReader, Banks, LoadError},
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
    pub(super) fn of(&self, netns: NetnsId) -> Result<Banks, LoadError> {
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
        of_ledger: impl FnOnce(&Ledger) -> T,
    ) -> (Counters<'_>, T) {
        let ledger = self.ledger();
        let counters = Counters {
            live: self.bpf.read_bank(ledger.live),
            retiring: ledger.retiring.map(|bank| self.bpf.read_bank(bank)),
        };
        (counters, of_ledger(&ledger))
    }

    /// The counts of a namespace.
    pub(super) fn read(&self, netns: NetnsId) -> Result<Reading, LoadError> {
        let (counters, (base, retired)) = self.counters_with(|ledger| {
            let book = ledger.book(netns);
            book.map_or_else(Default::default, |book| (book.base, book.retired))
        });
        let banks = counters.of(netns)?;
        let flows = banks.plus_flows(&retired);
        Ok(Reading {
            gauges: Gauges::of(&banks) + base,
            transitions: Transitions::from_flows(&gauge::flows(&flows)),
            events: gauge::events(&flows),
        })
    }

    /// The gauges of a namespace alone.
    pub(super) fn gauges(&self, netns: NetnsId) -> Result<Gauges, LoadError> {
        let (counters, base) = self.counters_with(|ledger| {
            let book = ledger.book(netns);
            book.map_or_else(Gauges::default, |book| book.base)
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
        of_ledger: impl FnOnce(&Ledger) -> T,
    ) -> (BankReader<'_>, T) {
        let ledger = self.ledger();
        (self.bpf.read_bank(ledger.live), of_ledger(&ledger))
    }
}
