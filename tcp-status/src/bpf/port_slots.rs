//! The slots of ports.

use std::{io, os::fd::OwnedFd, sync::Mutex};

use aya::{
    Ebpf,
    maps::{Array, MapData, MapError},
};
use tcp_status_common::{
    counters::{OWN_NETNS, PortGauges, PortPage, STATE_SLOTS, SlotKey},
    ends::CONNECTION_END_REASONS,
    state::{Family, State},
};

use super::{
    batch,
    error::BpfError,
    object::{descriptor, lock, map},
    pod::PodWrapper,
    slots::{self, Names, Size, Slots},
};

/// The sockets of one port, `[family][state]`, summed over shards.
pub type PortSum = [[i64; STATE_SLOTS]; Family::COUNT];

/// The maps of ports.
pub(super) static NAMES: Names = Names {
    slots: "PORTS",
    gauges: "PORT_GAUGES",
    free: "FREE_PORTS",
    shares: "PORT_SHARES",
};

/// In each bank, any port may be entered.
pub(super) const ENTRIES: u32 = 2 * 65_536;

/// The slots of the own namespace's ports, by bank.
const PAGES: [&str; 2] = [".bss.ports.0", ".bss.ports.1"];

/// Connections by local port.
pub(super) struct Ports {
    pub(super) slots: Slots<PortGauges>,
    /// Slots of the own namespace's ports, by bank and port.
    pages: [OwnedFd; 2],
    page_writer: Mutex<[Array<MapData, PodWrapper<PortPage>>; 2]>,
    /// Whether other namespaces have ports.
    pub(super) elsewhere: bool,
}

impl Ports {
    pub(super) fn new(ebpf: &mut Ebpf, size: Size, elsewhere: bool) -> Result<Self, BpfError> {
        let [read_0, read_1] = PAGES.map(|name| descriptor(ebpf, name));
        Ok(Self {
            slots: Slots::new(ebpf, &NAMES, size)?,
            pages: [read_0?, read_1?],
            page_writer: Mutex::new([map(ebpf, PAGES[0])?, map(ebpf, PAGES[1])?]),
            elsewhere,
        })
    }

    pub(super) fn set_page(&self, bank: u32, page: PodWrapper<PortPage>) -> Result<(), BpfError> {
        let set = lock(&self.page_writer)[bank as usize].set(0, page, 0);
        set.map_err(pages_error)
    }

    /// The ports of the own namespace in `bank`, and the slot of each: from their page, since the map
    /// has room for every port, and listing it takes as long as if they were there. Before 5.15 the kernel
    /// wants contiguous memory for a page, and may have none.
    pub(super) fn own_slots(&self, bank: u32) -> Result<Vec<(u16, u32)>, BpfError> {
        match self.slots_in_page(bank) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                let own = |key: &SlotKey| key.netns == OWN_NETNS && slots::bank(key) == bank;
                let entries = self.slots.entries(own)?.into_iter();
                Ok(entries.map(|(key, slot)| (port(&key), slot)).collect())
            }
            listed => listed.map_err(|error| pages_error(MapError::IoError(error))),
        }
    }

    fn slots_in_page(&self, bank: u32) -> io::Result<Vec<(u16, u32)>> {
        const BLOCK: usize = 64;
        let mut found = Vec::new();
        let empty = PodWrapper(PortPage::EMPTY);
        batch::for_each_element(&self.pages[bank as usize], empty, |page| {
            // Most are empty: many are compared at once.
            let blocks = (0..=u16::MAX)
                .step_by(BLOCK)
                .zip(page.0.slots.chunks(BLOCK));
            for (first, slots) in blocks.filter(|(_, slots)| **slots != [0; BLOCK]) {
                let slots = (first..=u16::MAX)
                    .zip(slots)
                    .filter(|&(_, &slot)| slot != 0);
                found.extend(slots.map(|(port, &slot)| (port, u32::from(slot) - 1)));
            }
        })?;
        Ok(found)
    }

    pub(super) fn ends(&self, slot: u32, bank: u32) -> [u64; CONNECTION_END_REASONS] {
        let mut sum = [0; CONNECTION_END_REASONS];
        for shard in self.slots.gauges.of(slot, bank) {
            for (sum, count) in sum.iter_mut().zip(shard.ends) {
                *sum += u64::from(count);
            }
        }
        sum
    }

    pub(super) fn sum(&self, slot: u32, bank: u32) -> PortSum {
        let mut sum = [[0_u32; STATE_SLOTS]; Family::COUNT];
        for shard in self.slots.gauges.of(slot, bank) {
            let gauges = shard.first.iter().zip(&shard.shared);
            for (sums, (first, others)) in sum.iter_mut().zip(gauges) {
                for (sum, (first, other)) in sums.iter_mut().zip(first.iter().zip(others)) {
                    *sum = sum.wrapping_add(*first).wrapping_add(*other);
                }
            }
        }
        let closed = usize::from(State::Closed.number());
        for sums in &mut sum {
            // Where sockets come from and go to, not how many there are.
            sums[closed] = 0;
        }
        sum.map(|family| family.map(|sum| sum.cast_signed().into()))
    }
}

/// The port that has a slot.
#[expect(
    clippy::cast_possible_truncation,
    reason = "what has a slot here is a port"
)]
pub(super) fn port(key: &SlotKey) -> u16 {
    key.item as u16
}

fn pages_error(source: MapError) -> BpfError {
    BpfError::Map {
        name: ".bss.ports",
        source,
    }
}
