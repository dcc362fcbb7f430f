//! The memory of array maps: what the programs write is read, and emptied, without a call of the kernel.

use std::{
    fs, io,
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::AtomicU32,
};

use aya::{
    Ebpf, Pod,
    maps::{Map, MapError},
};
use memmap2::{MmapOptions, MmapRaw};
use tcp_status_common::per_cpu::Shards;

use super::{error::BpfError, pod::PodWrapper};

/// The memory of an array map, which the programs write.
pub(super) struct Elements<T> {
    memory: MmapRaw,
    element: PhantomData<T>,
}

impl<T> Elements<T> {
    pub(super) fn map(ebpf: &Ebpf, name: &'static str, count: u32) -> Result<Self, BpfError> {
        let Some(Map::Array(map)) = ebpf.map(name) else {
            return Err(BpfError::Missing(name));
        };
        let length = count as usize * size_of::<T>();
        let memory = MmapOptions::new()
            .len(length)
            .map_raw(map.fd().as_fd().as_raw_fd());
        Ok(Self {
            memory: memory.map_err(|error| BpfError::Map {
                name,
                source: MapError::IoError(error),
            })?,
            element: PhantomData,
        })
    }

    /// A copy of what lies at `offset` in an element. A program may write it meanwhile, but no word of
    /// 64 bits is torn.
    pub(super) fn read<U: Pod>(&self, index: u32, offset: usize) -> U {
        const WORD: usize = size_of::<u64>();
        let start = index as usize * size_of::<T>() + offset;
        assert!(start.is_multiple_of(WORD) && size_of::<U>().is_multiple_of(WORD));
        assert!(start + size_of::<U>() <= self.memory.len());
        let mut copy = MaybeUninit::<U>::uninit();
        // SAFETY: mapped for as long as `self` exists, aligned to words, and within bounds by the
        // assertions above; any bytes are valid for what is plain data.
        unsafe {
            let words = self.memory.as_ptr().add(start).cast::<u64>();
            let copied = copy.as_mut_ptr().cast::<u64>();
            for word in 0..size_of::<U>() / WORD {
                copied
                    .add(word)
                    .write_unaligned(words.add(word).read_volatile());
            }
            copy.assume_init()
        }
    }

    /// The number of 32 bits at `offset` in an element, which programs write with atomic additions.
    pub(super) fn atomic(&self, index: u32, offset: usize) -> &AtomicU32 {
        let start = index as usize * size_of::<T>() + offset;
        assert!(start.is_multiple_of(size_of::<u32>()) && start < self.memory.len());
        // SAFETY: mapped for as long as `self` exists, aligned, and within bounds by the assertion.
        unsafe { AtomicU32::from_ptr(self.memory.as_mut_ptr().add(start).cast()) }
    }

    /// Fills an element with zeros.
    fn clear(&self, index: u32) {
        let length = size_of::<T>();
        let start = index as usize * length;
        assert!(start + length <= self.memory.len());
        // SAFETY: within bounds, of memory that is mapped to be written for as long as `self` exists;
        // zeros are valid for what is plain data. Nobody else writes it now.
        unsafe { self.memory.as_mut_ptr().add(start).write_bytes(0, length) };
    }
}

/// Gauges in shards, two banks for each slot.
pub(super) struct Gauges<T> {
    elements: Elements<T>,
    shards: u32,
    /// In each shard.
    slots: u32,
}

impl<T> Gauges<T>
where
    PodWrapper<T>: Pod,
{
    pub(super) fn map(
        ebpf: &Ebpf,
        name: &'static str,
        shards: u32,
        slots: u32,
    ) -> Result<Self, BpfError> {
        Ok(Self {
            elements: Elements::map(ebpf, name, 2 * shards * slots)?,
            shards,
            slots,
        })
    }

    /// What `slot` has in `bank`, by shard.
    pub(super) fn of(&self, slot: u32, bank: u32) -> impl Iterator<Item = T> {
        self.indices(slot, bank).map(|index| {
            let PodWrapper(gauges) = self.elements.read(index, 0);
            gauges
        })
    }

    /// The number at `offset` that `slot` has in `bank`, in one of the shards.
    pub(super) fn atomic(&self, slot: u32, bank: u32, offset: usize) -> &AtomicU32 {
        let index = Shards::index(0, self.slots, slot, bank);
        self.elements.atomic(index, offset)
    }

    /// Empties `slot` in `bank`, where no program may be counting.
    pub(super) fn clear(&self, slot: u32, bank: u32) {
        for index in self.indices(slot, bank) {
            self.elements.clear(index);
        }
    }

    fn indices(&self, slot: u32, bank: u32) -> impl Iterator<Item = u32> {
        let slots = self.slots;
        (0..self.shards).map(move |shard| Shards::index(shard, slots, slot, bank))
    }
}

/// The CPUs of a list of the kernel: one more than the highest number there.
fn cpus(file: &str) -> Result<u32, BpfError> {
    let highest = fs::read_to_string(file).and_then(|ranges| {
        let highest = ranges.trim().rsplit([',', '-']).next().unwrap_or_default();
        highest.parse::<u32>().map_err(io::Error::other)
    });
    highest.map(|highest| highest + 1).map_err(BpfError::Cpus)
}

/// How many CPUs there may be.
pub(super) fn possible_cpus() -> Result<u32, BpfError> {
    cpus("/sys/devices/system/cpu/possible")
}

/// Those that are online, as there are no gaps.
pub(super) fn online_cpus() -> Result<u32, BpfError> {
    cpus("/sys/devices/system/cpu/online")
}
