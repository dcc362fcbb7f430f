//! A listing of the kernel's socket tables: what one pass over them counts in every namespace.
//!
//! A pass is many runs of a small program. All that lasts from one run to the next is in [`Cursor`].

use crate::{
    counters::{ListenerRecord, NetnsId, STATE_SLOTS},
    state::Family,
};

/// Numbers of states in a listing: those of the counters, and `NEW_SYN_RECV` of request sockets.
pub const LISTED_STATES: usize = 13;

/// Words of 8 bytes that the program reads of a table at once.
pub const BLOCK_WORDS: usize = 256;

/// What a pass does next.
pub mod phase {
    /// Find the tables.
    pub const START: u32 = 0;
    /// Go through the table of connections.
    pub const CONNECTIONS: u32 = 1;
    /// Go through the table of listeners.
    pub const LISTENERS: u32 = 2;
    /// Nothing: the pass is complete.
    pub const DONE: u32 = 3;
}

/// A hash table of the kernel. Each bucket holds a pointer to its first socket, or an odd number
/// where there is none.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Table {
    /// Address of the first bucket.
    pub base: u64,
    /// How many buckets there are.
    pub buckets: u64,
}

/// Position of a pass.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Cursor {
    /// Address of the `struct inet_hashinfo` that has the tables. User space leaves 0 for that of
    /// the namespace of the task that reads the iterator.
    pub hashinfo: u64,
    /// The table that the pass is in.
    pub table: Table,
    /// The next bucket to look at.
    pub bucket: u64,
    /// Address of the list node of the next socket; 0 for none.
    pub node: u64,
    /// Sockets met.
    pub sockets: u64,
    /// Sockets or buckets that could not be read, or not be counted.
    pub failed: u64,
    /// Sockets of cgroups for which there was no room.
    pub cgroups_left_out: u64,
    /// Number of the pass, never 0.
    pub pass: u32,
    /// One of [`phase`].
    pub phase: u32,
    /// 1 where the table of listeners is left out, which namespaces with a table of connections of
    /// their own share with all others. Written by user space.
    pub without_listeners: u32,
    /// 1 where the sockets of other namespaces than the tracker's own are counted by cgroup. Written by user
    /// space.
    pub by_cgroup: u32,
}

const _: () = assert!(size_of::<Cursor>() == 80);

/// A listener of any namespace, as a pass over the table of listeners writes it to its reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ListedListener {
    /// The network namespace.
    pub netns: NetnsId,
    /// Its inode number.
    pub inode: u32,
    /// Nothing.
    pub padding: u32,
    /// The listener.
    pub record: ListenerRecord,
}

const _: () = assert!(size_of::<ListedListener>() == 72);

/// What the program reads of a table at once; too large for its stack.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Block {
    /// Memory of the kernel.
    pub words: [u64; BLOCK_WORDS],
}

const _: () = assert!(size_of::<Block>() == 2048);

/// What a pass counted, `[family][state]`.
pub type ListedCounts = [[u32; LISTED_STATES]; Family::COUNT];

/// What passes counted in one namespace, by the address of its `struct net`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NetnsCounts {
    /// What identifies it.
    pub netns: NetnsId,
    /// Inode number.
    pub inode: u32,
    /// The last pass that met a socket of it.
    pub pass: u32,
    /// Sockets by family and state.
    pub counts: ListedCounts,
}

const _: () = assert!(size_of::<NetnsCounts>() == 120);

/// The key in the map of [`NetnsCounts`] of all namespaces for which it has no room.
pub const OTHER_NETS: u64 = 0;

/// How many ports a pass counts apart, at least.
pub const LISTED_PORTS_AT_ONCE: u32 = 1024;

/// A local port whose sockets a pass counts: user space enters those that it wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct ListedPort {
    /// The network namespace.
    pub netns: NetnsId,
    /// The port, in the order of bytes of the host.
    pub port: u64,
}

const _: () = assert!(size_of::<ListedPort>() == 16);

/// What a pass counted at one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ListedPortCounts {
    /// Sockets by family and state.
    pub counts: ListedCounts,
}

const _: () = assert!(size_of::<ListedPortCounts>() == 104);

/// How many cgroups a pass counts apart, at least.
pub const LISTED_CGROUPS_AT_ONCE: u32 = 8192;

/// A cgroup, in a network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct ListedCgroup {
    /// The network namespace.
    pub netns: NetnsId,
    /// Id of the cgroup.
    pub id: u64,
}

const _: () = assert!(size_of::<ListedCgroup>() == 16);

/// The full sockets that passes counted of one cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ListedCgroupCounts {
    /// The last pass that met one.
    pub pass: u32,
    /// Explicit padding.
    pub padding: u32,
    /// By state.
    pub counts: [u32; STATE_SLOTS],
}

const _: () = assert!(size_of::<ListedCgroupCounts>() == 56);
