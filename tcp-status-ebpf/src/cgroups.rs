//! Full sockets by cgroup. The cgroup of a socket is constant: that of whoever created it, or its listener.
//!
//! A cgroup gets a slot with its first socket in a namespace. What works with numbers alone is in global
//! functions, which the verifier checks once.

use tcp_status_common::{
    counters::{
        CGROUP_BANK_OF_OTHERS, CGROUP_CACHE_ENTRIES, CgroupGauges, Failure, NetnsId, OWN_NETNS,
        STATE_SLOTS, SlotKey,
    },
    per_cpu::Writer,
};

use crate::{
    cells::{self, CounterCell},
    kernel_layout::{self, Sock},
    maps::{self, CGROUP_SHARES, CGROUPS, FREE_CGROUPS, NAMESPACES, Sharded},
    netns_counters::NetnsCounters,
    slots::{Pool, Slot},
};

#[inline(always)]
fn pool() -> Pool {
    Pool {
        slots: &CGROUPS,
        free: &FREE_CGROUPS,
        shares: &CGROUP_SHARES,
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
    if !kernel_layout::counts_cgroups() {
        return;
    }
    match sock.cgroup() {
        Ok(id) => {
            let change = Change {
                bank: bank & 1,
                is_first: counters.writer == Writer::First,
                from: from.number(),
                to: to.number(),
            };
            let _: i32 = count_cgroup(counters.netns, id, change.pack());
        }
        Err(errno) => cells::record_failure(Failure::Invalid, errno),
    }
}

/// The slot of a full socket in the `bank` that is being seeded. Its first socket gives a cgroup one.
#[inline(always)]
pub(crate) fn slot(
    counters: NetnsCounters,
    bank: u32,
    cgroup: impl FnOnce() -> Result<u64, i32>,
) -> Slot {
    if !kernel_layout::counts_cgroups() {
        return Slot::NONE;
    }
    // A cgroup gets a slot in a namespace that has counters.
    counters.open();
    match cgroup() {
        Ok(id) => {
            let slot = cgroup_slot(counters.netns, id, bank_of(counters, bank));
            Slot::from_number(slot.cast_unsigned())
        }
        Err(errno) => {
            cells::record_failure(Failure::Invalid, errno);
            Slot::NONE
        }
    }
}

#[inline(always)]
fn bank_of(counters: NetnsCounters, bank: u32) -> u32 {
    if counters.is_own() {
        bank & 1
    } else {
        CGROUP_BANK_OF_OTHERS
    }
}

/// One socket more (`by` 1) or less (-1) in the `bank` that is being seeded.
#[inline(always)]
pub(crate) fn adjust(counters: NetnsCounters, slot: Slot, bank: u32, cell: CounterCell, by: i32) {
    if kernel_layout::counts_cgroups() && slot != Slot::NONE {
        let is_first = u32::from(counters.writer == Writer::First);
        let bank = bank_of(counters, bank);
        let _: i32 = adjust_cgroup(slot.number(), bank, is_first, cell.number(), by);
    }
}

/// A transition, as an argument of a global function.
struct Change {
    bank: u32,
    is_first: bool,
    from: u32,
    to: u32,
}

impl Change {
    #[inline(always)]
    fn pack(self) -> u32 {
        self.bank | u32::from(self.is_first) << 1 | self.from << 8 | self.to << 16
    }

    #[inline(always)]
    fn unpack(packed: u32) -> Self {
        Self {
            bank: packed & 1,
            is_first: packed & 2 != 0,
            from: packed >> 8 & 0xff,
            to: packed >> 16,
        }
    }
}

/// Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_cgroup(netns: NetnsId, id: u64, change: u32) -> i32 {
    let change = Change::unpack(change);
    let (slot, bank) = if netns == OWN_NETNS {
        (find_own(id, change.bank, false), change.bank)
    } else {
        let slot = find_or_register_cgroup(netns, id, CGROUP_BANK_OF_OTHERS, 0);
        (
            Slot::from_number(slot.cast_unsigned()),
            CGROUP_BANK_OF_OTHERS,
        )
    };
    let Some(gauges) = gauges(slot, bank) else {
        return 0;
    };
    let is_first = u32::from(change.is_first);
    // The child of a listener is born; the listener stays.
    if !(change.from == cells::LISTEN && change.to == cells::SYN_RECV) {
        add(is_first, gauges, change.from, -1);
    }
    add(is_first, gauges, change.to, 1);
    0
}

/// Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn adjust_cgroup(slot: u32, bank: u32, is_first: u32, state: u32, by: i32) -> i32 {
    if let Some(gauges) = gauges(Slot::from_number(slot), bank) {
        add(is_first, gauges, state, by);
    }
    0
}

/// The slot of a cgroup in the bank that is being seeded, plus one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cgroup_slot(netns: NetnsId, id: u64, bank: u32) -> i32 {
    if netns == OWN_NETNS {
        find_own(id, bank, true).number().cast_signed()
    } else {
        find_or_register_cgroup(netns, id, bank, 1)
    }
}

#[inline(always)]
fn find_own(id: u64, bank: u32, seeding: bool) -> Slot {
    let entry = cache_entry(id, bank);
    // SAFETY: a static of these programs.
    let cached = unsafe { entry.read_volatile() };
    if cached >> 16 == id {
        return Slot::from_number((cached & 0xffff) as u32);
    }
    let slot = find_or_register_cgroup(OWN_NETNS, id, bank, seeding.into()).cast_unsigned();
    if id >> 48 == 0 {
        // SAFETY: as above. One store: whoever interrupts this sees all or nothing of it.
        unsafe { entry.write_volatile(id << 16 | u64::from(slot & 0xffff)) };
    }
    Slot::from_number(slot)
}

#[expect(clippy::cast_possible_truncation, reason = "the target has 64 bits")]
#[inline(always)]
fn cache_entry(id: u64, bank: u32) -> *mut u64 {
    let index = id as usize & (CGROUP_CACHE_ENTRIES - 1);
    // SAFETY: a static of these programs; the index is in range.
    unsafe { &raw mut (*maps::cgroup_cache(bank)).entries[index] }
}

/// The slot of a cgroup that has one, or gets one now, plus one.
///
/// What finds no room keeps to it, for a cgroup's sockets leave what they came into: in the tracker's own
/// namespace until the bank is emptied, elsewhere until user space gives it a slot.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_or_register_cgroup(netns: NetnsId, id: u64, bank: u32, seeding: u32) -> i32 {
    let bank = bank & 1;
    let key = |bank: u32| SlotKey {
        netns,
        item: id,
        bank: bank.into(),
    };
    let pool = pool();
    if let Some(slot) = pool.find(key(bank)) {
        return slot.number().cast_signed();
    }
    let own = netns == OWN_NETNS;
    let without = if own { Slot::OTHER } else { Slot::NONE };
    // Elsewhere, passes over the kernel's tables audit what is counted.
    let counts = || kernel_layout::lists_tables() && NAMESPACES.get_ptr(netns).is_some();
    if pool.has_refused(netns, bank) || !(own || counts()) {
        return without.number().cast_signed();
    }
    // The bank that is being seeded follows the live one.
    let elsewhere = match own && seeding == 1 {
        true => pool.find(key(bank ^ 1)).unwrap_or(Slot::NONE),
        false => Slot::NONE,
    };
    let taken = pool.take(key(bank), elsewhere);
    if let Err(errno) = taken
        && own
    {
        cells::record_failure(Failure::Cgroups, errno);
    }
    let slot = taken.ok().flatten().unwrap_or_else(|| {
        pool.refuse(netns, bank);
        // Another CPU may have been first.
        pool.find(key(bank)).unwrap_or(without)
    });
    slot.number().cast_signed()
}

#[inline(always)]
fn gauges(slot: Slot, bank: u32) -> Option<Sharded<CgroupGauges>> {
    maps::cgroup_gauges(slot.index()?, bank)
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
