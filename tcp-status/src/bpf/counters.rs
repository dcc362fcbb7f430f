//! Reading the counters: sums over CPUs and writers.

use aya::{
    maps::{MapError, PerCpuValues},
    util::nr_cpus,
};
use tcp_status_common::{
    counters::{Bank, Writer, WriterStats},
    state::Family,
};

use super::{Bpf, LoadError, record::Record};

/// What the writers say of themselves, summed over CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterTotals {
    /// Events that the first copy saw.
    pub first: u64,
    /// Events that only the second copy saw.
    pub second: u64,
    /// Events counted into a live bank.
    pub counted: u64,
    /// Map updates that failed, and state changes that cannot be.
    pub failures: u64,
    /// Half-open connections left behind by listeners that were closed.
    pub abandoned: u64,
    /// Listeners whose port could not be entered when they came.
    pub unplaced: u64,
}

/// One bank, summed over CPUs and writers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Banks {
    /// State changes, `[family][from][to]`.
    pub flows: [[[u64; 12]; 12]; Family::COUNT],
    /// Sockets that the seeding counted, `[family][state]`.
    pub seeded: [[i64; 12]; Family::COUNT],
}

impl Banks {
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

impl Bpf {
    /// What `bank` (0 or 1) holds.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn bank(&self, bank: u32) -> Result<Banks, LoadError> {
        let counters = self
            .counters
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut sum = Banks::default();
        for writer in Writer::ALL {
            for cpu in counters
                .get(&writer.bank(bank), 0)
                .map_err(counters_error)?
                .iter()
            {
                sum.add(&cpu.0);
            }
        }
        Ok(sum)
    }

    /// Empties `bank`, which no event may be using, of all that it has of any namespace and port.
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn clear(&self, bank: u32) -> Result<(), LoadError> {
        let mut counters = self
            .counters
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for writer in Writer::ALL {
            let zeros = per_cpu(Record(Bank::ZERO)).map_err(counters_error)?;
            counters
                .set(writer.bank(bank), zeros, 0)
                .map_err(counters_error)?;
        }
        drop(counters);
        for netns in self.other_namespaces(bank)? {
            self.forget_namespace(netns, bank)?;
        }
        self.clear_ports(bank)
    }

    /// What the writers say of themselves since the programs were loaded.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn writers(&self) -> Result<WriterTotals, LoadError> {
        let stats = |writer: Writer| -> Result<WriterStats, LoadError> {
            let per_cpu =
                self.writers
                    .get(&(writer as u32), 0)
                    .map_err(|source| LoadError::Map {
                        name: "WRITERS",
                        source,
                    })?;
            Ok(per_cpu
                .iter()
                .fold(WriterStats::default(), |sum, cpu| sum.plus(&cpu.0)))
        };
        let (first, second) = (stats(Writer::First)?, stats(Writer::Second)?);
        let rest = stats(Writer::Walk)?.plus(&stats(Writer::Timewait)?);
        let all = first.plus(&second).plus(&rest);
        Ok(WriterTotals {
            first: first.events,
            second: second.events,
            counted: all.counted,
            failures: all.failures + all.impossible,
            abandoned: all.abandoned,
            unplaced: all.unplaced,
        })
    }
}

/// The same value for every CPU.
pub(super) fn per_cpu<T: aya::Pod>(value: T) -> Result<PerCpuValues<T>, MapError> {
    let cpus = nr_cpus().map_err(|(_, error)| MapError::IoError(error))?;
    PerCpuValues::try_from(vec![value; cpus]).map_err(MapError::IoError)
}

fn counters_error(source: MapError) -> LoadError {
    LoadError::Map {
        name: "COUNTERS",
        source,
    }
}
