//! Connections by local port: which ports are kept apart, and their gauges.
//!
//! A port is entered when it gets a listener. Sockets of other ports cost one load.

use core::hint::black_box;

use tcp_status_common::{
    counters::{NetnsId, OWN_NETNS, PortGauges, SlotKey},
    ends::{CONNECTION_END_REASONS, FIRST_CONNECTION_END},
    per_cpu::Writer,
};

use crate::{
    cells::{self, CounterCell},
    kernel_layout::{Sock, TcpSock},
    maps::{self, FREE_PORTS, PORT_SHARES, PORTS, Sharded},
    netns_counters::NetnsCounters,
    slots::{Pool, Slot},
};

#[inline(always)]
fn pool() -> Pool {
    Pool {
        slots: &PORTS,
        free: &FREE_PORTS,
        shares: &PORT_SHARES,
    }
}

/// The local port of a socket, which may be `closing` for good; 0 if it has none yet.
#[inline(always)]
pub(crate) fn local_port(sock: Sock, closing: bool) -> u16 {
    let port = sock.port();
    // A port that was not chosen by bind() is given back before the end is reported.
    if port == 0 && closing {
        return sock.as_tcp().map_or(0, TcpSock::last_port);
    }
    port
}

/// Where a port is kept in `bank`.
#[inline(always)]
pub(crate) fn slot(counters: NetnsCounters, bank: u32, port: u16) -> Slot {
    if port == 0 {
        return Slot::NONE;
    }
    if counters.is_own() {
        let page = maps::port_page(bank);
        // SAFETY: a static of these programs; every port is in a page.
        let slot = unsafe { (*page).slots[port_index(port)] };
        return Slot::from_number(slot.into());
    }
    Slot::from_number(find_port(counters.netns, port.into(), bank).cast_unsigned())
}

/// The slot of a port of another namespace, plus one; 0 for none. A function that the verifier checks once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_port(netns: NetnsId, port: u32, bank: u32) -> i32 {
    let known = pool().find(key(netns, port, bank));
    known.unwrap_or(Slot::NONE).number().cast_signed()
}

/// A port as an index. Before 6.7 the verifier forgets the bounds of a number that lay on the stack,
/// and the compiler would leave out a mask that changes nothing.
#[inline(always)]
fn port_index(port: u16) -> usize {
    black_box(usize::from(port)) & 0xffff
}

/// Enters a port that gets a listener, if there is room: at the slot that it has in the other bank,
/// if it has one there. Its slot.
#[expect(
    clippy::cast_possible_truncation,
    reason = "slots are fewer than ports"
)]
#[inline(always)]
pub(crate) fn register(counters: NetnsCounters, bank: u32, port: u16, elsewhere: Slot) -> Slot {
    let slot = register_port(counters.netns, port.into(), bank, elsewhere.number());
    let slot = Slot::from_number(slot.cast_unsigned());
    if counters.is_own() && slot != Slot::NONE {
        let page = maps::port_page(bank);
        // SAFETY: as above. Whoever enters the port writes the same.
        unsafe { (*page).slots[port_index(port)] = slot.number() as u16 };
    }
    slot
}

/// The slot of a port, plus one; 0 for none. A function that the verifier checks once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn register_port(netns: NetnsId, port: u32, bank: u32, elsewhere: u32) -> i32 {
    let (pool, key) = (pool(), key(netns, port, bank));
    let slot = match pool.find(key) {
        Some(slot) => slot,
        None => match pool.take(key, Slot::from_number(elsewhere)) {
            Ok(Some(slot)) => slot,
            // The others share a slot, of the tracker's own namespace only.
            Ok(None) if netns == OWN_NETNS => pool.enter(key, Slot::OTHER).unwrap_or(Slot::NONE),
            _ => Slot::NONE,
        },
    };
    slot.number().cast_signed()
}

#[inline(always)]
fn key(netns: NetnsId, port: u32, bank: u32) -> SlotKey {
    SlotKey {
        netns,
        item: port.into(),
        bank: (bank & 1).into(),
    }
}

/// A socket of the port goes from one place to another.
#[inline(always)]
pub(crate) fn count_transition(
    writer: Writer,
    slot: Slot,
    bank: u32,
    from: CounterCell,
    to: CounterCell,
) {
    let Some(gauges) = gauges(slot, bank) else {
        return;
    };
    // The child of a listener is born; the listener stays.
    let birth = from.is_listening() && to.is_half_open();
    if !birth {
        add(writer, gauges, from, -1);
    }
    add(writer, gauges, to, 1);
}

/// A connection of the port ended, for the reason of this index.
#[inline(always)]
pub(crate) fn count_end(slot: Slot, bank: u32, reason: usize) {
    // Opaque, so that the comparison stays: the verifier wants to see it.
    let index = black_box(reason.wrapping_sub(FIRST_CONNECTION_END));
    if let Some(Sharded { gauges, .. }) = gauges(slot, bank)
        && index < CONNECTION_END_REASONS
    {
        // SAFETY: the map gave the pointer; the index is in range.
        cells::add_u32_atomic(unsafe { &raw mut (*gauges).ends[index] }, 1);
    }
}

/// One socket more (`by` 1) or less (-1).
#[inline(always)]
pub(crate) fn adjust(writer: Writer, slot: Slot, bank: u32, cell: CounterCell, by: i32) {
    if let Some(gauges) = gauges(slot, bank) {
        add(writer, gauges, cell, by);
    }
}

#[inline(always)]
fn gauges(slot: Slot, bank: u32) -> Option<Sharded<PortGauges>> {
    maps::port_gauges(slot.index()?, bank)
}

/// Closed sockets are not counted: what their place holds is never read.
#[inline(always)]
fn add(writer: Writer, sharded: Sharded<PortGauges>, cell: CounterCell, by: i32) {
    // A place is in range: there is always one.
    let Some(cell) = cell.recheck_bounds() else {
        return;
    };
    let (family, state, by) = (cell.family(), cell.state(), by.cast_unsigned());
    let Sharded { gauges, shared } = sharded;
    // SAFETY: the map gave the pointer, a place is in range.
    unsafe {
        match writer {
            Writer::First => cells::add_u32(&raw mut (*gauges).first[family][state], by, shared),
            // Writers share the cell, and may interrupt each other.
            _ => cells::add_u32_atomic(&raw mut (*gauges).shared[family][state], by),
        }
    }
}
