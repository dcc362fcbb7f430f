//! Seeding: every socket is entered into the map of seen sockets once, by the walk or by its first
//! event, and counted by whoever entered it. Later events move it.

use tcp_status_common::counters::Failure;

use crate::{
    cells::{self, CounterCell, EEXIST, EINVAL},
    cgroups,
    kernel_layout::Sock,
    maps::{SEEN, Seen},
    netns_counters::{BPF_NOEXIST, NetnsCounters},
    ports::{self, Slot},
};

/// The walk has met a socket. Whether it was the first to see it.
#[inline(always)]
pub(crate) fn visit(
    counters: NetnsCounters,
    bank: u32,
    sock: Sock,
    cell: CounterCell,
    cgroup: cgroups::Slot,
) -> bool {
    let Some(seen) = SEEN.get(0) else {
        cells::record_failure(Failure::Seen, EINVAL);
        return false;
    };
    let key = sock.0 as u64;
    let slots = Slots {
        port: ports::slot(counters, bank, sock.port()),
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
pub(crate) fn transition(counters: NetnsCounters, bank: u32, sock: Sock, to: u32, port: u16) {
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
    bank: u32,
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
        port: ports::slot(counters, bank, port),
        cgroup: cgroups::Slot::NONE,
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
    cgroup: cgroups::Slot,
}

impl Slots {
    /// Of a full socket. They are looked up again at each event: one that had no port may have one now.
    #[inline(always)]
    fn of(counters: NetnsCounters, bank: u32, sock: Sock, port: u16) -> Self {
        Self {
            port: ports::slot(counters, bank, port),
            cgroup: cgroups::slot(counters, bank, sock),
        }
    }

    /// A value of the map of seen sockets.
    #[inline(always)]
    fn pack(self, cell: CounterCell) -> u64 {
        self.cgroup.pack() | u64::from(self.port.pack() | cell.pack())
    }
}

#[inline(always)]
fn insert_seen(
    counters: NetnsCounters,
    bank: u32,
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
fn update_seen(counters: NetnsCounters, bank: u32, entry: *mut u64, to: CounterCell, slots: Slots) {
    remove_from_cell(counters, bank, entry);
    // SAFETY: the map gave the pointer; state changes of one socket do not overlap.
    unsafe { *entry = slots.pack(to) };
    add_to_cell(counters, bank, to, slots);
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
#[inline(always)]
fn remove_from_cell(counters: NetnsCounters, bank: u32, entry: *const u64) {
    // SAFETY: as above.
    let entry = unsafe { *entry };
    let Some(from) = CounterCell::unpack(entry as u32) else {
        return cells::record_failure(Failure::Invalid, EINVAL);
    };
    if !from.is_closed() {
        let slots = Slots {
            port: Slot::unpack(entry as u32),
            cgroup: cgroups::Slot::unpack(entry),
        };
        adjust(counters, bank, from, slots, -1);
    }
}

#[inline(always)]
fn add_to_cell(counters: NetnsCounters, bank: u32, to: CounterCell, slots: Slots) {
    if !to.is_closed() {
        adjust(counters, bank, to, slots, 1);
    }
}

#[inline(always)]
fn adjust(counters: NetnsCounters, bank: u32, cell: CounterCell, slots: Slots, by: i32) {
    counters.count_seeded(bank, cell, by.into());
    ports::adjust(counters.writer, slots.port, bank, cell, by);
    cgroups::adjust(counters, slots.cgroup, bank, cell, by);
}
