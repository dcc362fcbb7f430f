//! The counters of one network namespace, as one writer sees them: which cell, and how to add.

use tcp_status_common::counters::{
    Bank, Cpu, Failure, NAMESPACES_PER_LOOK, Namespace, NetnsId, OWN_NETNS, Writer,
};

use crate::{
    count::{self, INVALID, Place},
    host::{self, Net, Sock, UntypedNet},
    maps::{self, COUNTERS, EMPTY_NAMESPACE, NAMESPACE_QUERY, NAMESPACES},
};

/// `BPF_ANY`: an update that creates or replaces an entry.
pub(crate) const ANY: u64 = 0;

/// `BPF_NOEXIST`: an update that fails where there is an entry already.
pub(crate) const ONLY_NEW: u64 = 1;

/// Where one writer counts what happens in one namespace.
#[derive(Clone, Copy)]
pub(crate) struct Book {
    pub(crate) netns: NetnsId,
    net: Net,
    pub(crate) writer: Writer,
    pub(crate) cpu: *mut Cpu,
    /// Not the tracker's own namespace: cells are shared by all CPUs and writers.
    shared: bool,
}

impl Book {
    /// None for a namespace that is not counted.
    #[inline(always)]
    pub(crate) fn of(sock: Sock, cpu: *mut Cpu, writer: Writer) -> Option<Self> {
        let net = sock.net();
        let mut book = Self {
            netns: OWN_NETNS,
            net,
            writer,
            cpu,
            shared: false,
        };
        // SAFETY: the map gave the pointer; whoever writes it writes the same.
        let known = unsafe { &mut (*cpu).own_net };
        if net.address() != *known {
            book.shared = net.inode() != maps::own_inode();
            if book.shared {
                if !host::all_namespaces() {
                    return None;
                }
                book.netns = net.id();
                return Some(book);
            }
            *known = net.address();
        }
        Some(book)
    }

    /// Whether it is the tracker's own namespace.
    #[inline(always)]
    pub(crate) fn is_own(self) -> bool {
        !self.shared
    }

    /// One more state change in the live `bank`.
    #[inline(always)]
    pub(crate) fn flow(self, bank: u32, from: Place, to: Place) -> Option<()> {
        let bank = self.bank(bank)?;
        let (from, to) = (from.again()?, to.again()?);
        // SAFETY: the map gave the pointer, a place is in range.
        self.add(
            unsafe { &raw mut (*bank).flows[from.family()][from.state()][to.state()] },
            1,
        );
        Some(())
    }

    /// One socket more (`by` 1) or less (-1) in the `bank` that is being seeded.
    #[inline(always)]
    pub(crate) fn seed(self, bank: u32, place: Place, by: i64) -> Option<()> {
        let bank = self.bank(bank)?;
        let place = place.again()?;
        // SAFETY: as above. Adding the two's complement subtracts.
        let cell = unsafe { &raw mut (*bank).seeded[place.family()][place.state()] };
        self.add(cell.cast(), by.cast_unsigned());
        Some(())
    }

    #[inline(always)]
    fn add(self, cell: *mut u64, by: u64) {
        if self.shared {
            count::add_shared(cell, by);
        } else {
            count::add(self.writer, cell, by);
        }
    }

    #[inline(always)]
    fn bank(self, bank: u32) -> Option<*mut Bank> {
        if !self.shared {
            return self.own_bank(bank);
        }
        let namespace = match NAMESPACES.get_ptr_mut(self.netns) {
            Some(namespace) => namespace,
            None => open(self)?,
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

impl Book {
    /// The writer's own.
    #[inline(always)]
    fn own_bank(self, bank: u32) -> Option<*mut Bank> {
        // SAFETY: the maps gave the pointers.
        unsafe {
            if self.writer == Writer::First {
                return Some(match bank {
                    0 => &raw mut (*self.cpu).first[0],
                    _ => &raw mut (*self.cpu).first[1],
                });
            }
            let others = COUNTERS.get_ptr_mut(bank)?;
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
fn open(book: Book) -> Option<*mut Namespace> {
    let empty = EMPTY_NAMESPACE.get(0)?;
    // Another CPU may have been first. Whether there was room shows when it is looked up.
    let inserted = NAMESPACES.insert(book.netns, empty, ONLY_NEW);
    let Some(opened) = NAMESPACES.get_ptr_mut(book.netns) else {
        count::failed(Failure::Namespaces, inserted.err().unwrap_or(INVALID));
        return None;
    };
    // SAFETY: the map gave the pointer; whoever writes it writes the same.
    unsafe {
        (*opened).net = book.net.address();
        (*opened).inode = book.net.inode();
    }
    Some(opened)
}

/// Looks which of the namespaces of the query are still there.
#[inline(always)]
pub(crate) fn look() {
    let Some(query) = NAMESPACE_QUERY.get(0) else {
        return;
    };
    for i in 0..NAMESPACES_PER_LOOK {
        let id = query.ids[i];
        if id == 0 {
            return;
        }
        if let Some(namespace) = NAMESPACES.get_ptr_mut(id) {
            // SAFETY: the map gave the pointer; one look at a time.
            let namespace = unsafe { &mut *namespace };
            namespace.alive = UntypedNet(namespace.net).is(id).unwrap_or(false).into();
        }
    }
}
