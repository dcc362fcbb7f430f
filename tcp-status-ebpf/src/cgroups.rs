//! Full sockets by cgroup, of the tracker's namespace. The cgroup of a socket is constant: that of
//! whoever created it, or its listener.
//!
//! A cgroup gets a slot with its first socket in a bank. What works with numbers alone is in global
//! functions, which the verifier checks once.

use tcp_status_common::{
    counters::{CGROUP_CACHE_ENTRIES, CgroupGauges, Failure, OTHER_CGROUPS, STATE_SLOTS},
    per_cpu::Writer,
};

use crate::{
    cells::{self, CounterCell, E2BIG},
    kernel_layout::{self, Sock},
    maps::{self, CGROUPS_0, CGROUPS_1, FREE_CGROUPS_0, FREE_CGROUPS_1, Sharded},
    netns_counters::{BPF_NOEXIST, NetnsCounters},
};

/// A slot of [`maps::cgroup_gauges`] plus one, or none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(u32);

impl Slot {
    pub(crate) const NONE: Self = Self(0);

    /// As the upper half of a value of the map of seen sockets.
    #[inline(always)]
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.0) << 32
    }

    #[inline(always)]
    pub(crate) fn unpack(packed: u64) -> Self {
        Self((packed >> 32) as u32)
    }
}

/// Counts a transition of a full socket in the live `bank`.
#[inline(always)]
pub(crate) fn count_transition(
    counters: NetnsCounters,
    sock: Sock,
    bank: u32,
    from: CounterCell,
    to: CounterCell,
) {
    if !kernel_layout::counts_cgroups() || !counters.is_own() {
        return;
    }
    match sock.cgroup() {
        Ok(id) => {
            let is_first = u32::from(counters.writer == Writer::First);
            let _: i32 = count_cgroup(id, bank, is_first, from.number(), to.number());
        }
        Err(errno) => cells::record_failure(Failure::Invalid, errno),
    }
}

/// The slot of a full socket in `bank`. Its first socket gives a cgroup one.
#[inline(always)]
pub(crate) fn slot(counters: NetnsCounters, bank: u32, sock: Sock) -> Slot {
    slot_of(counters, bank, || sock.cgroup())
}

/// The same of one that the verifier knows as `struct sock_common *`.
#[inline(always)]
pub(crate) fn probe_slot(counters: NetnsCounters, bank: u32, sock: Sock) -> Slot {
    slot_of(counters, bank, || sock.probe_cgroup())
}

#[inline(always)]
fn slot_of(counters: NetnsCounters, bank: u32, cgroup: impl FnOnce() -> Result<u64, i32>) -> Slot {
    if !kernel_layout::counts_cgroups() || !counters.is_own() {
        return Slot::NONE;
    }
    match cgroup() {
        Ok(id) => Slot(cgroup_slot(id, bank).cast_unsigned()),
        Err(errno) => {
            cells::record_failure(Failure::Invalid, errno);
            Slot::NONE
        }
    }
}

/// One socket more (`by` 1) or less (-1) in the `bank` that is being seeded.
#[inline(always)]
pub(crate) fn adjust(counters: NetnsCounters, slot: Slot, bank: u32, cell: CounterCell, by: i32) {
    if kernel_layout::counts_cgroups() && counters.is_own() {
        let is_first = u32::from(counters.writer == Writer::First);
        let _: i32 = adjust_cgroup(slot.0, bank, is_first, cell.number(), by);
    }
}

/// Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_cgroup(id: u64, bank: u32, is_first: u32, from: u32, to: u32) -> i32 {
    let Some(gauges) = gauges(find(id, bank), bank) else {
        return 0;
    };
    // The child of a listener is born; the listener stays.
    if !(from == cells::LISTEN && to == cells::SYN_RECV) {
        add(is_first, gauges, from, -1);
    }
    add(is_first, gauges, to, 1);
    0
}

/// Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn adjust_cgroup(slot: u32, bank: u32, is_first: u32, state: u32, by: i32) -> i32 {
    if let Some(gauges) = gauges(Slot(slot), bank) {
        add(is_first, gauges, state, by);
    }
    0
}

/// The slot of a cgroup plus one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cgroup_slot(id: u64, bank: u32) -> i32 {
    find(id, bank).0.cast_signed()
}

#[inline(always)]
fn find(id: u64, bank: u32) -> Slot {
    let entry = cache_entry(id, bank);
    // SAFETY: a static of these programs.
    let cached = unsafe { entry.read_volatile() };
    if cached >> 16 == id {
        return Slot((cached & 0xffff) as u32);
    }
    let slot = find_or_register_cgroup(id, bank).cast_unsigned();
    if id >> 48 == 0 {
        // SAFETY: as above. One store: whoever interrupts this sees all or nothing of it.
        unsafe { entry.write_volatile(id << 16 | u64::from(slot & 0xffff)) };
    }
    Slot(slot)
}

#[expect(clippy::cast_possible_truncation, reason = "the target has 64 bits")]
#[inline(always)]
fn cache_entry(id: u64, bank: u32) -> *mut u64 {
    let index = id as usize & (CGROUP_CACHE_ENTRIES - 1);
    // SAFETY: a static of these programs; the index is in range.
    unsafe { &raw mut (*maps::cgroup_cache(bank)).entries[index] }
}

/// The slot of a cgroup that has one, or gets one now, plus one. What finds no room is remembered as
/// well: a cgroup's sockets leave what they came into.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_or_register_cgroup(id: u64, bank: u32) -> i32 {
    let (slots, free) = if bank & 1 == 0 {
        (&CGROUPS_0, &FREE_CGROUPS_0)
    } else {
        (&CGROUPS_1, &FREE_CGROUPS_1)
    };
    // SAFETY: the map gave the pointer; an entry never changes.
    let known = || slots.get_ptr(id).map(|slot| unsafe { *slot });
    let slot = match known() {
        Some(slot) => slot,
        None => {
            let index = match free.pop() {
                Ok(Some(index)) => index,
                _ => OTHER_CGROUPS,
            };
            match slots.insert(id, index, BPF_NOEXIST) {
                Ok(()) => index,
                Err(errno) => {
                    if index != OTHER_CGROUPS {
                        let _: Result<(), i32> = free.push(index, 0);
                    }
                    // Another CPU was first, or there is no room.
                    known().unwrap_or_else(|| {
                        if errno != E2BIG {
                            cells::record_failure(Failure::Cgroups, errno);
                        }
                        OTHER_CGROUPS
                    })
                }
            }
        }
    };
    (slot + 1).cast_signed()
}

#[inline(always)]
fn gauges(slot: Slot, bank: u32) -> Option<Sharded<CgroupGauges>> {
    if slot == Slot::NONE {
        return None;
    }
    maps::cgroup_gauges(slot.0 - 1, bank)
}

/// Closed sockets are not counted: what their place holds is never read.
#[inline(always)]
fn add(is_first: u32, sharded: Sharded<CgroupGauges>, state: u32, by: i32) {
    let state = cells::opaque(state as usize);
    if state >= STATE_SLOTS {
        return;
    }
    let Sharded { gauges, shared } = sharded;
    // SAFETY: the map gave the pointer, the state is in range.
    unsafe {
        if is_first == 1 {
            cells::add_u32(&raw mut (*gauges).first[state], by.cast_unsigned(), shared);
        } else {
            cells::add_u32_atomic(&raw mut (*gauges).shared[state], by.cast_unsigned());
        }
    }
}
