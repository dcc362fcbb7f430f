//! Why a socket was closed, and where to those wanted that found no local port. Out of line: most
//! state changes close no socket.

use core::hint::black_box;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use tcp_status_common::{
    counters::NetnsId,
    ends::{END_REASONS, EndReason},
    no_local_port::{Destination, NoLocalPort},
};

use crate::{
    cells::{self, CounterCell, FIN_WAIT1, FIN_WAIT2, SYN_SENT},
    kernel_layout::Sock,
    maps::{self, NO_LOCAL_PORT},
    netns_counters::{BPF_NOEXIST, NetnsCounters},
    ports,
    slots::Slot,
};

/// A socket was closed that was in `from` and has, or had, the local `port`, which is kept in a slot of a
/// bank.
#[inline(always)]
pub(crate) fn closed(
    counters: NetnsCounters,
    sock: Sock,
    from: CounterCell,
    port: u16,
    (slot, bank): (Slot, u32),
) {
    let own = u32::from(counters.is_own()) << 16;
    let (from, slot) = (from.pack() | own, slot.number() << 1 | bank & 1);
    record(counters.netns, sock, from, port.into(), slot);
}

/// The same, with as few arguments as a function may have.
#[inline(never)]
fn record(netns: NetnsId, sock: Sock, mut from: u32, mut port: u32, slot: u32) {
    // It neither becomes a minisocket nor has one: this side has reset it.
    if from & 0xff == FIN_WAIT2 && !sock.is_dead_or_done() {
        from = from & !0xff | FIN_WAIT1;
    }
    // A socket that had a port before still shows it.
    if from & 0xff == SYN_SENT
        && sock.port() == 0
        && sock.as_tcp().is_some_and(|tcp| tcp.packets_out() == 0)
    {
        port = 0;
    }
    let reason = count(from, sock.error(), port, slot);
    if reason == EndReason::NoLocalPort as u32 {
        record_destination(netns, sock, (from >> 8 & 0xff) as usize);
    }
}

/// Counts why: at the port of the slot, if it has one; and in all, if bit 16 of `from` says that it is a
/// socket of the tracker's own namespace. Returns the reason, or a number that is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count(from: u32, error: u32, port: u32, slot: u32) -> u32 {
    let Some(reason) = EndReason::of(from & 0xff, error, port) else {
        return u32::MAX;
    };
    // Opaque, so that the comparison stays: the verifier wants to see it.
    let index = black_box(reason as usize);
    if from >> 16 == 1
        && let Some(cpu) = maps::per_cpu()
        && index < END_REASONS
    {
        // SAFETY: the map gave the pointer; the index is in range.
        cells::add_atomic(unsafe { &raw mut (*cpu).ends[index] }, 1);
    }
    ports::count_end(Slot::from_number(slot >> 1), slot & 1, reason as usize);
    reason as u32
}

/// The kernel clears the destination only after it has closed the socket.
#[inline(always)]
fn record_destination(netns: NetnsId, sock: Sock, family: usize) {
    let Ok((address, port)) = sock.peer(family) else {
        return;
    };
    let destination = Destination {
        netns,
        address,
        port,
        padding: [0; 3],
    };
    // SAFETY: no arguments.
    let last = unsafe { bpf_ktime_get_ns() };
    if !count_failure(&destination, last) {
        let first = NoLocalPort { failures: 1, last };
        if NO_LOCAL_PORT
            .insert(destination, first, BPF_NOEXIST)
            .is_err()
        {
            // Another CPU was first, or there is no room.
            count_failure(&destination, last);
        }
    }
}

/// Whether there was an entry.
#[inline(always)]
fn count_failure(destination: &Destination, last: u64) -> bool {
    let Some(entry) = NO_LOCAL_PORT.get_ptr_mut(destination) else {
        return false;
    };
    // SAFETY: the map gave the pointer; whoever writes the time writes nearly the same.
    unsafe {
        cells::add_atomic(&raw mut (*entry).failures, 1);
        (*entry).last = last;
    }
    true
}
