//! The counters of one network namespace, as one writer sees them: which cell, and how to add.

use tcp_status_common::counters::{Bank, Cpu, Failure, NamespaceKey, Writer};

use crate::{
    count::{self, INVALID, Place},
    host::{self, Sock},
    maps::{self, COUNTERS, EMPTY_BANK, NAMESPACES},
};

/// `BPF_ANY`: an update that creates or replaces an entry.
pub(crate) const ANY: u64 = 0;

/// `BPF_NOEXIST`: an update that fails where there is an entry already.
pub(crate) const ONLY_NEW: u64 = 1;

/// Where one writer counts what happens in one namespace.
#[derive(Clone, Copy)]
pub(crate) struct Book {
    pub(crate) netns: u32,
    pub(crate) writer: Writer,
    pub(crate) cpu: *mut Cpu,
    /// Not the tracker's own namespace: cells are shared by all CPUs and writers.
    shared: bool,
}

impl Book {
    /// None for a namespace that is not counted.
    #[inline(always)]
    pub(crate) fn of(sock: Sock, cpu: *mut Cpu, writer: Writer) -> Option<Self> {
        let (net, own) = (sock.net(), maps::own_netns());
        let mut book = Self {
            netns: own,
            writer,
            cpu,
            shared: false,
        };
        // SAFETY: the map gave the pointer; whoever writes it writes the same.
        let known = unsafe { &mut (*cpu).own_net };
        if net.address() != *known {
            book.netns = net.inode();
            book.shared = book.netns != own;
            if book.shared {
                return host::all_namespaces().then_some(book);
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
        let key = NamespaceKey {
            netns: self.netns,
            bank,
        };
        match NAMESPACES.get_ptr_mut(key) {
            Some(bank) => Some(bank),
            None => open(key),
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
fn open(key: NamespaceKey) -> Option<*mut Bank> {
    let empty = EMPTY_BANK.get(0)?;
    // Another CPU may have been first. Whether there was room shows when it is looked up.
    let inserted = NAMESPACES.insert(key, empty, ONLY_NEW);
    let opened = NAMESPACES.get_ptr_mut(key);
    if opened.is_none() {
        count::failed(Failure::Namespaces, inserted.err().unwrap_or(INVALID));
    }
    opened
}
