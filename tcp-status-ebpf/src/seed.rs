//! Seeding: every socket is entered into the map of seen sockets once, by the walk or by its first
//! event, and counted by whoever entered it. Later events move it.

use tcp_status_common::counters::Failure;

use crate::{
    cells::{self, CounterCell, EEXIST, EINVAL},
    kernel_layout::Sock,
    maps::{SEEN, Seen},
    netns_counters::{BPF_NOEXIST, NetnsCounters},
    ports::{self, Slot},
};

/// The walk has met a socket. Whether it was the first to see it.
#[inline(always)]
pub(crate) fn visit(counters: NetnsCounters, bank: u32, sock: Sock, cell: CounterCell) -> bool {
    let Some(seen) = SEEN.get(0) else {
        cells::record_failure(Failure::Seen, EINVAL);
        return false;
    };
    let key = sock.0 as u64;
    let slot = ports::slot(counters, bank, sock.port());
    match seen.insert(key, cell.pack() | slot.pack(), BPF_NOEXIST) {
        Ok(()) => {
            add_to_cell(counters, bank, cell, slot);
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
            unsafe { *entry = to.pack() };
            let _: Result<(), i32> = seen.remove(key);
        }
        Some(entry) => update_seen(counters, bank, entry, to, port),
        None if to.is_closed() => {}
        None => insert_seen(counters, bank, seen, key, to, port),
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
    match seen.get_ptr_mut(key) {
        Some(entry) => update_seen(counters, bank, entry, to, port),
        None => insert_seen(counters, bank, seen, key, to, port),
    }
}

#[inline(always)]
fn insert_seen(
    counters: NetnsCounters,
    bank: u32,
    seen: &Seen,
    key: u64,
    to: CounterCell,
    port: u16,
) {
    let slot = ports::slot(counters, bank, port);
    let Err(errno) = seen.insert(key, to.pack() | slot.pack(), BPF_NOEXIST) else {
        return add_to_cell(counters, bank, to, slot);
    };
    // The walk came in between, or there is no room.
    match seen.get_ptr_mut(key) {
        Some(entry) => update_seen(counters, bank, entry, to, port),
        None => cells::record_failure(Failure::Seen, errno),
    }
}

/// The port is looked up again: a socket that had none may have one now.
#[inline(always)]
fn update_seen(counters: NetnsCounters, bank: u32, entry: *mut u32, to: CounterCell, port: u16) {
    remove_from_cell(counters, bank, entry);
    let slot = ports::slot(counters, bank, port);
    // SAFETY: the map gave the pointer; state changes of one socket do not overlap.
    unsafe { *entry = to.pack() | slot.pack() };
    add_to_cell(counters, bank, to, slot);
}

#[inline(always)]
fn remove_from_cell(counters: NetnsCounters, bank: u32, entry: *const u32) {
    // SAFETY: as above.
    let entry = unsafe { *entry };
    let Some(from) = CounterCell::unpack(entry) else {
        return cells::record_failure(Failure::Invalid, EINVAL);
    };
    if !from.is_closed() {
        counters.count_seeded(bank, from, -1);
        ports::adjust(counters.writer, Slot::unpack(entry), bank, from, -1);
    }
}

#[inline(always)]
fn add_to_cell(counters: NetnsCounters, bank: u32, to: CounterCell, slot: Slot) {
    if !to.is_closed() {
        counters.count_seeded(bank, to, 1);
        ports::adjust(counters.writer, slot, bank, to, 1);
    }
}
