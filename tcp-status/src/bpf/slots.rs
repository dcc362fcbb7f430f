//! Slots of what is counted apart, ports and cgroups: reading what they have counted, and giving them out.

use std::{
    collections::BTreeSet,
    mem::offset_of,
    os::fd::OwnedFd,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{HashMap, MapData, MapError, Queue},
};
use tcp_status_common::{
    counters::{NetnsId, OTHER_SLOT, OWN_NETNS, SLOT_SHARES, SlotKey, SlotShares},
    per_cpu::Shards,
};

use super::{
    batch,
    error::{BpfError, errno, ignore_enoent},
    memory::{Elements, Gauges},
    namespaces::ONLY_NEW,
    object::{descriptor, handles, lock, map},
    pod::PodWrapper,
};

/// The names of the maps that slots of one kind are in.
pub(super) struct Names {
    pub(super) slots: &'static str,
    pub(super) gauges: &'static str,
    pub(super) free: &'static str,
    pub(super) shares: &'static str,
}

type SlotMap = HashMap<MapData, PodWrapper<SlotKey>, u32>;

/// Namespaces of which a cgroup found no slot.
#[derive(Clone, Debug, Default)]
pub struct Refusals(BTreeSet<usize>);

impl Refusals {
    /// Whether a cgroup of the namespace may have no slot.
    pub fn contains(&self, netns: NetnsId) -> bool {
        netns != OWN_NETNS && self.0.contains(&SlotShares::index(netns))
    }

    /// Whether any may have none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Slots of one kind. All but [`Slots::write`] is without a lock.
pub(super) struct Slots<T> {
    names: &'static Names,
    map: SlotMap,
    /// The same map, to list.
    listed: OwnedFd,
    pub(super) gauges: Gauges<T>,
    shares: Elements<SlotShares>,
    reserved: u32,
    writer: Mutex<Writer>,
}

struct Writer {
    map: SlotMap,
    free: Queue<MapData, u32>,
    /// What was removed from a bank, where the other bank may have its slot still.
    removed: Vec<(SlotKey, u32)>,
    /// Slots that nothing has, but that could not be entered as free yet, and who had them.
    pending_free: Vec<(NetnsId, u32)>,
}

/// The number of slots of one kind, and of entries.
#[derive(Clone, Copy)]
pub(super) struct Size {
    /// Slots in each shard, with the one that others share.
    pub(super) slots: u32,
    pub(super) entries: u32,
    pub(super) shards: u32,
}

impl Names {
    pub(super) fn set_sizes(&self, loader: &mut EbpfLoader<'_>, size: Size) {
        loader
            .map_max_entries(self.slots, size.entries)
            .map_max_entries(self.gauges, 2 * size.shards * size.slots)
            .map_max_entries(self.free, size.slots);
    }
}

impl<T> Slots<T>
where
    PodWrapper<T>: Pod,
{
    /// All slots are free. A quarter of them is left to the tracker's own namespace.
    pub(super) fn new(
        ebpf: &mut Ebpf,
        names: &'static Names,
        size: Size,
    ) -> Result<Self, BpfError> {
        let listed = descriptor(ebpf, names.slots)?;
        let [written, read] = handles(ebpf, names.slots)?;
        let own = size.slots - 1;
        let slots = Self {
            names,
            map: read,
            listed,
            gauges: Gauges::map(ebpf, names.gauges, size.shards, size.slots)?,
            shares: Elements::map(ebpf, names.shares, 1)?,
            reserved: own / 4,
            writer: Mutex::new(Writer {
                map: written,
                free: map(ebpf, names.free)?,
                removed: Vec::new(),
                pending_free: (1..=own).map(|slot| (OWN_NETNS, slot)).collect(),
            }),
        };
        let reserved = slots.share(offset_of!(SlotShares, reserved));
        reserved.store(slots.reserved, Ordering::Relaxed);
        slots.write().enter_free()?;
        Ok(slots)
    }

    /// The slot of something, if it has one.
    pub(super) fn get(&self, key: SlotKey) -> Result<Option<u32>, BpfError> {
        match self.map.get(&PodWrapper(key), 0) {
            Ok(slot) => Ok(Some(slot)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    /// All that is entered and `wanted`.
    pub(super) fn entries(
        &self,
        wanted: impl Fn(&SlotKey) -> bool,
    ) -> Result<Vec<(SlotKey, u32)>, BpfError> {
        let mut found = Vec::new();
        let none = (PodWrapper(SlotKey::default()), OTHER_SLOT);
        batch::for_each(&self.listed, none, |PodWrapper(key), &slot| {
            if wanted(key) {
                found.push((*key, slot));
            }
        })
        .map_err(|error| self.error(MapError::IoError(error)))?;
        Ok(found)
    }

    /// Whether there is a slot for one more thing of another namespace.
    pub(super) fn has_room(&self, netns: NetnsId) -> bool {
        let [free, taken] = [self.free(), self.taken(netns)];
        let [free, taken] = [free, taken].map(|slots| slots.load(Ordering::Relaxed));
        SlotShares::may_take(taken, free, self.reserved)
    }

    /// Namespaces other than the tracker's own of which a cgroup found no slot.
    pub(super) fn refusals(&self) -> Refusals {
        let refused = |&index: &usize| self.refused_at(index).load(Ordering::Relaxed) != 0;
        Refusals((0..SLOT_SHARES).filter(refused).collect())
    }

    /// Enters that a cgroup of a namespace found no slot, or that none did.
    pub(super) fn set_refused(&self, netns: NetnsId, refused: bool) {
        let index = SlotShares::index(netns);
        self.refused_at(index)
            .store(refused.into(), Ordering::Relaxed);
    }

    fn refused_at(&self, index: usize) -> &AtomicU32 {
        self.share(offset_of!(SlotShares, refused) + index * size_of::<u32>())
    }

    /// Whether a cgroup of the tracker's own namespace found no slot in a bank.
    pub(super) fn has_refused_own(&self, bank: u32) -> bool {
        self.refused_own_in(bank).load(Ordering::Relaxed) != 0
    }

    /// None did, for the bank is empty; nor one of others, where these are `included`.
    pub(super) fn clear_refusals(&self, bank: u32, included: bool) {
        self.refused_own_in(bank).store(0, Ordering::Relaxed);
        for index in (0..SLOT_SHARES).filter(|_| included) {
            self.refused_at(index).store(0, Ordering::Relaxed);
        }
    }

    fn refused_own_in(&self, bank: u32) -> &AtomicU32 {
        self.share(offset_of!(SlotShares, own_refused) + bank as usize * size_of::<u32>())
    }

    /// To change what has slots: one at a time.
    pub(super) fn write(&self) -> Writing<'_, T> {
        Writing {
            slots: self,
            maps: lock(&self.writer),
        }
    }

    /// A namespace has one slot more (`by` 1) or less (-1).
    fn count_taken(&self, netns: NetnsId, by: i32) {
        let by = by.cast_unsigned();
        self.free().fetch_sub(by, Ordering::Relaxed);
        if netns != OWN_NETNS {
            self.taken(netns).fetch_add(by, Ordering::Relaxed);
        }
    }

    fn free(&self) -> &AtomicU32 {
        self.share(offset_of!(SlotShares, free))
    }

    fn taken(&self, netns: NetnsId) -> &AtomicU32 {
        let index = SlotShares::index(netns) * size_of::<u32>();
        self.share(offset_of!(SlotShares, taken) + index)
    }

    fn share(&self, offset: usize) -> &AtomicU32 {
        self.shares.atomic(0, offset)
    }

    fn error(&self, source: MapError) -> BpfError {
        BpfError::Map {
            name: self.names.slots,
            source,
        }
    }

    fn free_error(&self, source: MapError) -> BpfError {
        BpfError::Map {
            name: self.names.free,
            source,
        }
    }
}

/// Changes what has slots.
pub(super) struct Writing<'a, T> {
    slots: &'a Slots<T>,
    maps: MutexGuard<'a, Writer>,
}

impl<T> Writing<'_, T>
where
    PodWrapper<T>: Pod,
{
    /// Enters something at the slot that it has in the other bank.
    pub(super) fn carry_over(&mut self, key: SlotKey, slot: u32) -> Result<(), BpfError> {
        let entered = self.maps.map.insert(PodWrapper(key), slot, 0);
        entered.map_err(|error| self.slots.error(error))
    }

    /// Gives something of another namespace a slot, unless it has one. The slot; none where there is no room.
    pub(super) fn enter(&mut self, key: SlotKey) -> Result<Option<u32>, BpfError> {
        if let Some(slot) = self.slots.get(key)? {
            return Ok(Some(slot));
        }
        let Some(slot) = self.take_free(key.netns)? else {
            return Ok(None);
        };
        let Err(error) = self.maps.map.insert(PodWrapper(key), slot, ONLY_NEW) else {
            return Ok(Some(slot));
        };
        self.maps.pending_free.push((key.netns, slot));
        self.enter_free()?;
        // A program was first.
        match errno(&error) {
            Some(libc::EEXIST) => self.slots.get(key),
            _ => Err(self.slots.error(error)),
        }
    }

    /// Removes what is `removed` from its bank. Gives the slots that are in use afterwards.
    pub(super) fn remove(
        &mut self,
        removed: impl Fn(&SlotKey) -> bool,
    ) -> Result<BTreeSet<u32>, BpfError> {
        let mut used = BTreeSet::new();
        for (key, slot) in self.slots.entries(|_| true)? {
            if removed(&key) {
                let gone = ignore_enoent(self.maps.map.remove(&PodWrapper(key)));
                gone.map_err(|error| self.slots.error(error))?;
                self.maps.removed.push((key, slot));
            } else {
                used.insert(slot);
            }
        }
        Ok(used)
    }

    /// What was removed and not given back yet.
    pub(super) fn removed(&self) -> &[(SlotKey, u32)] {
        &self.maps.removed
    }

    /// Empties what was removed, where no program may be counting, and makes the slots free that are not
    /// `used`.
    pub(super) fn give_back(&mut self, used: &BTreeSet<u32>) -> Result<(), BpfError> {
        let mut freed = BTreeSet::from([OTHER_SLOT]);
        for (key, slot) in std::mem::take(&mut self.maps.removed) {
            self.slots.gauges.clear(slot, bank(&key));
            if !used.contains(&slot) && freed.insert(slot) {
                self.maps.pending_free.push((key.netns, slot));
            }
        }
        self.enter_free()
    }

    /// Enters as free what nothing has.
    fn enter_free(&mut self) -> Result<(), BpfError> {
        while let Some((netns, slot)) = self.maps.pending_free.pop() {
            self.slots.count_taken(netns, -1);
            if let Err(error) = self.maps.free.push(slot, 0) {
                self.slots.count_taken(netns, 1);
                self.maps.pending_free.push((netns, slot));
                return Err(self.slots.free_error(error));
            }
        }
        Ok(())
    }

    /// A slot that nothing has, from now on taken by a namespace other than the tracker's own; none if
    /// there is none left, or it has its share.
    fn take_free(&mut self, netns: NetnsId) -> Result<Option<u32>, BpfError> {
        if !self.slots.has_room(netns) {
            return Ok(None);
        }
        match self.maps.free.pop(0) {
            Ok(slot) => {
                self.slots.count_taken(netns, 1);
                Ok(Some(slot))
            }
            Err(MapError::ElementNotFound) => Ok(None),
            Err(error) => Err(self.slots.free_error(error)),
        }
    }
}

/// The bank that something is entered in.
pub(super) fn bank(key: &SlotKey) -> u32 {
    u32::from(key.bank & 1 == 1)
}

/// The key of something in a bank.
pub(super) fn key(netns: NetnsId, item: u64, bank: u32) -> SlotKey {
    SlotKey {
        netns,
        item,
        bank: (bank & 1).into(),
    }
}

/// The number of slots, entries and shards of `slots` things beside those that share one.
pub(super) const fn size(slots: u32, entries: u32, shards: &Shards) -> Size {
    Size {
        slots,
        entries,
        shards: shards.count(),
    }
}
