//! The event handler: one state change of one socket.
//!
//! The kernel skips a program that is already active on its CPU, so two copies are attached,
//! one behind the other. What the first has counted it marks; the second counts what bears no mark.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_current_task_btf, programs::BtfTracePointContext,
};
use tcp_status_common::{
    control::{Counted, Mode, TASK_SLOTS},
    counters::Writer,
    state::Family,
};

use crate::{
    count::{self, CLOSE, LISTEN, Place, tell},
    host::{Sock, Task},
    maps::{CONTROL, IRQ_COUNTED, SEEN, TASK_COUNTED, WRITERS},
};

const IPPROTO_TCP: u16 = 6;

#[inline(always)]
pub(crate) fn handle(ctx: &BtfTracePointContext, writer: Writer) {
    let Some(control) = CONTROL.get(0) else {
        return;
    };
    // One read: the event belongs to the mode that it sees here, whatever follows.
    // SAFETY: a member of a map's value.
    let mode = unsafe { core::ptr::read_volatile(&raw const control.mode) };
    if mode == Mode::OFF {
        return;
    }
    let sock = Sock(ctx.arg(0));
    let (from, to) = (ctx.arg::<i32>(1) as u32, ctx.arg::<i32>(2) as u32);
    if !first_to_see(ctx, writer, sock, from, to) {
        return;
    }
    tell!(writer, events);
    if sock.protocol() != IPPROTO_TCP || sock.netns() != control.netns {
        return;
    }
    let Some(family) = Family::from_address_family(sock.address_family()) else {
        return;
    };
    if let Some(bank) = mode.live() {
        if count::flow(writer, bank, family.index(), from, to).is_none() {
            return count::impossible(ctx, writer, from, to);
        }
        tell!(writer, counted);
    }
    if from == LISTEN && to == CLOSE {
        abandon(writer, sock);
    }
    if let Some(bank) = mode.seed() {
        if let Some(place) = Place::new(family.index(), to) {
            seed(writer, bank, sock, place);
        }
    }
}

/// Leaves a mark (first copy), or looks for it and takes it away (second copy).
#[inline(always)]
fn first_to_see(
    ctx: &BtfTracePointContext,
    writer: Writer,
    sock: Sock,
    from: u32,
    to: u32,
) -> bool {
    // SAFETY: no arguments; the kernel gives the running task.
    let task = Task(unsafe { bpf_get_current_task_btf() } as *const u8);
    // The mark belongs to the level of execution: an event that interrupts another between
    // its two copies must not overwrite the other's mark.
    let slot = if task.stack_holds(ctx.as_ptr().cast()) {
        TASK_COUNTED.get_ptr_mut(task.pid() % TASK_SLOTS)
    } else {
        IRQ_COUNTED.get_ptr_mut(0)
    };
    let Some(slot) = slot else { return false };
    let event = Counted {
        sock: sock.0 as u64,
        change: u64::from(from) << 32 | u64::from(to),
    };
    // SAFETY: the map gave the pointer.
    let slot = unsafe { &mut *slot };
    match writer {
        Writer::First => *slot = event,
        _ if *slot == event => {
            slot.sock = 0;
            return false;
        }
        _ => {}
    }
    true
}

/// The half-open connections of a closed listener can no longer be read from it.
#[inline(always)]
fn abandon(writer: Writer, listener: Sock) {
    if let (Ok(requests), Some(stats)) =
        (listener.request_count(), WRITERS.get_ptr_mut(writer as u32))
    {
        // SAFETY: the map gave the pointer.
        count::add(unsafe { &raw mut (*stats).abandoned }, u64::from(requests));
    }
}

/// Moves the socket in the bank that is being seeded, or counts it if the walk has not yet.
#[inline(always)]
fn seed(writer: Writer, bank: u32, sock: Sock, to: Place) {
    let Some(seen) = SEEN.get(0) else {
        return count::failed(writer);
    };
    let key = sock.0 as u64;
    if let Some(known) = seen.get_ptr_mut(key) {
        return relocate(writer, bank, seen, key, known, to);
    }
    if to.is_closed() {
        return;
    }
    // BPF_NOEXIST: whoever inserts, the walk or the event, counts.
    match seen.insert(key, to.pack(), 1) {
        Ok(()) => {
            count::seed(writer, bank, to, 1);
        }
        // The walk came in between.
        Err(_) => match seen.get_ptr_mut(key) {
            Some(known) => relocate(writer, bank, seen, key, known, to),
            None => count::failed(writer),
        },
    }
}

#[inline(always)]
fn relocate(
    writer: Writer,
    bank: u32,
    seen: &crate::maps::Seen,
    key: u64,
    known: *mut u32,
    to: Place,
) {
    // SAFETY: the map gave the pointer; state changes of one socket do not overlap.
    let Some(from) = Place::unpack(unsafe { *known }) else {
        return count::failed(writer);
    };
    count::seed(writer, bank, from, -1);
    if to.is_closed() {
        if seen.remove(key).is_err() {
            count::failed(writer);
        }
        return;
    }
    // SAFETY: as above.
    unsafe { *known = to.pack() };
    count::seed(writer, bank, to, 1);
}
