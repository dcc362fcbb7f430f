//! The slots of cgroups, and what the programs looked up last.

use std::{
    collections::BTreeMap,
    mem::offset_of,
    sync::{Mutex, atomic::Ordering},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
};
use tcp_status_common::{
    counters::{CGROUP_BANK_OF_OTHERS, CgroupCache, CgroupGauges, NetnsId, STATE_SLOTS},
    per_cpu::Shards,
    state::State,
    table::LISTED_CGROUPS_AT_ONCE,
};

use super::{
    error::BpfError,
    object::{lock, map},
    pod::PodWrapper,
    slots::{self, Names, Slots},
};

/// The full sockets of one cgroup by the kernel's number of their state.
pub type CgroupSum = [i64; STATE_SLOTS];

/// Cgroups of namespaces.
pub type CgroupsOfNetns = BTreeMap<(NetnsId, u64), CgroupSum>;

/// The maps of cgroups.
static NAMES: Names = Names {
    slots: "CGROUPS",
    gauges: "CGROUP_GAUGES",
    free: "FREE_CGROUPS",
    shares: "CGROUP_SHARES",
};

/// Sockets by cgroup.
pub(super) struct Cgroups {
    pub(super) slots: Slots<CgroupGauges>,
    /// What the programs looked up last, by bank.
    caches: Mutex<[Array<MapData, PodWrapper<CgroupCache>>; 2]>,
}

/// Makes room for cgroups: one slot is of those that have none, and the only one where none are counted.
pub(super) fn set_sizes(loader: &mut EbpfLoader<'_>, shards: &Shards, elsewhere: bool) {
    NAMES.set_sizes(loader, size(shards));
    let listed = if elsewhere && shards.cgroups > 1 {
        LISTED_CGROUPS_AT_ONCE.max(shards.cgroups.saturating_mul(8))
    } else {
        1
    };
    loader.map_max_entries("LISTED_CGROUPS", listed);
}

/// A slot is of one cgroup, in each bank.
fn size(shards: &Shards) -> slots::Size {
    slots::size(shards.cgroups, 2 * shards.cgroups, shards)
}

impl Cgroups {
    pub(super) fn new(ebpf: &mut Ebpf, shards: &Shards) -> Result<Self, BpfError> {
        Ok(Self {
            slots: Slots::new(ebpf, &NAMES, size(shards))?,
            caches: Mutex::new([map(ebpf, ".bss.cgroups.0")?, map(ebpf, ".bss.cgroups.1")?]),
        })
    }

    pub(super) fn sum(&self, slot: u32, bank: u32) -> CgroupSum {
        let mut sum = [0_u32; STATE_SLOTS];
        for shard in self.slots.gauges.of(slot, bank) {
            for (sum, (first, other)) in sum.iter_mut().zip(shard.first.iter().zip(shard.shared)) {
                *sum = sum.wrapping_add(*first).wrapping_add(other);
            }
        }
        // Where sockets come from and go to, not how many there are.
        sum[usize::from(State::Closed.number())] = 0;
        sum.map(|sum| sum.cast_signed().into())
    }

    /// Adds to a slot of another namespace, where programs may be counting.
    #[expect(clippy::cast_possible_truncation, reason = "gauges are modulo 2^32")]
    pub(super) fn add(&self, slot: u32, added: &CgroupSum) {
        for (state, &by) in added.iter().enumerate() {
            let offset = offset_of!(CgroupGauges, shared) + state * size_of::<u32>();
            let gauge = self
                .slots
                .gauges
                .atomic(slot, CGROUP_BANK_OF_OTHERS, offset);
            gauge.fetch_add(by.cast_unsigned() as u32, Ordering::Relaxed);
        }
    }

    /// Forgets what the programs looked up in `bank`.
    pub(super) fn clear_cache(&self, bank: u32) -> Result<(), BpfError> {
        let empty = PodWrapper(CgroupCache::EMPTY);
        let emptied = lock(&self.caches)[bank as usize].set(0, empty, 0);
        emptied.map_err(|source| BpfError::Map {
            name: ".bss.cgroups",
            source,
        })
    }
}
