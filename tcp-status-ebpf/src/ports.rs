//! Connections by local port: which ports are kept apart, and their gauges.
//!
//! A port is entered when it gets a listener. Sockets of other ports cost one load.

use core::{hint::black_box, ptr::read_volatile};

use tcp_status_common::{
    counters::{NetnsId, OTHER_PORTS, PORT_SHARES as SHARES, PortGauges, PortKey, PortShares},
    ends::{CONNECTION_END_REASONS, FIRST_CONNECTION_END},
    per_cpu::Writer,
};

use crate::{
    cells::{self, CounterCell},
    kernel_layout::{Sock, TcpSock},
    maps::{self, FREE_PORTS, PORT_SHARES, PORTS, Sharded},
    netns_counters::{BPF_NOEXIST, NetnsCounters},
};

/// A slot of [`maps::port_gauges`] plus one, or none: what a port is kept in, in one bank.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(u32);

impl Slot {
    pub(crate) const NONE: Self = Self(0);

    #[inline(always)]
    fn new(index: u32) -> Self {
        Self(index + 1)
    }

    /// Whether it is of one port.
    #[inline(always)]
    pub(crate) fn is_individual(self) -> bool {
        self != Self::NONE && self != Self::new(OTHER_PORTS)
    }

    /// As an argument of a global function.
    #[inline(always)]
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub(crate) fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// As the upper bits of a value of the map of seen sockets; slots are fewer than ports.
    #[inline(always)]
    pub(crate) fn pack(self) -> u32 {
        self.0 << 16
    }

    #[inline(always)]
    pub(crate) fn unpack(packed: u32) -> Self {
        Self(packed >> 16)
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
        return Slot(u32::from(unsafe { (*page).slots[port_index(port)] }));
    }
    match PORTS.get_ptr(key(counters, bank, port)) {
        // SAFETY: the map gave the pointer; an entry never changes.
        Some(index) => Slot::new(unsafe { *index }),
        None => Slot::NONE,
    }
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
    let slot = find_or_register(counters, bank, port, elsewhere);
    if counters.is_own() && slot != Slot::NONE {
        let page = maps::port_page(bank);
        // SAFETY: as above. Whoever enters the port writes the same.
        unsafe { (*page).slots[port_index(port)] = slot.0 as u16 };
    }
    slot
}

/// The slot of a port that is entered, or is entered now.
#[inline(always)]
fn find_or_register(counters: NetnsCounters, bank: u32, port: u16, elsewhere: Slot) -> Slot {
    let key = key(counters, bank, port);
    // SAFETY: the map gave the pointer; an entry never changes.
    let known = || PORTS.get_ptr(key).map(|index| Slot::new(unsafe { *index }));
    if let Some(slot) = known() {
        return slot;
    }
    let (slot, taken) = if elsewhere.is_individual() {
        (elsewhere, false)
    } else if let Some(index) = take_free(counters) {
        (Slot::new(index), true)
    } else if counters.is_own() {
        // The others share a slot, of the tracker's own namespace only.
        (Slot::new(OTHER_PORTS), false)
    } else {
        return Slot::NONE;
    };
    if PORTS.insert(key, slot.0 - 1, BPF_NOEXIST).is_ok() {
        return slot;
    }
    // Another CPU was first, or there is no room.
    if taken {
        count_taken(counters, -1);
        let _: Result<(), i32> = FREE_PORTS.push(slot.0 - 1, 0);
    }
    known().unwrap_or(Slot::NONE)
}

/// A slot that is free, unless the namespace has its share.
#[inline(always)]
fn take_free(counters: NetnsCounters) -> Option<u32> {
    if !counters.is_own() {
        let shares = PORT_SHARES.get_ptr(0)?;
        // SAFETY: the map gave the pointer, the index is in range; others write at any time.
        let (taken, free, reserved) = unsafe {
            (
                read_volatile(&raw const (*shares).taken[share_index(counters.netns)]),
                read_volatile(&raw const (*shares).free),
                read_volatile(&raw const (*shares).reserved),
            )
        };
        if !PortShares::may_take(taken, free, reserved) {
            return None;
        }
    }
    let index = FREE_PORTS.pop().ok()??;
    count_taken(counters, 1);
    Some(index)
}

/// The namespace has one slot more (`by` 1) or less (-1).
#[inline(always)]
fn count_taken(counters: NetnsCounters, by: i32) {
    let Some(shares) = PORT_SHARES.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: as above.
    unsafe {
        cells::add_u32_atomic(&raw mut (*shares).free, (-by).cast_unsigned());
        if !counters.is_own() {
            let taken = &raw mut (*shares).taken[share_index(counters.netns)];
            cells::add_u32_atomic(taken, by.cast_unsigned());
        }
    }
}

/// Masked as [`port_index`].
#[inline(always)]
fn share_index(netns: NetnsId) -> usize {
    black_box(PortShares::index(netns)) & (SHARES - 1)
}

#[inline(always)]
fn key(counters: NetnsCounters, bank: u32, port: u16) -> PortKey {
    PortKey {
        netns: counters.netns,
        port,
        // One bit.
        bank: (bank & 1) as u16,
        padding: 0,
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
    if slot == Slot::NONE {
        return None;
    }
    maps::port_gauges(slot.0 - 1, bank)
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
