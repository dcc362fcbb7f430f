//! The listener walk: adds up the request sockets that wait at listeners, and ends behind the
//! last listener, so that its cost does not grow with connections.

use tcp_status_common::state::Family;

use crate::{count::LISTEN, host::Sock, maps::LISTENERS, walk::TcpIterContext};

const GO_ON: i32 = 0;
/// Ends the walk: the reader gets what was found and then EAGAIN.
const END: i32 = 1;

#[inline(always)]
pub(crate) fn visit(ctx: &TcpIterContext) -> i32 {
    if ctx.sk_common.is_null() {
        return GO_ON;
    }
    let sock = Sock(ctx.sk_common);
    // The kernel lists all listeners before anything else.
    if u32::from(sock.state()) != LISTEN {
        return END;
    }
    let Some(found) = LISTENERS.get_ptr_mut(0) else {
        return END;
    };
    // SAFETY: the map gave the pointer; one listener walk at a time.
    let found = unsafe { &mut *found };
    let Some(family) = Family::from_address_family(sock.address_family()) else {
        return GO_ON;
    };
    if let Ok(requests) = sock.request_count() {
        found.requests[family.index()] += u64::from(requests);
    }
    found.listeners += 1;
    // In a namespace with no connection, what follows is the whole table of the host.
    if found.listeners >= found.expected {
        return END;
    }
    GO_ON
}
