//! One state change of one full socket. What happens rarely is out of line: what runs each time
//! stays together, and small.

use aya_ebpf::{EbpfContext as _, programs::BtfTracePointContext};
use tcp_status_common::{control::Mode, counters::Writer, state::Family};

use crate::{
    book::{ANY, Book},
    closed,
    count::{self, Place, tell},
    host::{Sock, Untyped},
    maps, mark, ports, seed,
};

/// The tracepoint reports MPTCP and SCTP sockets as well; these are no TCP entries.
pub(crate) const IPPROTO_TCP: u16 = 6;

#[inline(always)]
pub(crate) fn handle(ctx: &BtfTracePointContext, writer: Writer) {
    let (Some(mode), Some(cpu)) = (maps::mode(), maps::cpu()) else {
        return;
    };
    let sock = Sock(ctx.arg(0));
    let [from, to] = [1, 2].map(|state| ctx.arg::<i32>(state).cast_unsigned());
    if !mark::first_at_tracepoint(ctx.as_ptr(), cpu, writer, sock.0, from, to) {
        return;
    }
    if writer == Writer::Second {
        tell!(cpu, writer, caught);
    }
    if sock.protocol() != IPPROTO_TCP {
        return;
    }
    let Some(book) = Book::of(sock, cpu, writer) else {
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
        return count::impossible(from, to);
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
        ports::flow(writer, ports::slot(book, bank, port), bank, from, to);
        tell!(book.cpu, writer, counted);
    }
    // Who samples looks at nothing else.
    if mode.is_armed() && book.is_own() {
        maps::wake();
    }
    if from.is_listening() && to.is_closed() {
        abandon(book, sock, from.family(), port);
    }
    if let Some(bank) = mode.seed() {
        seed::moved(book, bank, sock, to.pack(), port);
    }
}

/// A port gets a listener: from now on its connections are counted. That there is no room for it
/// is not reported: a walk would find none either.
#[inline(never)]
fn listens(book: Book, mode: Mode, port: u16) {
    if port == 0 {
        return tell!(book.cpu, book.writer, unplaced);
    }
    for bank in [mode.live(), mode.ports()].into_iter().flatten() {
        ports::enter(book, bank, port);
    }
}

/// A listener is closed: if it has request sockets, they stay listed until their timers fire. A
/// request that a CPU adds just now to a listener that had none is dropped by its first timer.
#[inline(never)]
fn abandon(book: Book, listener: Sock, family: usize, port: u16) {
    if listener.as_tcp().is_some_and(|tcp| tcp.request_count() > 0) {
        let closed = closed::new(listener, book.netns, family, port);
        closed::record(Untyped(listener.0 as u64), &closed, ANY);
    }
}
