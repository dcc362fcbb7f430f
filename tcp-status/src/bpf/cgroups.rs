//! Gauges by cgroup, of the tracker's namespace: reading them, and giving out the slots that they are
//! kept in.

use std::collections::BTreeMap;

use aya::maps::MapError;
use tcp_status_common::counters::{CgroupCache, OTHER_CGROUPS, OWN_NETNS};

use super::{
    BankReader, Bpf, BpfError, CgroupSum,
    cgroup_maps::{free_error, slots_error},
    error::ignore_enoent,
    object::lock,
    pod::PodWrapper,
};

/// The full sockets of the cgroups.
#[derive(Clone, Debug, Default)]
pub struct CgroupSums {
    /// By id, of each cgroup that has a slot.
    pub tracked: BTreeMap<u64, CgroupSum>,
    /// Of those that have none, together; none if all have one.
    pub other: Option<CgroupSum>,
}

impl BankReader<'_> {
    /// The sockets of all cgroups.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn cgroups(&self) -> Result<CgroupSums, BpfError> {
        let (cgroups, bank) = (&self.bpf.cgroups, self.bank_of(OWN_NETNS));
        let mut sums = CgroupSums::default();
        for (id, slot) in cgroups.entries(bank)? {
            if slot != OTHER_CGROUPS {
                sums.tracked.insert(id, cgroups.sum(slot, bank));
            } else if sums.other.is_none() {
                sums.other = Some(cgroups.sum(slot, bank));
            }
        }
        Ok(sums)
    }

    /// The ids of all cgroups that have, or had, a socket.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn cgroup_ids(&self) -> Result<Vec<u64>, BpfError> {
        let ids = self.bpf.cgroups.slots[self.bank_of(OWN_NETNS) as usize].keys();
        ids.collect::<Result<_, _>>().map_err(slots_error)
    }
}

impl Bpf {
    /// Gives cgroups that had a slot one in `bank`, which is empty and which no event may be using.
    /// Those for which there is none left are left out.
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn carry_over_cgroups(
        &self,
        kept: impl IntoIterator<Item = u64>,
        bank: u32,
    ) -> Result<(), BpfError> {
        let mut cgroups = lock(&self.cgroup_writer);
        let bank = bank as usize;
        for id in kept {
            let slot = match cgroups.free[bank].pop(0) {
                Ok(slot) => slot,
                Err(MapError::ElementNotFound) => break,
                Err(error) => return Err(free_error(error)),
            };
            if let Err(error) = cgroups.slots[bank].insert(id, slot, 0) {
                cgroups.pending_free[bank].push(slot);
                return Err(slots_error(error));
            }
        }
        Ok(())
    }

    /// Empties `bank`, which no event may be using, and makes its slots free.
    pub(super) fn clear_cgroups(&self, bank: u32) -> Result<(), BpfError> {
        let mut cgroups = lock(&self.cgroup_writer);
        for (id, slot) in self.cgroups.entries(bank)? {
            self.cgroups.gauges.clear(slot, bank);
            ignore_enoent(cgroups.slots[bank as usize].remove(&id)).map_err(slots_error)?;
            if slot != OTHER_CGROUPS {
                cgroups.pending_free[bank as usize].push(slot);
            }
        }
        while let Some(&slot) = cgroups.pending_free[bank as usize].last() {
            let freed = cgroups.free[bank as usize].push(slot, 0);
            freed.map_err(free_error)?;
            cgroups.pending_free[bank as usize].pop();
        }
        let empty = Box::new(PodWrapper(CgroupCache::EMPTY));
        let emptied = cgroups.caches[bank as usize].set(0, *empty, 0);
        emptied.map_err(|source| BpfError::Map {
            name: ".bss.cgroups",
            source,
        })
    }
}
