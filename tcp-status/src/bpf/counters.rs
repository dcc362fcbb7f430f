//! Reading the counters: sums over CPUs and writers.

use std::collections::BTreeMap;

use tcp_status_common::{
    counters::{Bank, NetnsId},
    state::Family,
};

/// What each writer counts of its own work, summed over CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterTotals {
    /// Events that only the second copy of the handler saw.
    pub recovered: u64,
    /// Events counted into a live bank.
    pub counted: u64,
    /// Listeners whose port was not chosen yet when they were reported.
    pub unregistered: u64,
}

/// One bank, summed over CPUs and writers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BankSum {
    /// State changes, `[family][from][to]`.
    pub flows: [[[u64; 12]; 12]; Family::COUNT],
    /// Sockets that the seeding counted, `[family][state]`.
    pub seeded: [[i64; 12]; Family::COUNT],
}

impl BankSum {
    /// The same, with the flows of both.
    #[must_use]
    pub fn plus_flows(mut self, other: &Self) -> Self {
        for (family, plus) in self.flows.iter_mut().zip(&other.flows) {
            for (from, plus) in family.iter_mut().zip(plus) {
                for (to, plus) in from.iter_mut().zip(plus) {
                    *to += plus;
                }
            }
        }
        self
    }

    /// What came after `earlier`.
    pub(super) fn minus(mut self, earlier: &Self) -> Self {
        for family in 0..Family::COUNT {
            for from in 0..self.flows[family].len() {
                for to in 0..self.flows[family][from].len() {
                    let flow = &mut self.flows[family][from][to];
                    // A namespace that ends may be forgotten in between.
                    *flow = flow.saturating_sub(earlier.flows[family][from][to]);
                }
                self.seeded[family][from] -= earlier.seeded[family][from];
            }
        }
        self
    }

    pub(super) fn add(&mut self, bank: &Bank) {
        for family in 0..Family::COUNT {
            for from in 0..bank.flows[family].len() {
                for to in 0..bank.flows[family][from].len() {
                    self.flows[family][from][to] += bank.flows[family][from][to];
                }
                self.seeded[family][from] += bank.seeded[family][from];
            }
        }
    }
}

/// What a bank had counted when it was emptied last: nothing is written to what the programs write.
pub(super) type EmptiedOwn = BankSum;

/// The same, of other namespaces.
pub(super) type EmptiedOthers = BTreeMap<NetnsId, BankSum>;

/// The map of what failed.
pub(super) const FAILURES: &str = ".bss.failures";
