//! Seeding: every socket is entered into the map of seen sockets once, by the walk or by its first
//! event, and counted by whoever entered it. Later events move it.

use tcp_status_common::counters::Failure;

use crate::{
    book::{Book, ONLY_NEW},
    count::{self, EXISTS, INVALID, Place},
    host::Sock,
    maps::{SEEN, Seen},
    ports::{self, Slot},
};

/// The walk has met a socket. Whether it was the first to see it.
#[inline(always)]
pub(crate) fn visit(book: Book, bank: u32, sock: Sock, place: Place) -> bool {
    let Some(seen) = SEEN.get(0) else {
        count::failed(Failure::Seen, INVALID);
        return false;
    };
    let key = sock.0 as u64;
    let slot = ports::slot(book, bank, sock.port());
    match seen.insert(key, place.pack() | slot.pack(), ONLY_NEW) {
        Ok(()) => {
            arrive(book, bank, place, slot);
            return true;
        }
        // An event came before, whatever followed it.
        Err(EXISTS) => {}
        Err(errno) => {
            if seen.get_ptr(key).is_none() {
                count::failed(Failure::Seen, errno);
            }
        }
    }
    false
}

/// A full socket is now at `to`, which is packed. One that closes is unhashed before it is
/// reported, so that the walk cannot meet it any more.
#[inline(never)]
pub(crate) fn moved(book: Book, bank: u32, sock: Sock, to: u32, port: u16) {
    let Some(to) = Place::unpack(to) else { return };
    let Some(seen) = SEEN.get(0) else {
        return count::failed(Failure::Seen, INVALID);
    };
    let key = sock.0 as u64;
    match seen.get_ptr_mut(key) {
        Some(known) if to.is_closed() => {
            depart(book, bank, known);
            // An entry that cannot be removed is that of a closed socket until the next one at
            // this address.
            // SAFETY: the map gave the pointer; state changes of one socket do not overlap.
            unsafe { *known = to.pack() };
            let _: Result<(), i32> = seen.remove(key);
        }
        Some(known) => relocate(book, bank, known, to, port),
        None if to.is_closed() => {}
        None => enter(book, bank, seen, key, to, port),
    }
}

/// A minisocket is now at `to`, which is packed. One that ends is reported while the walk may still
/// meet it, so that its entry stays, as closed, until another one is born at the same address.
#[inline(never)]
pub(crate) fn minisocket_moved(book: Book, bank: u32, tw: Sock, to: u32, port: u16) {
    let Some(to) = Place::unpack(to) else { return };
    let Some(seen) = SEEN.get(0) else {
        return count::failed(Failure::Seen, INVALID);
    };
    let key = tw.0 as u64;
    match seen.get_ptr_mut(key) {
        Some(known) => relocate(book, bank, known, to, port),
        None => enter(book, bank, seen, key, to, port),
    }
}

#[inline(always)]
fn enter(book: Book, bank: u32, seen: &Seen, key: u64, to: Place, port: u16) {
    let slot = ports::slot(book, bank, port);
    let Err(errno) = seen.insert(key, to.pack() | slot.pack(), ONLY_NEW) else {
        return arrive(book, bank, to, slot);
    };
    // The walk came in between, or there is no room.
    match seen.get_ptr_mut(key) {
        Some(known) => relocate(book, bank, known, to, port),
        None => count::failed(Failure::Seen, errno),
    }
}

/// The port is looked up again: a socket that had none may have one now.
#[inline(always)]
fn relocate(book: Book, bank: u32, known: *mut u32, to: Place, port: u16) {
    depart(book, bank, known);
    let slot = ports::slot(book, bank, port);
    // SAFETY: the map gave the pointer; state changes of one socket do not overlap.
    unsafe { *known = to.pack() | slot.pack() };
    arrive(book, bank, to, slot);
}

#[inline(always)]
fn depart(book: Book, bank: u32, known: *const u32) {
    // SAFETY: as above.
    let known = unsafe { *known };
    let Some(from) = Place::unpack(known) else {
        return count::failed(Failure::Invalid, INVALID);
    };
    if !from.is_closed() {
        book.seed(bank, from, -1);
        ports::count(book.writer, Slot::unpack(known), bank, from, -1);
    }
}

#[inline(always)]
fn arrive(book: Book, bank: u32, to: Place, slot: Slot) {
    if !to.is_closed() {
        book.seed(bank, to, 1);
        ports::count(book.writer, slot, bank, to, 1);
    }
}
