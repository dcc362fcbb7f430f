//! What each CPU counts for itself. User space reads the memory of these maps without a call of the
//! kernel, so that an answer costs little however many CPUs there may be.

use crate::{control::ContextSlot, counters::Bank, ends::EndCounts};

/// A processor fetches lines of cache in pairs: what one CPU writes must share none with another.
const CACHE_LINES: usize = 128;

/// Who writes a bank. Each writer has its own, since an interrupt may bring one
/// in while another is half-way through an addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Writer {
    /// The first copy of the event handler.
    First = 0,
    /// The second copy: counts what the first was skipped for.
    Second = 1,
    /// The walk that seeds.
    Walk = 2,
    /// What happens to timewait minisockets after their birth, always with bottom halves off.
    Timewait = 3,
}

impl Writer {
    /// How many writers there are.
    pub const COUNT: u32 = 4;
}

/// One bank of all writers but the first copy of the handler, which has its banks in [`PerCpu`], on
/// one CPU.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SecondaryBanks {
    /// Of the second copy of the handler.
    pub second: Bank,
    /// Of the walk.
    pub walk: Bank,
    /// Of what happens to minisockets.
    pub timewait: Bank,
}

const _: () = assert!(size_of::<SecondaryBanks>() == 7488);
const _: () = assert!((2 * size_of::<SecondaryBanks>()).is_multiple_of(CACHE_LINES));

impl SecondaryBanks {
    /// The index of what `cpu` has in `bank`.
    #[must_use]
    #[inline(always)]
    pub const fn index(cpu: u32, bank: u32) -> u32 {
        cpu * 2 + bank
    }
}

/// What a writer says of itself since it was loaded, on one CPU.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct WriterStats {
    /// State changes of sockets that were counted into a live bank.
    pub counted: u64,
    /// Changes of minisockets that were. Apart, because the program of their births may interrupt the one that
    /// counts the others.
    pub counted_minisockets: u64,
    /// Events that only this copy saw, of any protocol and namespace: what the kernel skipped the
    /// first copy for. 0 for all but the second.
    pub recovered: u64,
    /// Listeners whose port was not chosen yet when they were reported: until the next walk, their
    /// connections are in no port's counts.
    pub unregistered: u64,
}

const _: () = assert!(size_of::<WriterStats>() == 32);

/// What a CPU needs at each event, in one place: a look-up costs more than all that is done there.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
pub struct PerCpu {
    /// Tasks, and interrupts: what one copy of the handler leaves for the other.
    pub contexts: [ContextSlot; 2],
    /// The address of an event on its stack, as a number, by the copy that handles it.
    pub stack_addresses: [u64; 2],
    /// The address of the tracker's own namespace, in which it is for as long as it runs; 0 until
    /// an event has shown it to this CPU, which has counted nothing before.
    pub own_net: u64,
    /// Sockets of the tracker's own namespace that were closed.
    pub ends: EndCounts,
    /// By writer.
    pub writers: [WriterStats; Writer::COUNT as usize],
    /// The banks of the first copy of the handler.
    pub first: [Bank; 2],
}

const _: () = assert!(size_of::<PerCpu>() == 5376);
const _: () = assert!(align_of::<PerCpu>() == CACHE_LINES);

/// The shards that gauges by port and by cgroup are kept in: one for each CPU that may be online when
/// the tracker starts, and one that CPUs of higher numbers share. Machines may have many more of these
/// than ever come, and slots for each would take megabytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Shards {
    /// CPUs with a shard of their own: those of lower numbers.
    pub own: u32,
    /// Slots of ports in each shard.
    pub ports: u32,
    /// Slots of cgroups in each shard.
    pub cgroups: u32,
}

impl Shards {
    /// How many shards there are.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.own + 1
    }

    /// The index of what `slot` has in `bank`, in a shard of so many `slots`.
    #[must_use]
    #[inline(always)]
    pub const fn index(shard: u32, slots: u32, slot: u32, bank: u32) -> u32 {
        (shard * slots + slot) * 2 + bank
    }
}
