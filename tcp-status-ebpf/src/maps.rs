//! All maps of the object.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, Queue},
    macros::btf_map,
};
use tcp_status_common::{
    control::{Control, Counted, Mode, TASK_SLOTS},
    counters::{
        BANKS, Bank, Listeners, NamespaceKey, PortGauges, PortKey, PortPage, Walked, Writer,
        WriterStats,
    },
};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// Address of a socket to the slot of its port (upper 16 bits) and its place (lower 16 bits).
pub(crate) type Seen = HashMap<u64, u32, 1>;

#[btf_map]
pub(crate) static CONTROL: Array<Control, 1> = Array::new();

#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<Bank, { BANKS as usize }> = PerCpuArray::new();

/// Banks of namespaces other than the tracker's own. The loader says how many.
#[btf_map]
pub(crate) static NAMESPACES: HashMap<NamespaceKey, Bank, 1, ON_DEMAND> = HashMap::new();

/// What a bank begins with; too large for a program's stack.
#[btf_map]
pub(crate) static EMPTY_BANK: Array<Bank, 1> = Array::new();

/// Slots of the ports that have, or had, a listener. In each bank, any port may be entered.
#[btf_map]
pub(crate) static PORTS: HashMap<PortKey, u32, { 2 * 65_536 }, ON_DEMAND> = HashMap::new();

/// The same for the tracker's own namespace, by bank.
#[btf_map]
pub(crate) static PORT_PAGES: Array<PortPage, 2> = Array::new();

/// Two banks for each slot. The loader says how many slots there are.
#[btf_map]
pub(crate) static PORT_GAUGES: PerCpuArray<PortGauges, 2> = PerCpuArray::new();

/// Slots that no port of bank 0 has. The loader says how many there are.
#[btf_map]
pub(crate) static FREE_PORTS_0: Queue<u32, 1> = Queue::new();

/// The same of bank 1.
#[btf_map]
pub(crate) static FREE_PORTS_1: Queue<u32, 1> = Queue::new();

#[btf_map]
pub(crate) static WRITERS: PerCpuArray<WriterStats, { Writer::COUNT as usize }> =
    PerCpuArray::new();

/// Events on the stack of a task. Global, since a task may be moved to another CPU
/// between the two copies.
#[btf_map]
pub(crate) static TASK_COUNTED: Array<Counted, { TASK_SLOTS as usize }> = Array::new();

/// Events on an interrupt stack.
#[btf_map]
pub(crate) static IRQ_COUNTED: PerCpuArray<Counted, 1> = PerCpuArray::new();

/// The sockets that the seeding in progress has counted. The inner map is made for each
/// seeding by the loader and dropped after it.
#[btf_map]
pub(crate) static SEEN: ArrayOfMaps<Seen, 1> = ArrayOfMaps::new();

/// Substate of the timewait minisocket that this CPU is processing a segment for.
#[btf_map]
pub(crate) static SUBSTATE: PerCpuArray<u32, 1> = PerCpuArray::new();

#[btf_map]
pub(crate) static WALKED: PerCpuArray<Walked, 1> = PerCpuArray::new();

#[btf_map]
pub(crate) static LISTENERS: Array<Listeners, 1> = Array::new();

/// What user space wants, and the mode, read once: an event belongs to the mode that it sees
/// here, whatever follows. Nothing while nothing is counted.
#[inline(always)]
pub(crate) fn control() -> Option<(&'static Control, Mode)> {
    let control = CONTROL.get(0)?;
    // SAFETY: a member of a map's value, which user space may write at any time.
    let mode = unsafe { core::ptr::read_volatile(&raw const control.mode) };
    (mode != Mode::OFF).then_some((control, mode))
}
