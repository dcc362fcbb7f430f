//! Half-open connections of closed listeners. A request socket holds a reference to its listener, so
//! that a closed listener's own count of its request sockets stays readable for as long as there are
//! any. Owns which closed listeners are recorded, and reads their counts on demand.

use core::hint::black_box;

use tcp_status_common::counters::{CLOSED_PER_READ, ClosedListener, NetnsId, OWN_NETNS};

use crate::{
    cells::{self, LISTEN},
    kernel_layout::{Sock, UntypedSock},
    maps::{self, CLOSED_LISTENERS, CLOSED_QUERY},
    netns_counters::BPF_NOEXIST,
};

/// The record of a closed listener. `sock` is itself or one of its request sockets.
#[expect(clippy::cast_possible_truncation, reason = "there are two families")]
#[inline(always)]
pub(crate) fn new(
    listener: UntypedSock,
    sock: Sock,
    netns: NetnsId,
    family: usize,
    port: u16,
) -> ClosedListener {
    ClosedListener {
        net: sock.net().address(),
        operations: listener.operations().unwrap_or(0),
        netns,
        requests: 0,
        port,
        family: family as u16,
    }
}

/// The walk meets a request socket: records its listener if that is closed and no event did.
#[inline(always)]
pub(crate) fn visit(request: Sock, family: usize) {
    let Ok(listener) = request.listener() else {
        return;
    };
    // A request socket that was accepted has lost its listener.
    if listener.0 != 0 && !is_listening(listener) {
        let net = request.net();
        let netns = if net.inode() == maps::own_inode() {
            OWN_NETNS
        } else {
            net.id()
        };
        let closed = new(listener, request, netns, family, request.port());
        record(listener, &closed, BPF_NOEXIST);
    }
}

/// Records a closed listener. `flags` says whether a record at the same address is replaced.
#[inline(always)]
pub(crate) fn record(listener: UntypedSock, closed: &ClosedListener, flags: u64) {
    let totals = maps::closed_totals();
    // SAFETY: a static of these programs.
    let (recorded, unrecorded) =
        unsafe { (&raw mut (*totals).recorded, &raw mut (*totals).unrecorded) };
    if CLOSED_LISTENERS.insert(listener.0, closed, flags).is_ok() {
        cells::add_atomic(recorded, 1);
    } else if CLOSED_LISTENERS.get_ptr(listener.0).is_none() {
        cells::add_atomic(unrecorded, 1);
    }
}

/// Reads how many request sockets each closed listener of the query has.
#[inline(always)]
pub(crate) fn read() {
    for i in 0..CLOSED_PER_READ {
        if read_closed_listener(i) != 0 {
            return;
        }
    }
}

/// The same of one of them; not 0 where the query ends. A function that the verifier checks once,
/// however often it is called.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_closed_listener(i: usize) -> i32 {
    let Some(query) = CLOSED_QUERY.get(0) else {
        return 1;
    };
    // Masked, as a port is: the verifier knows no bounds of an argument.
    let sock = query.socks[black_box(i) & (CLOSED_PER_READ - 1)];
    if sock == 0 {
        return 1;
    }
    if let Some(closed) = CLOSED_LISTENERS.get_ptr_mut(sock) {
        // SAFETY: the map gave the pointer; one read at a time.
        let closed = unsafe { &mut *closed };
        closed.requests = requests_of(UntypedSock(sock), closed);
    }
    0
}

/// 0 as well where the socket listens again, which then counts them, and where the memory is no
/// longer that socket. A new TCP socket at the same address has no request sockets.
#[inline(always)]
fn requests_of(listener: UntypedSock, closed: &ClosedListener) -> u32 {
    let requests = listener.request_count().unwrap_or(0);
    // After the read: if it is the socket now, it was.
    let is_same = listener.net() == Ok(closed.net)
        && listener.operations() == Ok(closed.operations)
        && listener.is_referenced();
    if is_same && !is_listening(listener) {
        requests
    } else {
        0
    }
}

#[inline(always)]
fn is_listening(listener: UntypedSock) -> bool {
    listener
        .state()
        .is_ok_and(|state| u32::from(state) == LISTEN)
}
