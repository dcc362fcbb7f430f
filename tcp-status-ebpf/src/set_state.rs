//! One state change of one full socket.

use aya_ebpf::{EbpfContext as _, programs::BtfTracePointContext};
use tcp_status_common::{control::Mode, counters::Writer, state::Family};

use crate::{
    book::Book,
    count::{self, Place, tell},
    host::Sock,
    maps::{self, WRITERS},
    mark, ports, seed,
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
    if sock.protocol() != IPPROTO_TCP {
        return;
    }
    let Some(book) = Book::of(sock, control, writer) else {
        return;
    };
    let Some(family) = Family::from_address_family(sock.address_family()) else {
        return;
    };
    let places = (
        Place::new(family.index(), from),
        Place::new(family.index(), to),
    );
    let (Some(from), Some(to)) = places else {
        return count::impossible(writer, from, to);
    };
    changed(sock, book, mode, from, to);
}

#[inline(always)]
fn changed(sock: Sock, book: Book, mode: Mode, from: Place, to: Place) {
    let writer = book.writer;
    let port = ports::local(sock, to.is_closed());
    if to.is_listening() {
        listens(book, mode, port);
    }
    if let Some(bank) = mode.live() {
        book.flow(bank, from, to);
        ports::flow(ports::slot(book, bank, port), bank, from, to);
        tell!(writer, counted);
    }
    if from.is_listening() && to.is_closed() {
        abandon(writer, sock);
    }
    if let Some(bank) = mode.seed() {
        seed::moved(book, bank, sock, to, port);
    }
}

/// A port gets a listener: from now on its connections are counted.
#[inline(always)]
fn listens(book: Book, mode: Mode, port: u16) {
    let live = mode
        .live()
        .is_none_or(|bank| ports::enter(book, bank, port));
    let other = mode
        .ports()
        .is_none_or(|bank| ports::enter(book, bank, port));
    if !live || !other {
        tell!(book.writer, unplaced);
    }
}

/// The half-open connections of a closed listener can no longer be read from it.
#[inline(always)]
fn abandon(writer: Writer, listener: Sock) {
    if let (Some(listener), Some(stats)) = (listener.as_tcp(), WRITERS.get_ptr_mut(writer as u32)) {
        let requests = listener.request_count();
        // SAFETY: the map gave the pointer.
        count::add(unsafe { &raw mut (*stats).abandoned }, requests.into());
    }
}
