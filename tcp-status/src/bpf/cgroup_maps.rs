//! The maps that gauges by cgroup are kept in.

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, MapError, Queue},
};
use tcp_status_common::{
    counters::{CGROUPS_REMEMBERED, CgroupCache, CgroupGauges, STATE_SLOTS},
    per_cpu::Shards,
    state::State,
};

use super::{
    error::BpfError,
    memory::Gauges,
    object::{handles, map},
    pod::PodWrapper,
};

/// The full sockets of one cgroup by the kernel's number of their state, summed over shards.
pub type CgroupSum = [i64; STATE_SLOTS];

/// Slots, by id.
type Slots = HashMap<MapData, u64, u32>;

/// Sockets by cgroup, read without a lock.
pub(super) struct Cgroups {
    pub(super) slots: [Slots; 2],
    pub(super) gauges: Gauges<CgroupGauges>,
}

/// The maps that change with them.
pub(super) struct CgroupWriter {
    pub(super) slots: [Slots; 2],
    /// What the programs looked up last, by bank.
    pub(super) caches: [Array<MapData, PodWrapper<CgroupCache>>; 2],
    /// Slots that are free, by bank.
    pub(super) free: [Queue<MapData, u32>; 2],
    /// Slots that no cgroup has, but that could not be entered as free yet.
    pub(super) pending_free: [Vec<u32>; 2],
}

/// Makes room for cgroups: one slot is of those that have none, and the only one where none are counted.
pub(super) fn set_sizes(loader: &mut EbpfLoader<'_>, shards: &Shards) {
    let cgroups = shards.cgroups - 1;
    let remembered = match cgroups {
        0 => 1,
        cgroups => CGROUPS_REMEMBERED.max(cgroups.saturating_mul(4)),
    };
    loader
        .map_max_entries("CGROUPS_0", remembered)
        .map_max_entries("CGROUPS_1", remembered)
        .map_max_entries("CGROUP_GAUGES", 2 * shards.count() * shards.cgroups)
        .map_max_entries("FREE_CGROUPS_0", shards.cgroups)
        .map_max_entries("FREE_CGROUPS_1", shards.cgroups);
}

/// Both handles of the maps, with all slots of both banks free.
pub(super) fn maps(ebpf: &mut Ebpf, shards: &Shards) -> Result<(Cgroups, CgroupWriter), BpfError> {
    let [slots_0, read_0] = handles(ebpf, "CGROUPS_0")?;
    let [slots_1, read_1] = handles(ebpf, "CGROUPS_1")?;
    let reader = Cgroups {
        slots: [read_0, read_1],
        gauges: Gauges::map(ebpf, "CGROUP_GAUGES", shards.count(), shards.cgroups)?,
    };
    let mut writer = CgroupWriter {
        slots: [slots_0, slots_1],
        caches: [map(ebpf, ".bss.cgroups.0")?, map(ebpf, ".bss.cgroups.1")?],
        free: [map(ebpf, "FREE_CGROUPS_0")?, map(ebpf, "FREE_CGROUPS_1")?],
        pending_free: Default::default(),
    };
    for slot in 1..shards.cgroups {
        for free in &mut writer.free {
            free.push(slot, 0).map_err(free_error)?;
        }
    }
    Ok((reader, writer))
}

impl Cgroups {
    pub(super) fn entries(&self, bank: u32) -> Result<Vec<(u64, u32)>, BpfError> {
        let entries = self.slots[bank as usize].iter();
        entries.collect::<Result<_, _>>().map_err(slots_error)
    }

    pub(super) fn sum(&self, slot: u32, bank: u32) -> CgroupSum {
        let mut sum = [0_u32; STATE_SLOTS];
        for shard in self.gauges.of(slot, bank) {
            for (sum, (first, other)) in sum.iter_mut().zip(shard.first.iter().zip(shard.shared)) {
                *sum = sum.wrapping_add(*first).wrapping_add(other);
            }
        }
        // Where sockets come from and go to, not how many there are.
        sum[usize::from(State::Closed.number())] = 0;
        sum.map(|sum| sum.cast_signed().into())
    }
}

pub(super) fn slots_error(source: MapError) -> BpfError {
    BpfError::Map {
        name: "CGROUPS",
        source,
    }
}

pub(super) fn free_error(source: MapError) -> BpfError {
    BpfError::Map {
        name: "FREE_CGROUPS",
        source,
    }
}
