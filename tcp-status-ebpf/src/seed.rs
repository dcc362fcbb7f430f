//! Seeding: every socket is entered into the map of seen sockets once, by the walk or by its first
//! event, and counted by whoever entered it. Later events move it.

use tcp_status_common::{control::Mode, counters::Failure};

use crate::{
    cells::{self, CounterCell, EEXIST, EINVAL},
    cgroups,
    kernel_layout::Sock,
    maps::{SEEN, Seen},
    netns_counters::{BPF_NOEXIST, NetnsCounters},
    ports,
    slots::Slot,
};

/// A bank that is being seeded.
#[derive(Clone, Copy)]
pub(crate) struct SeededBank(u32);

impl SeededBank {
    /// That of a namespace in whose `mode` there is one.
    #[inline(always)]
    pub(crate) fn of(counters: NetnsCounters, mode: Mode) -> Option<Self> {
        // Cgroups of others are seeded once: see `CGROUP_BANK_OF_OTHERS`.
        let by_cgroup = counters.is_own() || mode.live().is_none();
        Some(Self(mode.seed()? | u32::from(by_cgroup) << 1))
    }

    /// The same for minisockets, which have no cgroup.
    #[inline(always)]
    pub(crate) fn of_minisockets(mode: Mode) -> Option<Self> {
        mode.seed().map(Self)
    }

    #[inline(always)]
    pub(crate) fn index(self) -> u32 {
        self.0 & 1
    }

    /// The slot of a full socket of this cgroup, as far as it is seeded.
    #[inline(always)]
    pub(crate) fn cgroup_slot(
        self,
        counters: NetnsCounters,
        cgroup: impl FnOnce() -> Result<u64, i32>,
    ) -> Slot {
        if self.0 & 2 == 0 {
            return Slot::NONE;
        }
        cgroups::slot(counters, self.index(), cgroup)
    }
}

/// The walk has met a socket. Whether it was the first to see it.
#[inline(always)]
pub(crate) fn visit(
    counters: NetnsCounters,
    bank: SeededBank,
    sock: Sock,
    cell: CounterCell,
    cgroup: Slot,
) -> bool {
    let Some(seen) = SEEN.get(0) else {
        cells::record_failure(Failure::Seen, EINVAL);
        return false;
    };
    let key = sock.0 as u64;
    let slots = Slots {
        port: ports::slot(counters, bank.index(), sock.port()),
        cgroup,
    };
    match seen.insert(key, slots.pack(cell), BPF_NOEXIST) {
        Ok(()) => {
            add_to_cell(counters, bank, cell, slots);
            return true;
        }
        // An event came before, whatever followed it.
        Err(EEXIST) => {}
        Err(errno) => {
            if seen.get_ptr(key).is_none() {
                cells::record_failure(Failure::Seen, errno);
            }
        }
    }
    false
}

/// A full socket is now at `to`, which is packed. One that closes is unhashed before it is
/// reported, so that the walk cannot meet it any more.
#[inline(never)]
pub(crate) fn transition(
    counters: NetnsCounters,
    bank: SeededBank,
    sock: Sock,
    to: u32,
    port: u16,
) {
    let Some(to) = CounterCell::unpack(to) else {
        return;
    };
    let Some(seen) = SEEN.get(0) else {
        return cells::record_failure(Failure::Seen, EINVAL);
    };
    let key = sock.0 as u64;
    match seen.get_ptr_mut(key) {
        Some(entry) if to.is_closed() => {
            remove_from_cell(counters, bank, entry);
            // An entry that cannot be removed is that of a closed socket until the next one at
            // this address.
            // SAFETY: the map gave the pointer; state changes of one socket do not overlap.
            unsafe { *entry = to.pack().into() };
            let _: Result<(), i32> = seen.remove(key);
        }
        Some(entry) => update_seen(
            counters,
            bank,
            entry,
            to,
            Slots::of(counters, bank, sock, port),
        ),
        None if to.is_closed() => {}
        None => {
            let slots = Slots::of(counters, bank, sock, port);
            insert_seen(counters, bank, seen, key, to, slots);
        }
    }
}

/// A minisocket is now at `to`, which is packed. One that ends is reported while the walk may still
/// meet it, so that its entry stays, as closed, until another one is born at the same address.
#[inline(never)]
pub(crate) fn minisocket_transition(
    counters: NetnsCounters,
    bank: SeededBank,
    tw: Sock,
    to: u32,
    port: u16,
) {
    let Some(to) = CounterCell::unpack(to) else {
        return;
    };
    let Some(seen) = SEEN.get(0) else {
        return cells::record_failure(Failure::Seen, EINVAL);
    };
    let key = tw.0 as u64;
    let slots = Slots {
        port: ports::slot(counters, bank.index(), port),
        cgroup: Slot::NONE,
    };
    match seen.get_ptr_mut(key) {
        Some(entry) => update_seen(counters, bank, entry, to, slots),
        None => insert_seen(counters, bank, seen, key, to, slots),
    }
}

/// What a socket is counted in, beside the totals. Minisockets have no cgroup.
#[derive(Clone, Copy)]
struct Slots {
    port: Slot,
    cgroup: Slot,
}

impl Slots {
    /// Of a full socket. They are looked up again at each event: one that had no port may have one now.
    #[inline(always)]
    fn of(counters: NetnsCounters, bank: SeededBank, sock: Sock, port: u16) -> Self {
        Self {
            port: ports::slot(counters, bank.index(), port),
            cgroup: bank.cgroup_slot(counters, || sock.cgroup()),
        }
    }

    /// A value of the map of seen sockets. Slots are fewer than ports.
    #[inline(always)]
    fn pack(self, cell: CounterCell) -> u64 {
        let [cgroup, port] = [self.cgroup, self.port].map(|slot| u64::from(slot.number()));
        cgroup << 32 | port << 16 | u64::from(cell.pack())
    }

    #[expect(clippy::cast_possible_truncation, reason = "parts of the value")]
    #[inline(always)]
    fn unpack(packed: u64) -> Self {
        Self {
            port: Slot::from_number(packed as u32 >> 16),
            cgroup: Slot::from_number((packed >> 32) as u32),
        }
    }
}

#[inline(always)]
fn insert_seen(
    counters: NetnsCounters,
    bank: SeededBank,
    seen: &Seen,
    key: u64,
    to: CounterCell,
    slots: Slots,
) {
    let Err(errno) = seen.insert(key, slots.pack(to), BPF_NOEXIST) else {
        return add_to_cell(counters, bank, to, slots);
    };
    // The walk came in between, or there is no room.
    match seen.get_ptr_mut(key) {
        Some(entry) => update_seen(counters, bank, entry, to, slots),
        None => cells::record_failure(Failure::Seen, errno),
    }
}

#[inline(always)]
fn update_seen(
    counters: NetnsCounters,
    bank: SeededBank,
    entry: *mut u64,
    to: CounterCell,
    slots: Slots,
) {
    remove_from_cell(counters, bank, entry);
    // SAFETY: the map gave the pointer; state changes of one socket do not overlap.
    unsafe { *entry = slots.pack(to) };
    add_to_cell(counters, bank, to, slots);
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
#[inline(always)]
fn remove_from_cell(counters: NetnsCounters, bank: SeededBank, entry: *const u64) {
    // SAFETY: as above.
    let entry = unsafe { *entry };
    let Some(from) = CounterCell::unpack(entry as u32) else {
        return cells::record_failure(Failure::Invalid, EINVAL);
    };
    if !from.is_closed() {
        adjust(counters, bank, from, Slots::unpack(entry), -1);
    }
}

#[inline(always)]
fn add_to_cell(counters: NetnsCounters, bank: SeededBank, to: CounterCell, slots: Slots) {
    if !to.is_closed() {
        adjust(counters, bank, to, slots, 1);
    }
}

#[inline(always)]
fn adjust(counters: NetnsCounters, bank: SeededBank, cell: CounterCell, slots: Slots, by: i32) {
    let index = bank.index();
    counters.count_seeded(index, cell, by.into());
    ports::adjust(counters.writer, slots.port, index, cell, by);
    cgroups::adjust(counters, slots.cgroup, index, cell, by);
}
