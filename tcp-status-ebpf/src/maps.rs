//! All maps of the object.

use core::ptr::read_volatile;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_RB_FORCE_WAKEUP},
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, Queue, RingBuf},
    helpers::bpf_get_smp_processor_id,
    macros::btf_map,
};
use tcp_status_common::{
    accept::AcceptTimes,
    control::{Control, EventToken, Mode, Segment, TASK_SLOTS},
    counters::{
        CgroupCache, CgroupGauges, ClosedListener, ClosedQuery, ClosedTotals, FailureTotals,
        ListenerWalk, Namespace, NamespaceQuery, NetnsId, PortGauges, PortPage, SlotKey,
        SlotShares, WalkTotals,
    },
    no_local_port::{DESTINATIONS, Destination, NoLocalPort},
    per_cpu::{PerCpu, SecondaryBanks, Shards},
    table::{
        Block, Cursor, LISTED_PORTS_AT_ONCE, ListedCgroup, ListedCgroupCounts, ListedListener,
        ListedPort, ListedPortCounts, NetnsCounts,
    },
};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// Address of a socket to the slot of its cgroup (from bit 32 on), that of its port (16 bits) and
/// its place (lower 16 bits).
pub(crate) type Seen = HashMap<u64, u64, 1>;

/// What has a slot, and its number. An entry never changes: what something was counted in once, its sockets
/// leave as well.
pub(crate) type Slots = HashMap<SlotKey, u32, { 2 * 65_536 }, NO_PREALLOC>;

/// Slots that nothing has in any bank. The loader says how many there are.
pub(crate) type FreeSlots = Queue<u32, 1>;

/// How many these are, and who has the others.
pub(crate) type Shares = Array<SlotShares, 1, MMAPABLE>;

/// Written by the loader before load; read-only and constant to the verifier afterwards.
#[unsafe(no_mangle)]
static SHARDS: Shards = Shards {
    own: 0,
    ports: 1,
    cgroups: 1,
};

/// Global data: no look-up at each event.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.control")]
static mut CONTROL: Control = Control::OFF;

/// Two banks for each CPU. The loader says how many CPUs there may be.
#[btf_map]
static SECONDARY_BANKS: Array<SecondaryBanks, 2, MMAPABLE> = Array::new();

/// Namespaces other than the tracker's own. The loader says how many.
#[btf_map]
pub(crate) static NAMESPACES: HashMap<NetnsId, Namespace, 1, NO_PREALLOC> = HashMap::new();

/// What a namespace begins with; too large for a program's stack.
#[btf_map]
pub(crate) static EMPTY_NAMESPACE: Array<Namespace, 1> = Array::new();

/// Which of them to look at.
#[btf_map]
pub(crate) static NAMESPACE_QUERY: Array<NamespaceQuery, 1> = Array::new();

/// Slots of the ports that have, or had, a listener. In each bank, any port may be entered.
#[btf_map]
pub(crate) static PORTS: Slots = Slots::new();

/// The same for the tracker's own namespace, of bank 0.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.ports.0")]
static mut PORT_PAGE_0: PortPage = PortPage::EMPTY;

/// The same of bank 1.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.ports.1")]
static mut PORT_PAGE_1: PortPage = PortPage::EMPTY;

/// Two banks for each slot, in [`SHARDS`]. The loader says how many.
#[btf_map]
static PORT_GAUGES: Array<PortGauges, 2, MMAPABLE> = Array::new();

#[btf_map]
pub(crate) static FREE_PORTS: FreeSlots = FreeSlots::new();

#[btf_map]
pub(crate) static PORT_SHARES: Shares = Shares::new();

/// Slots of the cgroups that have, or had, a socket. The loader says how many cgroups there may be.
#[btf_map]
pub(crate) static CGROUPS: Slots = Slots::new();

/// Those of the tracker's own namespace in bank 0 that were looked up last.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.cgroups.0")]
static mut CGROUP_CACHE_0: CgroupCache = CgroupCache::EMPTY;

/// The same of bank 1.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.cgroups.1")]
static mut CGROUP_CACHE_1: CgroupCache = CgroupCache::EMPTY;

/// Two banks for each slot, in [`SHARDS`]. The loader says how many.
#[btf_map]
static CGROUP_GAUGES: Array<CgroupGauges, 2, MMAPABLE> = Array::new();

#[btf_map]
pub(crate) static FREE_CGROUPS: FreeSlots = FreeSlots::new();

#[btf_map]
pub(crate) static CGROUP_SHARES: Shares = Shares::new();

/// One for each CPU. The loader says how many there may be.
#[btf_map]
static PER_CPU: Array<PerCpu, 1, MMAPABLE> = Array::new();

/// Marks of events on the stack of a task that may be moved to another CPU between the two copies.
#[btf_map]
pub(crate) static TASK_TOKENS: Array<EventToken, { TASK_SLOTS as usize }> = Array::new();

/// The sockets that the seeding in progress has counted. The inner map is made for each
/// seeding by the loader and dropped after it.
#[btf_map]
pub(crate) static SEEN: ArrayOfMaps<Seen, 1> = ArrayOfMaps::new();

/// The timewait minisocket that this CPU is processing a segment for.
#[btf_map]
pub(crate) static SEGMENTS: PerCpuArray<Segment, 1> = PerCpuArray::new();

/// The same of a task, where another one may process a segment on its CPU meanwhile.
#[btf_map]
pub(crate) static TASK_SEGMENTS: Array<Segment, { TASK_SLOTS as usize }> = Array::new();

/// Wakes the sampler, which sleeps while nothing happens.
#[btf_map]
static WAKE: RingBuf<u8, 4096> = RingBuf::new();

#[btf_map]
pub(crate) static WALK_TOTALS: Array<WalkTotals, 1> = Array::new();

#[btf_map]
pub(crate) static LISTENER_WALK: Array<ListenerWalk, 1> = Array::new();

/// Closed listeners that have request sockets, by address.
#[btf_map]
pub(crate) static CLOSED_LISTENERS: HashMap<u64, ClosedListener, 4096, NO_PREALLOC> =
    HashMap::new();

/// Which of them to read.
#[btf_map]
pub(crate) static CLOSED_QUERY: Array<ClosedQuery, 1> = Array::new();

/// Where a pass over the kernel's socket tables is, and where it was before the program ran.
#[btf_map]
pub(crate) static CURSOR: Array<Cursor, 2> = Array::new();

/// What it reads of a table at once.
#[btf_map]
pub(crate) static TABLE_BLOCK: Array<Block, 1> = Array::new();

/// What passes counted, by the address of the namespace. The loader says how many.
#[btf_map]
pub(crate) static LISTED: HashMap<u64, NetnsCounts, 1, NO_PREALLOC> = HashMap::new();

/// Ports whose sockets a pass counts.
#[btf_map]
pub(crate) static LISTED_PORTS: HashMap<
    ListedPort,
    ListedPortCounts,
    { LISTED_PORTS_AT_ONCE as usize },
    NO_PREALLOC,
> = HashMap::new();

/// Full sockets by cgroup that passes counted. The loader says how many cgroups.
#[btf_map]
pub(crate) static LISTED_CGROUPS: HashMap<ListedCgroup, ListedCgroupCounts, 1, NO_PREALLOC> =
    HashMap::new();

/// Accepted connections by local port. The loader says how many ports there may be.
#[btf_map]
pub(crate) static ACCEPT_TIMES: HashMap<u32, AcceptTimes, 1, NO_PREALLOC> = HashMap::new();

/// `connect()` that failed for want of a local port, by destination.
#[btf_map]
pub(crate) static NO_LOCAL_PORT: HashMap<
    Destination,
    NoLocalPort,
    { DESTINATIONS as usize },
    NO_PREALLOC,
> = HashMap::new();

/// The listener that a pass met last.
#[btf_map]
pub(crate) static LISTED_LISTENER: Array<ListedListener, 1> = Array::new();

/// How many there were.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.closed")]
static mut CLOSED_TOTALS: ClosedTotals = ClosedTotals {
    recorded: 0,
    unrecorded: 0,
};

/// What failed.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.failures")]
static mut FAILURES: FailureTotals = FailureTotals::NONE;

#[inline(always)]
pub(crate) fn failures() -> *mut FailureTotals {
    &raw mut FAILURES
}

#[inline(always)]
pub(crate) fn closed_totals() -> *mut ClosedTotals {
    &raw mut CLOSED_TOTALS
}

/// What user space wants, read once: an event belongs to the mode that it sees here, whatever
/// follows. Nothing while nothing is counted.
#[inline(always)]
pub(crate) fn mode() -> Option<Mode> {
    // SAFETY: user space may write it at any time.
    let mode = unsafe { read_volatile(&raw const CONTROL.mode) };
    (mode != Mode::OFF).then_some(mode)
}

/// Inode number of the tracker's own namespace.
#[inline(always)]
pub(crate) fn own_inode() -> u32 {
    // SAFETY: as above.
    unsafe { read_volatile(&raw const CONTROL.netns) }
}

/// The slots of the ports of the tracker's own namespace in `bank`.
#[inline(always)]
pub(crate) fn port_page(bank: u32) -> *mut PortPage {
    if bank & 1 == 0 {
        &raw mut PORT_PAGE_0
    } else {
        &raw mut PORT_PAGE_1
    }
}

/// The slots of cgroups that were looked up last in `bank`.
#[inline(always)]
pub(crate) fn cgroup_cache(bank: u32) -> *mut CgroupCache {
    if bank & 1 == 0 {
        &raw mut CGROUP_CACHE_0
    } else {
        &raw mut CGROUP_CACHE_1
    }
}

/// What this CPU keeps for itself.
#[inline(always)]
pub(crate) fn per_cpu() -> Option<*mut PerCpu> {
    PER_CPU.get_ptr_mut(cpu())
}

/// What this CPU has in `bank` (0 or 1) of all writers but the first copy of the handler.
#[inline(always)]
pub(crate) fn secondary_banks(bank: u32) -> Option<*mut SecondaryBanks> {
    SECONDARY_BANKS.get_ptr_mut(SecondaryBanks::index(cpu(), bank))
}

/// Gauges that this CPU counts in.
#[derive(Clone, Copy)]
pub(crate) struct Sharded<T> {
    pub(crate) gauges: *mut T,
    /// Other CPUs count there as well.
    pub(crate) shared: bool,
}

/// What this CPU has of a port's slot in `bank`.
#[inline(always)]
pub(crate) fn port_gauges(slot: u32, bank: u32) -> Option<Sharded<PortGauges>> {
    let (shard, shared) = shard();
    // SAFETY: a static of this program.
    let slots = unsafe { read_volatile(&raw const SHARDS.ports) };
    let gauges = PORT_GAUGES.get_ptr_mut(Shards::index(shard, slots, slot, bank & 1))?;
    Some(Sharded { gauges, shared })
}

/// The same of a cgroup's slot.
#[inline(always)]
pub(crate) fn cgroup_gauges(slot: u32, bank: u32) -> Option<Sharded<CgroupGauges>> {
    let (shard, shared) = shard();
    // SAFETY: as above.
    let slots = unsafe { read_volatile(&raw const SHARDS.cgroups) };
    let gauges = CGROUP_GAUGES.get_ptr_mut(Shards::index(shard, slots, slot, bank & 1))?;
    Some(Sharded { gauges, shared })
}

/// The shard of this CPU, and whether others have it as well.
#[inline(always)]
fn shard() -> (u32, bool) {
    // SAFETY: as above.
    let (cpu, own) = (cpu(), unsafe { read_volatile(&raw const SHARDS.own) });
    if cpu < own { (cpu, false) } else { (own, true) }
}

/// Programs stay on their CPU.
#[inline(always)]
fn cpu() -> u32 {
    // SAFETY: no argument, no effect.
    unsafe { bpf_get_smp_processor_id() }
}

/// Something happens. That there is no room says that user space knows.
#[inline(never)]
pub(crate) fn wake() {
    let _: Result<(), i32> = WAKE.output(1, BPF_RB_FORCE_WAKEUP.into());
}
