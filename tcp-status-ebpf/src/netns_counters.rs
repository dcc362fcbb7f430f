//! The counters of one network namespace, as one writer sees them: which cell, and how to add.

use core::{hint::black_box, ptr::read_volatile};

use tcp_status_common::{
    control::Mode,
    counters::{
        Bank, Failure, NAMESPACES_PER_CHECK, Namespace, NetnsId, OVERFLOW_NETNS, OWN_NETNS,
    },
    per_cpu::{PerCpu, Writer},
};

use crate::{
    cells::{self, CounterCell, E2BIG, EINVAL},
    kernel_layout::{self, Net, Sock, UntypedNet},
    maps::{self, EMPTY_NAMESPACE, NAMESPACE_QUERY, NAMESPACES},
};

/// `BPF_ANY`: an update that creates or replaces an entry.
pub(crate) const BPF_ANY: u64 = 0;

/// `BPF_NOEXIST`: an update that fails where there is an entry already.
pub(crate) const BPF_NOEXIST: u64 = 1;

/// Where one writer counts what happens in one namespace.
#[derive(Clone, Copy)]
pub(crate) struct NetnsCounters {
    pub(crate) netns: NetnsId,
    net: Net,
    pub(crate) writer: Writer,
    pub(crate) cpu: *mut PerCpu,
    /// Not the tracker's own namespace: cells are shared by all CPUs and writers.
    shared: bool,
}

impl NetnsCounters {
    /// None for a namespace that is not counted.
    #[inline(always)]
    pub(crate) fn of(sock: Sock, cpu: *mut PerCpu, writer: Writer) -> Option<Self> {
        let net = sock.net();
        let mut counters = Self {
            netns: OWN_NETNS,
            net,
            writer,
            cpu,
            shared: false,
        };
        // SAFETY: the map gave the pointer; whoever writes it writes the same.
        let known = unsafe { &mut (*cpu).own_net };
        if net.address() != *known {
            counters.shared = net.inode() != maps::own_inode();
            if counters.shared {
                if !kernel_layout::all_namespaces() {
                    return None;
                }
                counters.netns = net.id();
                return Some(counters);
            }
            *known = net.address();
        }
        Some(counters)
    }

    /// Whether it is the tracker's own namespace.
    #[inline(always)]
    pub(crate) fn is_own(self) -> bool {
        !self.shared
    }

    /// What is to be done with its events.
    #[inline(always)]
    pub(crate) fn mode(self, mode: Mode) -> Mode {
        if self.shared { mode.of_others() } else { mode }
    }

    /// One more state change in the live `bank`.
    #[inline(always)]
    pub(crate) fn count_transition(
        self,
        bank: u32,
        from: CounterCell,
        to: CounterCell,
    ) -> Option<()> {
        let bank = if self.shared {
            let namespace = self.namespace()?;
            // SAFETY: the map gave the pointer.
            cells::add_atomic(unsafe { &raw mut (*namespace).events }, 1);
            banks(namespace, bank)
        } else {
            self.per_cpu_bank(bank)?
        };
        let (from, to) = (from.recheck_bounds()?, to.recheck_bounds()?);
        // SAFETY: the map gave the pointer, a place is in range.
        self.add(
            unsafe { &raw mut (*bank).flows[from.family()][from.state()][to.state()] },
            1,
        );
        Some(())
    }

    /// One socket more (`by` 1) or less (-1) in the `bank` that is being seeded.
    #[inline(always)]
    pub(crate) fn count_seeded(self, bank: u32, cell: CounterCell, by: i64) -> Option<()> {
        let bank = self.bank(bank)?;
        let cell = cell.recheck_bounds()?;
        // SAFETY: as above. Adding the two's complement subtracts.
        let cell = unsafe { &raw mut (*bank).seeded[cell.family()][cell.state()] };
        self.add(cell.cast(), by.cast_unsigned());
        Some(())
    }

    #[inline(always)]
    fn add(self, cell: *mut u64, by: u64) {
        if self.shared {
            cells::add_atomic(cell, by);
        } else {
            cells::add(self.writer, cell, by);
        }
    }

    #[inline(always)]
    fn bank(self, bank: u32) -> Option<*mut Bank> {
        if !self.shared {
            return self.per_cpu_bank(bank);
        }
        Some(banks(self.namespace()?, bank))
    }

    /// Gives another namespace counters, if it has none and there is room.
    #[inline(always)]
    pub(crate) fn open(self) {
        if self.shared {
            self.namespace();
        }
    }

    /// The counters of another namespace.
    #[inline(always)]
    fn namespace(self) -> Option<*mut Namespace> {
        if let Some(namespace) = NAMESPACES.get_ptr_mut(self.netns) {
            return Some(namespace);
        }
        if open_namespace(self.netns) != OPEN {
            return NAMESPACES.get_ptr_mut(OVERFLOW_NETNS);
        }
        let opened = NAMESPACES.get_ptr_mut(self.netns)?;
        // SAFETY: the map gave the pointer; whoever writes it writes the same.
        unsafe {
            (*opened).net = self.net.address();
            (*opened).inode = self.net.inode();
        }
        Some(opened)
    }
}

#[inline(always)]
fn banks(namespace: *mut Namespace, bank: u32) -> *mut Bank {
    // SAFETY: the map gave the pointer.
    unsafe {
        match bank {
            0 => &raw mut (*namespace).banks[0],
            _ => &raw mut (*namespace).banks[1],
        }
    }
}

impl NetnsCounters {
    /// The writer's own.
    #[inline(always)]
    fn per_cpu_bank(self, bank: u32) -> Option<*mut Bank> {
        // SAFETY: the maps gave the pointers.
        unsafe {
            if self.writer == Writer::First {
                return Some(match bank {
                    0 => &raw mut (*self.cpu).first[0],
                    _ => &raw mut (*self.cpu).first[1],
                });
            }
            let others = maps::secondary_banks(bank)?;
            Some(match self.writer {
                Writer::Walk => &raw mut (*others).walk,
                Writer::Timewait => &raw mut (*others).timewait,
                _ => &raw mut (*others).second,
            })
        }
    }
}

/// The namespace has counters.
const OPEN: i32 = 0;
/// There is no room: it is counted together with others.
const OVERFLOW: i32 = 1;

/// A namespace that was not there yet: it begins without a socket. A function that the verifier
/// checks once, however often it is called.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn open_namespace(netns: NetnsId) -> i32 {
    let Some(empty) = EMPTY_NAMESPACE.get(0) else {
        return OVERFLOW;
    };
    // Another CPU may have been first. Whether there was room shows when it is looked up.
    let inserted = NAMESPACES.insert(netns, empty, BPF_NOEXIST);
    if NAMESPACES.get_ptr(netns).is_some() {
        return OPEN;
    }
    let errno = inserted.err().unwrap_or(EINVAL);
    if errno != E2BIG {
        cells::record_failure(Failure::Namespaces, errno);
    }
    OVERFLOW
}

/// Looks which of the namespaces of the query are still there.
#[inline(always)]
pub(crate) fn check_namespaces() {
    for i in 0..NAMESPACES_PER_CHECK {
        if check_namespace(i) != 0 {
            return;
        }
    }
}

/// The same of one of them; not 0 where the query ends. A function that the verifier checks once,
/// however often it is called.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn check_namespace(i: usize) -> i32 {
    let Some(query) = NAMESPACE_QUERY.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the map gave the pointer; one look at a time.
    let query = unsafe { &mut *query };
    // Masked, as a port is: the verifier knows no bounds of an argument.
    let i = black_box(i) & (NAMESPACES_PER_CHECK - 1);
    let (id, found) = (query.ids[i], &mut query.found[i]);
    if id == 0 {
        return 1;
    }
    if let Some(namespace) = NAMESPACES.get_ptr(id) {
        // SAFETY: the map gave the pointer; programs write it at any time.
        let (net, inode, events) = unsafe {
            (
                read_volatile(&raw const (*namespace).net),
                read_volatile(&raw const (*namespace).inode),
                read_volatile(&raw const (*namespace).events),
            )
        };
        let net = UntypedNet(net);
        found.net = net.0;
        found.inode = inode;
        found.events = events;
        let mut is_live = net.is_live(id).unwrap_or(false);
        if kernel_layout::lists_tables() {
            found.hashinfo = net.hashinfo().unwrap_or(0);
            let timewait = net.timewait().unwrap_or(0);
            // Else it was read of what has the memory now.
            is_live &= net.is_live(id).unwrap_or(false);
            found.timewait = if is_live { timewait } else { 0 };
        }
        found.alive = is_live.into();
    }
    0
}
