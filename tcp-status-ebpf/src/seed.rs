//! Seeding: every socket is entered into the map of seen sockets once, by the walk or by its first
//! event, and counted by whoever entered it. Later events move it.

use tcp_status_common::counters::Writer;

use crate::{
    count::{self, Place},
    maps::{SEEN, Seen},
};

/// `BPF_NOEXIST`: an update that fails where there is an entry already.
const ONLY_NEW: u64 = 1;

/// The walk has met a socket. Whether it was the first to see it.
#[inline(always)]
pub(crate) fn visit(bank: u32, sock: *const u8, place: Place) -> bool {
    let Some(seen) = SEEN.get(0) else {
        count::failed(Writer::Walk);
        return false;
    };
    let key = sock as u64;
    if seen.insert(key, place.pack(), ONLY_NEW).is_ok() {
        count::seed(Writer::Walk, bank, place, 1);
        return true;
    }
    if seen.get_ptr(key).is_none() {
        count::failed(Writer::Walk);
    }
    false
}

/// A full socket is now at `to`. One that closes is unhashed before it is reported, so that the
/// walk cannot meet it any more.
#[inline(always)]
pub(crate) fn moved(writer: Writer, bank: u32, sock: *const u8, to: Place) {
    let Some(seen) = SEEN.get(0) else {
        return count::failed(writer);
    };
    let key = sock as u64;
    match seen.get_ptr_mut(key) {
        Some(known) if to.is_closed() => {
            depart(writer, bank, known);
            if seen.remove(key).is_err() {
                count::failed(writer);
            }
        }
        Some(known) => relocate(writer, bank, known, to),
        None if to.is_closed() => {}
        None => enter(writer, bank, seen, key, to),
    }
}

/// A minisocket is now at `to`. One that ends is reported while the walk may still meet it, so
/// that its entry stays, as closed, until another one is born at the same address.
#[inline(always)]
pub(crate) fn minisocket_moved(writer: Writer, bank: u32, tw: *const u8, to: Place) {
    let Some(seen) = SEEN.get(0) else {
        return count::failed(writer);
    };
    let key = tw as u64;
    match seen.get_ptr_mut(key) {
        Some(known) => relocate(writer, bank, known, to),
        None => enter(writer, bank, seen, key, to),
    }
}

#[inline(always)]
fn enter(writer: Writer, bank: u32, seen: &Seen, key: u64, to: Place) {
    if seen.insert(key, to.pack(), ONLY_NEW).is_ok() {
        return arrive(writer, bank, to);
    }
    // The walk came in between, or there is no room.
    match seen.get_ptr_mut(key) {
        Some(known) => relocate(writer, bank, known, to),
        None => count::failed(writer),
    }
}

#[inline(always)]
fn relocate(writer: Writer, bank: u32, known: *mut u32, to: Place) {
    depart(writer, bank, known);
    // SAFETY: the map gave the pointer; state changes of one socket do not overlap.
    unsafe { *known = to.pack() };
    arrive(writer, bank, to);
}

#[inline(always)]
fn depart(writer: Writer, bank: u32, known: *const u32) {
    // SAFETY: as above.
    match Place::unpack(unsafe { *known }) {
        Some(from) if !from.is_closed() => {
            count::seed(writer, bank, from, -1);
        }
        Some(_) => {}
        None => count::failed(writer),
    }
}

#[inline(always)]
fn arrive(writer: Writer, bank: u32, to: Place) {
    if !to.is_closed() {
        count::seed(writer, bank, to, 1);
    }
}
