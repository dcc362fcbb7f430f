//! One state change of one full socket. What happens rarely is out of line: what runs each time
//! stays together, and small.

use aya_ebpf::{EbpfContext as _, programs::BtfTracePointContext};
use tcp_status_common::{control::Mode, per_cpu::Writer, state::Family};

use crate::{
    cells::{self, CounterCell, bump_stat},
    cgroups, closed_listeners, dedup, ends,
    kernel_layout::{Sock, UntypedSock},
    maps,
    netns_counters::{BPF_ANY, NetnsCounters},
    ports,
    seed::{self, SeededBank},
    slots::Slot,
};

/// The tracepoint reports MPTCP and SCTP sockets as well; these are no TCP entries.
pub(crate) const IPPROTO_TCP: u16 = 6;

#[inline(always)]
pub(crate) fn handle(ctx: &BtfTracePointContext, writer: Writer) {
    let (Some(mode), Some(cpu)) = (maps::mode(), maps::per_cpu()) else {
        return;
    };
    let sock = Sock(ctx.arg(0));
    let [from, to] = [1, 2].map(|state| ctx.arg::<i32>(state).cast_unsigned());
    if !dedup::claim_tracepoint_event(ctx.as_ptr(), cpu, writer, sock.0, from, to) {
        return;
    }
    if writer == Writer::Second {
        bump_stat!(cpu, writer, recovered);
    }
    if sock.protocol() != IPPROTO_TCP {
        return;
    }
    let Some(counters) = NetnsCounters::of(sock, cpu, writer) else {
        return;
    };
    let Some(family) = Family::from_address_family(sock.address_family()) else {
        return;
    };
    let cells = (
        CounterCell::new(family.index(), from),
        CounterCell::new(family.index(), to),
    );
    let (Some(from), Some(to)) = cells else {
        cells::record_invalid_state(from, to);
        return;
    };
    transition(sock, counters, mode, from, to);
}

#[inline(always)]
fn transition(sock: Sock, counters: NetnsCounters, mode: Mode, from: CounterCell, to: CounterCell) {
    let (writer, armed) = (counters.writer, mode.is_armed());
    let mode = counters.mode(mode);
    let port = ports::local_port(sock, to.is_closed());
    if to.is_listening() {
        register_listener_port(counters, mode, port);
    }
    let mut kept = (Slot::NONE, 0);
    if let Some(bank) = mode.live() {
        kept = (ports::slot(counters, bank, port), bank);
        counters.count_transition(bank, from, to);
        ports::count_transition(writer, kept.0, bank, from, to);
        cgroups::count_transition(counters, sock, bank, from, to);
        bump_stat!(counters.cpu, writer, counted);
    }
    // Who samples looks at nothing else.
    if armed && counters.is_own() {
        maps::wake();
    }
    if from.is_listening() && to.is_closed() {
        record_closed_listener(counters, sock, from.family(), port);
    }
    if let Some(bank) = SeededBank::of(counters, mode) {
        seed::transition(counters, bank, sock, to.pack(), port);
    }
    if to.is_closed() {
        ends::closed(counters, sock, from, port, kept);
    }
}

/// A port gets a listener: from now on its connections are counted. That there is no room for it
/// is not reported: a walk would find none either.
#[inline(never)]
fn register_listener_port(counters: NetnsCounters, mode: Mode, port: u16) {
    if port == 0 {
        return bump_stat!(counters.cpu, counters.writer, unregistered);
    }
    let mut slot = Slot::NONE;
    for bank in [mode.live(), mode.ports()].into_iter().flatten() {
        slot = ports::register(counters, bank, port, slot);
    }
}

/// A listener is closed: if it has request sockets, they stay listed until their timers fire. A
/// request that a CPU adds just now to a listener that had none is dropped by its first timer.
#[inline(never)]
fn record_closed_listener(counters: NetnsCounters, listener: Sock, family: usize, port: u16) {
    if listener.as_tcp().is_some_and(|tcp| tcp.request_count() > 0) {
        let address = UntypedSock(listener.0 as u64);
        let closed = closed_listeners::new(address, listener, counters.netns, family, port);
        closed_listeners::record(address, &closed, BPF_ANY);
    }
}
