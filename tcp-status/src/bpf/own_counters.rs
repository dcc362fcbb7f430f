//! What the programs counted of the tracker's own namespace, read from their memory: without a call of
//! the kernel, and nothing of CPUs that counted nothing.

use std::mem::offset_of;

use aya::Ebpf;
use tcp_status_common::{
    counters::Bank,
    ends::EndCounts,
    per_cpu::{PerCpu, SecondaryBanks, Writer, WriterStats},
};

use super::{
    counters::{BankSum, WriterTotals},
    error::BpfError,
    memory::Elements,
    pod::PodWrapper,
};

/// Maps with elements of their own for each CPU.
pub(super) const PER_CPU: &str = "PER_CPU";
pub(super) const SECONDARY_BANKS: &str = "SECONDARY_BANKS";

/// The counters of all CPUs, since the programs were loaded.
pub(super) struct OwnCounters {
    cpus: Elements<PerCpu>,
    secondary: Elements<SecondaryBanks>,
    /// How many CPUs there may be.
    count: u32,
}

impl OwnCounters {
    pub(super) fn map(ebpf: &Ebpf, count: u32) -> Result<Self, BpfError> {
        Ok(Self {
            cpus: Elements::map(ebpf, PER_CPU, count)?,
            secondary: Elements::map(ebpf, SECONDARY_BANKS, 2 * count)?,
            count,
        })
    }

    /// What `bank` (0 or 1) has ever counted.
    pub(super) fn bank(&self, bank: u32) -> BankSum {
        const OTHERS: [usize; 3] = [
            offset_of!(SecondaryBanks, second),
            offset_of!(SecondaryBanks, walk),
            offset_of!(SecondaryBanks, timewait),
        ];
        let first = offset_of!(PerCpu, first) + bank as usize * size_of::<Bank>();
        let mut sum = BankSum::default();
        for cpu in self.counting_cpus() {
            let PodWrapper(counted) = self.cpus.read(cpu, first);
            sum.add(&counted);
            for writer in OTHERS {
                let index = SecondaryBanks::index(cpu, bank);
                let PodWrapper(counted) = self.secondary.read(index, writer);
                sum.add(&counted);
            }
        }
        sum
    }

    /// Sockets that were closed, by reason.
    pub(super) fn ends(&self) -> EndCounts {
        let mut sum = EndCounts::default();
        for cpu in self.counting_cpus() {
            let ends: EndCounts = self.cpus.read(cpu, offset_of!(PerCpu, ends));
            for (sum, count) in sum.iter_mut().zip(ends) {
                *sum += count;
            }
        }
        sum
    }

    /// What each writer counts of its own work, events of other namespaces included.
    pub(super) fn writers(&self) -> WriterTotals {
        let mut sum = WriterTotals::default();
        for cpu in 0..self.count {
            let offset = offset_of!(PerCpu, writers);
            let writers: [PodWrapper<WriterStats>; Writer::COUNT as usize] =
                self.cpus.read(cpu, offset);
            for PodWrapper(writer) in writers {
                sum.recovered += writer.recovered;
                sum.counted += writer.counted + writer.counted_minisockets;
                sum.unregistered += writer.unregistered;
            }
        }
        sum
    }

    /// Those that may have counted anything.
    fn counting_cpus(&self) -> impl Iterator<Item = u32> {
        let own_net = |&cpu: &u32| self.cpus.read::<u64>(cpu, offset_of!(PerCpu, own_net));
        (0..self.count).filter(move |cpu| own_net(cpu) != 0)
    }
}
