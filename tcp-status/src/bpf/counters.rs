//! Reading the counters: sums over CPUs and writers.

use std::{collections::BTreeMap, sync::RwLockReadGuard};

use aya::{
    maps::{MapError, PerCpuValues},
    util::nr_cpus,
};
use tcp_status_common::{
    counters::{Bank, FailureTotals, NetnsId, OWN_NETNS, PerCpu, WriterStats},
    state::Family,
};

use super::{Bpf, BpfError, Scope, load::POISONED, pod::PodWrapper};

/// What the writers say of themselves, summed over CPUs.
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
    fn minus(mut self, earlier: &Self) -> Self {
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

/// Reads one bank of the tracker's own namespace and one of the others, which are not emptied while
/// this exists.
pub struct BankReader<'a> {
    pub(super) bpf: &'a Bpf,
    own: u32,
    others: u32,
    baseline: RwLockReadGuard<'a, EmptiedOwn>,
    emptied_others: RwLockReadGuard<'a, EmptiedOthers>,
}

/// What a bank had counted when it was emptied last: nothing is written to what the programs write.
pub(super) type EmptiedOwn = BankSum;

/// The same, of other namespaces.
pub(super) type EmptiedOthers = BTreeMap<NetnsId, BankSum>;

impl BankReader<'_> {
    /// What the bank holds of a namespace; nothing if nothing was counted in it.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn counters(&self, netns: NetnsId) -> Result<BankSum, BpfError> {
        if netns == OWN_NETNS {
            return Ok(self.bpf.raw_counters(self.own)?.minus(&self.baseline));
        }
        let counted = self.bpf.raw_counters_in(netns, self.others)?;
        Ok(match self.emptied_others.get(&netns) {
            Some(baseline) => counted.minus(baseline),
            None => counted,
        })
    }

    /// The bank that is read of a namespace.
    pub(super) const fn bank_of(&self, netns: NetnsId) -> u32 {
        if netns == OWN_NETNS {
            self.own
        } else {
            self.others
        }
    }
}

impl Bpf {
    /// Reads bank `own` (0 or 1) of the tracker's own namespace, and `others` of the others. Blocks
    /// while these are being emptied, and emptying them blocks for as long as the reader exists.
    #[must_use]
    pub fn read_bank(&self, own: u32, others: u32) -> BankReader<'_> {
        BankReader {
            bpf: self,
            own,
            others,
            baseline: self.baseline[own as usize].read().expect(POISONED),
            emptied_others: self.emptied_others[others as usize].read().expect(POISONED),
        }
    }

    /// What `bank` has ever counted.
    fn raw_counters(&self, bank: u32) -> Result<BankSum, BpfError> {
        let mut sum = BankSum::default();
        for cpu in self.cpus()?.iter() {
            sum.add(&cpu.0.first[bank as usize]);
        }
        let others = self.counters.get(&bank, 0).map_err(counters_error)?;
        for PodWrapper(cpu) in others.iter() {
            for writer in [&cpu.second, &cpu.walk, &cpu.timewait] {
                sum.add(writer);
            }
        }
        Ok(sum)
    }

    fn cpus(&self) -> Result<PerCpuValues<PodWrapper<PerCpu>>, BpfError> {
        self.cpus.get(&0, 0).map_err(|source| BpfError::Map {
            name: "PER_CPU",
            source,
        })
    }

    /// Empties `bank`, which no event in `scope` may be using, of all that it has of namespaces and
    /// ports there, once nobody reads it any more. What could not be emptied is left to the next
    /// call.
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn clear(&self, bank: u32, scope: Scope) -> Result<(), BpfError> {
        let mut baseline = self.baseline[bank as usize].write().expect(POISONED);
        // From here on it is counted anew.
        *baseline = self.raw_counters(bank)?;
        if scope == Scope::All {
            let others = &self.emptied_others[bank as usize];
            *others.write().expect(POISONED) = self.raw_counters_by_netns(bank)?;
        }
        self.clear_ports(bank, scope)
    }

    /// What failed in the programs since they were loaded.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn failures(&self) -> Result<FailureTotals, BpfError> {
        let totals = self.failures.get(&0, 0);
        totals
            .map(|totals| totals.0)
            .map_err(|source| BpfError::Map {
                name: FAILURES,
                source,
            })
    }

    /// What the writers say of themselves since the programs were loaded.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn writers(&self) -> Result<WriterTotals, BpfError> {
        let all = self
            .cpus()?
            .iter()
            .flat_map(|cpu| cpu.0.writers)
            .fold(WriterStats::default(), |sum, writer| sum.plus(&writer));
        Ok(WriterTotals {
            recovered: all.recovered,
            counted: all.counted,
            unregistered: all.unregistered,
        })
    }
}

/// The map of what failed.
pub(super) const FAILURES: &str = ".bss.failures";

/// The same value for every CPU.
pub(super) fn per_cpu<T: aya::Pod>(value: T) -> Result<PerCpuValues<T>, MapError> {
    let cpus = nr_cpus().map_err(|(_, error)| MapError::IoError(error))?;
    PerCpuValues::try_from(vec![value; cpus]).map_err(MapError::IoError)
}

fn counters_error(source: MapError) -> BpfError {
    BpfError::Map {
        name: "SECONDARY_BANKS",
        source,
    }
}
