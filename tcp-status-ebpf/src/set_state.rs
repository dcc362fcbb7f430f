//! One state change of one full socket.

use aya_ebpf::{EbpfContext as _, programs::BtfTracePointContext};
use tcp_status_common::{counters::Writer, state::Family};

use crate::{
    count::{self, CLOSE, LISTEN, Place, tell},
    host::Sock,
    maps::{self, WRITERS},
    mark, seed,
};

/// The tracepoint reports MPTCP and SCTP sockets as well; these are no TCP entries.
pub(crate) const IPPROTO_TCP: u16 = 6;

#[inline(always)]
pub(crate) fn handle(ctx: &BtfTracePointContext, writer: Writer) {
    let Some((control, mode)) = maps::control() else {
        return;
    };
    let sock = Sock(ctx.arg(0));
    let [from, to] = [1, 2].map(|state| ctx.arg::<i32>(state).cast_unsigned());
    if !mark::first_to_see(ctx.as_ptr(), writer, sock.0, from, to) {
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
            return count::impossible(writer, from, to);
        }
        tell!(writer, counted);
    }
    if from == LISTEN && to == CLOSE {
        abandon(writer, sock);
    }
    if let Some(bank) = mode.seed()
        && let Some(place) = Place::new(family.index(), to)
    {
        seed::moved(writer, bank, sock.0, place);
    }
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
