//! Layout of what is counted, and of what the programs write for user space.

use crate::{ends::ConnectionEndCounts, state::Family};

/// Rows and columns of the flows: the kernel's state numbers 1 to 11, and
/// [`MINI_FIN_WAIT2`](crate::state::MINI_FIN_WAIT2).
pub const STATE_SLOTS: usize = 12;

/// One bank of counters, of one copy of the handler, on one CPU.
///
/// A gauge is the sum over copies and CPUs of `seeded`, plus what `flows` brought
/// in, minus what they took out.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Bank {
    /// State changes counted, `[family][from][to]`.
    pub flows: [[[u64; STATE_SLOTS]; STATE_SLOTS]; Family::COUNT],
    /// Sockets that the seeding counted, `[family][state]`, net of the moves it has seen.
    pub seeded: [[i64; STATE_SLOTS]; Family::COUNT],
}

const _: () = assert!(size_of::<Bank>() == 2496);

/// What identifies a network namespace for as long as the host runs: its cookie, and before Linux
/// 5.12 32 random bits beside the inode number. That number alone is given to the next namespace.
pub type NetnsId = u64;

/// Stands for the tracker's own namespace. No other one has it.
pub const OWN_NETNS: NetnsId = 0;

/// Stands for all namespaces together for which there is no room. No namespace has it: cookies are
/// given in order, and inode numbers are no such number.
pub const OVERFLOW_NETNS: NetnsId = NetnsId::MAX;

/// A namespace other than the tracker's own: one set of counters for all CPUs and writers, so that
/// very many namespaces need little memory; every addition is atomic.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Namespace {
    /// Address of its `struct net`.
    pub net: u64,
    /// Inode number, as `/proc/PID/ns/net` shows it.
    pub inode: u32,
    /// Explicit padding.
    pub padding: u32,
    /// State changes counted since the first one.
    pub events: u64,
    /// Its banks.
    pub banks: [Bank; 2],
}

const _: () = assert!(size_of::<Namespace>() == 5016);

impl Namespace {
    /// One that is not there.
    pub const EMPTY: Self = Self {
        net: 0,
        inode: 0,
        padding: 0,
        events: 0,
        banks: [Bank::ZERO; 2],
    };
}

/// How many namespaces one run of the look program covers.
pub const NAMESPACES_PER_CHECK: usize = 64;

/// The namespaces to look at; the first 0 ends the list. Written by user space.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NamespaceQuery {
    /// What identifies them.
    pub ids: [NetnsId; NAMESPACES_PER_CHECK],
    /// What was found of each, written by the program.
    pub found: [NamespaceRecord; NAMESPACES_PER_CHECK],
}

const _: () = assert!(size_of::<NamespaceQuery>() == 3072);

impl NamespaceQuery {
    /// No namespace.
    pub const EMPTY: Self = Self {
        ids: [0; NAMESPACES_PER_CHECK],
        found: [NamespaceRecord::NONE; NAMESPACES_PER_CHECK],
    };
}

/// What is known of a namespace that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NamespaceRecord {
    /// Address of its `struct net`; 0 if nothing is counted there.
    pub net: u64,
    /// State changes counted in it.
    pub events: u64,
    /// Address of the `struct inet_hashinfo` that has its sockets; 0 if unknown.
    pub hashinfo: u64,
    /// The kernel's own number of its timewait minisockets.
    pub timewait: u32,
    /// Inode number.
    pub inode: u32,
    /// 1 if it exists and is not being destroyed, else 0.
    pub alive: u32,
    /// Explicit padding.
    pub padding: u32,
}

const _: () = assert!(size_of::<NamespaceRecord>() == 40);

impl NamespaceRecord {
    /// Nothing is counted there.
    pub const NONE: Self = Self {
        net: 0,
        events: 0,
        hashinfo: 0,
        timewait: 0,
        inode: 0,
        alive: 0,
        padding: 0,
    };
}

/// The sockets of one local port, of one bank, in one shard. Gauges, not flows: all sums are modulo
/// 2^32, so that it does not matter on which CPU a socket opens and on which it closes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PortGauges {
    /// What the first copy of the handler counted, `[family][state]`: nearly everything.
    pub first: [[u32; STATE_SLOTS]; Family::COUNT],
    /// What all other writers did; every addition is atomic.
    pub shared: [[u32; STATE_SLOTS]; Family::COUNT],
    /// Connections that ended while the bank was live, by reason; every addition is atomic. An audit
    /// switches banks long before a counter is full.
    pub ends: ConnectionEndCounts,
}

const _: () = assert!(size_of::<PortGauges>() == 208);

/// What has a slot in one bank: a local port, or a cgroup, of a network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct SlotKey {
    /// The network namespace.
    pub netns: NetnsId,
    /// The port, in the order of bytes of the host; or the id of the cgroup.
    pub item: u64,
    /// 0 or 1.
    pub bank: u64,
}

const _: () = assert!(size_of::<SlotKey>() == 24);

/// Slots of the ports of the tracker's own namespace, of one bank: one load tells whether a port is
/// kept apart, since most sockets are of ports that are not.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PortPage {
    /// By port: its slot plus one; 0 if it is not entered.
    pub slots: [u16; 65_536],
}

const _: () = assert!(size_of::<PortPage>() == 131_072);

impl PortPage {
    /// No port is entered.
    pub const EMPTY: Self = Self { slots: [0; 65_536] };
}

/// The slot that all ports, or cgroups, of the tracker's own namespace share for which there is no slot
/// left.
pub const OTHER_SLOT: u32 = 0;

/// How many slots are free, and how many each namespace but the tracker's own has. Who takes a slot
/// enters that afterwards, who gives one back before: what is free is never below zero.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SlotShares {
    /// Slots that nothing has.
    pub free: u32,
    /// So many are left to the tracker's own namespace. Written before any program runs.
    pub reserved: u32,
    /// By bank: 1 where a cgroup of the tracker's own namespace found no slot. From then on, those that have
    /// none are counted together there.
    pub own_refused: [u32; 2],
    /// Slots that a namespace has, at [`SlotShares::index`].
    pub taken: [u32; SLOT_SHARES],
    /// By namespace in the same way: 1 where a cgroup found no slot. From then on, only user space gives
    /// slots, together with the sockets that there are.
    pub refused: [u32; SLOT_SHARES],
}

const _: () = assert!(size_of::<SlotShares>() == 8208);

/// A power of two: more namespaces than that share with each other.
pub const SLOT_SHARES: usize = 1024;

impl SlotShares {
    /// Where a namespace's slots are counted. Ids are given in order, or have an inode number below.
    #[expect(clippy::cast_possible_truncation, reason = "the lower bits")]
    #[inline(always)]
    #[must_use]
    pub const fn index(netns: NetnsId) -> usize {
        netns as usize & (SLOT_SHARES - 1)
    }

    /// Whether a namespace other than the tracker's own may take one more of the `free` slots, `reserved`
    /// ones among them, when it has `taken` already: three quarters of what all others leave, so that
    /// each time a quarter is left for those that come later.
    #[inline(always)]
    #[must_use]
    pub const fn may_take(taken: u32, free: u32, reserved: u32) -> bool {
        taken / 3 < free.saturating_sub(reserved)
    }
}

/// The full sockets of one cgroup, of one bank, in one shard. Gauges as [`PortGauges`], of both
/// families together.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CgroupGauges {
    /// What the first copy of the handler counted, by state.
    pub first: [u32; STATE_SLOTS],
    /// What all other writers did; every addition is atomic.
    pub shared: [u32; STATE_SLOTS],
}

const _: () = assert!(size_of::<CgroupGauges>() == 96);

/// Slots of the cgroups that were looked up last, of one bank: one load instead of a look-up in a
/// hash map. Entry `id % length` is `id << 16 | slot + 1`, or 0; ids of more than 48 bits have none.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CgroupCache {
    /// The entries.
    pub entries: [u64; CGROUP_CACHE_ENTRIES],
}

const _: () = assert!(size_of::<CgroupCache>() == 8192);

/// A power of two; ids of cgroups are given in order.
pub const CGROUP_CACHE_ENTRIES: usize = 1024;

impl CgroupCache {
    /// No cgroup was looked up.
    pub const EMPTY: Self = Self {
        entries: [0; CGROUP_CACHE_ENTRIES],
    };
}

/// The bank of all cgroups of namespaces other than the tracker's own: passes over the kernel's tables
/// correct their gauges in place, and no seeding but the first one counts there.
pub const CGROUP_BANK_OF_OTHERS: u32 = 0;

/// Id of the root of the cgroup2 hierarchy: the first inode of its file system.
pub const ROOT_CGROUP: u64 = 1;

impl Bank {
    /// An empty bank.
    pub const ZERO: Self = Self {
        flows: [[[0; STATE_SLOTS]; STATE_SLOTS]; Family::COUNT],
        seeded: [[0; STATE_SLOTS]; Family::COUNT],
    };
}

/// What may fail in the programs. Each failure voids the seeding in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An update of the map of seen sockets.
    Seen,
    /// An update of the map of other namespaces' counters.
    Namespaces,
    /// An update of the map of cgroups.
    Cgroups,
    /// A state number that does not exist, or kernel memory that cannot be read.
    Invalid,
}

/// Failures of one kind since the programs were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Failures {
    /// How many.
    pub count: u64,
    /// How many of them because the map was full.
    pub full: u64,
    /// The error number of the last one; 0 where there is none.
    pub errno: u64,
}

/// Failures since the programs were loaded, by [`Failure`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FailureTotals {
    /// Of the map of seen sockets.
    pub seen: Failures,
    /// Of the map of other namespaces' counters.
    pub namespaces: Failures,
    /// Of the map of cgroups.
    pub cgroups: Failures,
    /// Of what the kernel reported.
    pub invalid: Failures,
}

const _: () = assert!(size_of::<FailureTotals>() == 96);

impl Failures {
    /// None.
    pub const NONE: Self = Self {
        count: 0,
        full: 0,
        errno: 0,
    };

    /// Those that came after `earlier`.
    #[must_use]
    pub const fn minus(self, earlier: &Self) -> Self {
        Self {
            count: self.count - earlier.count,
            full: self.full - earlier.full,
            errno: self.errno,
        }
    }
}

impl FailureTotals {
    /// None.
    pub const NONE: Self = Self {
        seen: Failures::NONE,
        namespaces: Failures::NONE,
        cgroups: Failures::NONE,
        invalid: Failures::NONE,
    };

    /// Those that came after `earlier`.
    #[must_use]
    pub const fn minus(self, earlier: &Self) -> Self {
        Self {
            seen: self.seen.minus(&earlier.seen),
            namespaces: self.namespaces.minus(&earlier.namespaces),
            cgroups: self.cgroups.minus(&earlier.cgroups),
            invalid: self.invalid.minus(&earlier.invalid),
        }
    }
}

/// How many ages [`WalkTotals::idle`] tells apart: 0 to 62 seconds, and longer.
pub const AGES: usize = 64;

/// What a walk met that is no full socket.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WalkTotals {
    /// Timewait minisockets in substate TIME_WAIT, by family.
    pub timewait: [u64; Family::COUNT],
    /// Timewait minisockets in substate FIN_WAIT2, by family.
    pub finwait2: [u64; Family::COUNT],
    /// Full sockets that the walk was the first to see.
    pub sockets: u64,
    /// Full sockets in CLOSE_WAIT and in FIN_WAIT2, by the whole seconds since the peer's last
    /// segment.
    pub idle: [[u64; AGES]; 2],
    /// 1 if the walk is part of a seeding, which counts sockets, else 0. Written by user space.
    pub seeding: u64,
    /// Entries since the walk was interrupted last.
    pub uninterrupted: u64,
}

const _: () = assert!(size_of::<WalkTotals>() == 1080);

/// Row of CLOSE_WAIT in [`WalkTotals::idle`].
pub const IDLE_CLOSE_WAIT: usize = 0;
/// Row of FIN_WAIT2 in [`WalkTotals::idle`].
pub const IDLE_FIN_WAIT2: usize = 1;

/// One listener, as a walk writes it to its reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ListenerRecord {
    /// Local address: 16 bytes of IPv6, or 4 of IPv4 and then zeros.
    pub address: [u8; 16],
    /// `AF_INET` or `AF_INET6`.
    pub address_family: u8,
    /// 1 if it belongs to a group of listeners at one address, else 0.
    pub reuseport: u8,
    /// Local port, in the order of bytes of the host.
    pub port: u16,
    /// Owner.
    pub uid: u32,
    /// Connections that wait for `accept()`.
    pub accept_queue: u32,
    /// The limit that `listen()` set.
    pub accept_queue_limit: u32,
    /// Request sockets.
    pub requests: u32,
    /// Those of them whose SYN+ACK timer has expired.
    pub retransmitted: u32,
    /// Segments and handshakes that it dropped.
    pub drops: u32,
    /// Always 0.
    pub padding: u32,
    /// Id of its cgroup; 0 where cgroups are not counted.
    pub cgroup: u64,
}

const _: () = assert!(size_of::<ListenerRecord>() == 56);

/// What a listener walk is to find, and what it found.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ListenerWalk {
    /// Request sockets that wait at listeners, by the listener's family.
    pub requests: [u64; Family::COUNT],
    /// Listeners met.
    pub listeners: u64,
    /// Those of them that the seeding in progress had not seen before.
    pub unseen: u64,
    /// How many there should be: the walk ends there. Written by user space.
    pub expected: u64,
    /// 1 if a record of each listener is wanted, else 0. Written by user space.
    pub wanted: u64,
    /// 1 if the walk is part of a seeding, which enters ports and counts listeners, else 0. Written
    /// by user space.
    pub seeding: u64,
    /// The record of the last listener: what a program that ends the walk writes to its reader is
    /// thrown away by the kernel.
    pub last: ListenerRecord,
}

const _: () = assert!(size_of::<ListenerWalk>() == 112);

/// A closed listener whose request sockets are still listed. They hold a reference to it, so its
/// own count of them stays readable at its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ClosedListener {
    /// Address of its `struct net`: with that of its operations, identifies the memory as this socket's.
    pub net: u64,
    /// Address of its `struct proto`: of another protocol's socket, other memory would be read.
    pub operations: u64,
    /// Its network namespace.
    pub netns: NetnsId,
    /// Request sockets at the last read; 0 when there are none left.
    pub requests: u32,
    /// Its local port, in the order of bytes of the host.
    pub port: u16,
    /// Index of its family.
    pub family: u16,
}

const _: () = assert!(size_of::<ClosedListener>() == 32);

/// How many closed listeners one run of the read program covers.
pub const CLOSED_PER_READ: usize = 64;

/// The closed listeners to read, by address; the first 0 ends the list. Written by user space.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ClosedQuery {
    /// Addresses of sockets.
    pub socks: [u64; CLOSED_PER_READ],
}

const _: () = assert!(size_of::<ClosedQuery>() == 512);

/// How many closed listeners with request sockets there were since the programs were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ClosedTotals {
    /// Recorded.
    pub recorded: u64,
    /// Not recorded, because the map is full or busy.
    pub unrecorded: u64,
}

const _: () = assert!(size_of::<ClosedTotals>() == 16);

impl Default for WalkTotals {
    fn default() -> Self {
        Self {
            timewait: [0; Family::COUNT],
            finwait2: [0; Family::COUNT],
            sockets: 0,
            idle: [[0; AGES]; 2],
            seeding: 0,
            uninterrupted: 0,
        }
    }
}
