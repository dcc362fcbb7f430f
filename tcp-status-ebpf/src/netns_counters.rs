//! The counters of one network namespace, as one writer sees them: which cell, and how to add.

use tcp_status_common::counters::{
    Bank, Failure, NAMESPACES_PER_CHECK, Namespace, NetnsId, OWN_NETNS, PerCpu, Writer,
};

use crate::{
    cells::{self, CounterCell, EINVAL},
    kernel_layout::{self, Net, Sock, UntypedNet},
    maps::{self, EMPTY_NAMESPACE, NAMESPACE_QUERY, NAMESPACES, SECONDARY_BANKS},
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

    /// One more state change in the live `bank`.
    #[inline(always)]
    pub(crate) fn count_transition(
        self,
        bank: u32,
        from: CounterCell,
        to: CounterCell,
    ) -> Option<()> {
        let bank = self.bank(bank)?;
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
        let namespace = match NAMESPACES.get_ptr_mut(self.netns) {
            Some(namespace) => namespace,
            None => insert_namespace(self)?,
        };
        // SAFETY: the map gave the pointer.
        unsafe {
            Some(match bank {
                0 => &raw mut (*namespace).banks[0],
                _ => &raw mut (*namespace).banks[1],
            })
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
            let others = SECONDARY_BANKS.get_ptr_mut(bank)?;
            Some(match self.writer {
                Writer::Walk => &raw mut (*others).walk,
                Writer::Timewait => &raw mut (*others).timewait,
                _ => &raw mut (*others).second,
            })
        }
    }
}

/// A namespace that was not there yet: it begins without a socket.
#[inline(always)]
fn insert_namespace(counters: NetnsCounters) -> Option<*mut Namespace> {
    let empty = EMPTY_NAMESPACE.get(0)?;
    // Another CPU may have been first. Whether there was room shows when it is looked up.
    let inserted = NAMESPACES.insert(counters.netns, empty, BPF_NOEXIST);
    let Some(opened) = NAMESPACES.get_ptr_mut(counters.netns) else {
        cells::record_failure(Failure::Namespaces, inserted.err().unwrap_or(EINVAL));
        return None;
    };
    // SAFETY: the map gave the pointer; whoever writes it writes the same.
    unsafe {
        (*opened).net = counters.net.address();
        (*opened).inode = counters.net.inode();
    }
    Some(opened)
}

/// Looks which of the namespaces of the query are still there.
#[inline(always)]
pub(crate) fn check_namespaces() {
    let Some(query) = NAMESPACE_QUERY.get(0) else {
        return;
    };
    for i in 0..NAMESPACES_PER_CHECK {
        let id = query.ids[i];
        if id == 0 {
            return;
        }
        if let Some(namespace) = NAMESPACES.get_ptr_mut(id) {
            // SAFETY: the map gave the pointer; one look at a time.
            let namespace = unsafe { &mut *namespace };
            namespace.alive = UntypedNet(namespace.net)
                .is_live(id)
                .unwrap_or(false)
                .into();
        }
    }
}
