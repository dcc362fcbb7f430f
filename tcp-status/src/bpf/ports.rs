//! Gauges by local port: reading them, and giving out the slots that they are kept in.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    mem::offset_of,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::maps::MapError;
use tcp_status_common::{
    counters::{NetnsId, OTHER_PORTS, OWN_NETNS, PortKey, PortPage, PortShares, STATE_SLOTS},
    ends::CONNECTION_END_REASONS,
    state::{Family, State},
};

use crate::kernel::quiesce::quiesce;

use super::{
    BankReader, Bpf, BpfError, Scope, batch,
    error::{errno, ignore_enoent},
    load::{PortWriter, Ports},
    namespaces::ONLY_NEW,
    object::lock,
    pod::PodWrapper,
};

/// The sockets of one port, `[family][state]`, summed over shards.
pub type PortSum = [[i64; STATE_SLOTS]; Family::COUNT];

/// Connections that ended, by port and reason.
pub type PortEnds = BTreeMap<u16, [u64; CONNECTION_END_REASONS]>;

/// A port that is entered, by namespace, and its slot.
type Entry = ((NetnsId, u16), u32);

impl BankReader<'_> {
    /// The sockets of one port of a namespace; none if the port is not kept apart.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn port(&self, netns: NetnsId, port: u16) -> Result<Option<PortSum>, BpfError> {
        let slot = self.slot(netns, port)?;
        Ok(slot.map(|slot| self.bpf.ports.sum(slot, self.bank_of(netns))))
    }

    /// The slot of a port that is kept apart.
    fn slot(&self, netns: NetnsId, port: u16) -> Result<Option<u32>, BpfError> {
        let key = key(netns, port, self.bank_of(netns));
        match self.bpf.ports.slots.get(&key, 0) {
            Ok(OTHER_PORTS) | Err(MapError::KeyNotFound) => Ok(None),
            Ok(slot) => Ok(Some(slot)),
            Err(error) => Err(ports_error(error)),
        }
    }

    /// The ports that are entered, by namespace.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn port_keys(&self) -> Result<BTreeSet<(NetnsId, u16)>, BpfError> {
        let entries = self.entries()?.into_iter();
        Ok(entries.map(|(port, _)| port).collect())
    }

    /// All ports of all namespaces that are kept apart, by namespace and port.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn ports(&self) -> Result<BTreeMap<(NetnsId, u16), PortSum>, BpfError> {
        let mut sums = BTreeMap::new();
        for (port, slot) in self.entries()? {
            if slot != OTHER_PORTS {
                let sum = self.bpf.ports.sum(slot, self.bank_of(port.0));
                sums.insert(port, sum);
            }
        }
        Ok(sums)
    }

    /// Connections that ended at those of the `ports` of a namespace that are kept apart, while the bank
    /// was live.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn ends_of(
        &self,
        netns: NetnsId,
        ports: impl Iterator<Item = u16>,
    ) -> Result<PortEnds, BpfError> {
        let bank = self.bank_of(netns);
        let slots: BTreeMap<u16, u32> = match netns {
            // All at once.
            OWN_NETNS => self.bpf.ports.own_slots(bank)?.into_iter().collect(),
            _ => {
                let slots = ports.map(|port| Ok((port, self.slot(netns, port)?)));
                let slots: Result<Vec<_>, BpfError> = slots.collect();
                let slots = slots?.into_iter();
                slots
                    .filter_map(|(port, slot)| Some((port, slot?)))
                    .collect()
            }
        };
        let apart = slots.into_iter().filter(|(_, slot)| *slot != OTHER_PORTS);
        let ends = apart.map(|(port, slot)| (port, self.bpf.ports.ends(slot, bank)));
        Ok(ends.collect())
    }

    /// The same of all ports that are kept apart, by namespace.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn port_ends(&self) -> Result<BTreeMap<NetnsId, PortEnds>, BpfError> {
        let mut found = BTreeMap::<_, PortEnds>::new();
        for ((netns, port), slot) in self.entries()? {
            if slot != OTHER_PORTS {
                let ends = self.bpf.ports.ends(slot, self.bank_of(netns));
                found.entry(netns).or_default().insert(port, ends);
            }
        }
        Ok(found)
    }

    /// The ports of the own namespace that have no slot, and their sockets together; none if all
    /// have a slot.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn other_ports(&self) -> Result<Option<(Vec<u16>, PortSum)>, BpfError> {
        let own = self.bpf.ports.own_slots(self.bank_of(OWN_NETNS))?;
        let others = own.into_iter().filter(|&(_, slot)| slot == OTHER_PORTS);
        let others: Vec<_> = others.map(|(port, _)| port).collect();
        if others.is_empty() {
            return Ok(None);
        }
        let sum = self.bpf.ports.sum(OTHER_PORTS, self.bank_of(OWN_NETNS));
        Ok(Some((others, sum)))
    }

    fn entries(&self) -> Result<Vec<Entry>, BpfError> {
        let own = self.bpf.ports.own_slots(self.bank_of(OWN_NETNS))?;
        let own = own
            .into_iter()
            .map(|(port, slot)| ((OWN_NETNS, port), slot));
        let mut entries: Vec<_> = own.collect();
        if self.bpf.ports.elsewhere {
            let read = |key: &PortKey| {
                key.netns != OWN_NETNS && u32::from(key.bank) == self.bank_of(key.netns)
            };
            let others = self.bpf.ports.entries(read)?.into_iter();
            entries.extend(others.map(|(key, slot)| ((key.netns, key.port), slot)));
        }
        Ok(entries)
    }
}

impl Bpf {
    /// Enters those of the `live` ports that are `kept`, by namespace and sockets, into `bank`, at the slots
    /// that they have. It is empty, and no event may be using it.
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn carry_over_ports(
        &self,
        live: &BankReader<'_>,
        kept: impl Fn(NetnsId, &PortSum) -> bool,
        bank: u32,
    ) -> Result<(), BpfError> {
        let mut ports = lock(&self.port_writer);
        let mut page = Box::new(PodWrapper(PortPage::EMPTY));
        for ((netns, port), slot) in live.entries()? {
            let is_kept = || kept(netns, &self.ports.sum(slot, live.bank_of(netns)));
            if slot == OTHER_PORTS || !is_kept() {
                continue;
            }
            let key = key(netns, port, bank);
            ports.slots.insert(key, slot, 0).map_err(ports_error)?;
            if netns == OWN_NETNS {
                // As the programs have it: plus one. There are no more slots than ports.
                page.0.slots[usize::from(port)] = u16::try_from(slot + 1).unwrap_or(0);
            }
        }
        ports.pages[bank as usize]
            .set(0, *page, 0)
            .map_err(pages_error)
    }

    /// Enters ports of other namespaces into `bank`, where events may go on, unless they are there. Gives
    /// the namespaces for whose ports there is no room.
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn enter_ports(
        &self,
        entered: impl IntoIterator<Item = (NetnsId, u16)>,
        bank: u32,
    ) -> Result<BTreeSet<NetnsId>, BpfError> {
        let mut ports = lock(&self.port_writer);
        let mut left_out = BTreeSet::new();
        for (netns, port) in entered {
            let Some(slot) = self.take_free(&mut ports, netns)? else {
                left_out.insert(netns);
                continue;
            };
            if let Err(error) = ports.slots.insert(key(netns, port, bank), slot, ONLY_NEW) {
                ports.pending_free.push((netns, slot));
                self.enter_free(&mut ports)?;
                // Else a program was first.
                if errno(&error) != Some(libc::EEXIST) {
                    return Err(ports_error(error));
                }
            }
        }
        Ok(left_out)
    }

    /// Empties `bank`, which no event in `scope` may be using, and makes the slots free that no port has in
    /// the other one.
    pub(super) fn clear_ports(&self, bank: u32, scope: Scope) -> Result<(), BpfError> {
        let mut ports = lock(&self.port_writer);
        let used = self.remove_ports(&mut ports, |key| {
            u32::from(key.bank) == bank && scope.includes(key.netns)
        })?;
        self.give_back(&mut ports, &used)?;
        let empty = Box::new(PodWrapper(PortPage::EMPTY));
        ports.pages[bank as usize]
            .set(0, *empty, 0)
            .map_err(pages_error)
    }

    /// Forgets the ports of other namespaces that are not `kept` in the `live` bank, where events may go
    /// on, and all that are left of them in the other one.
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn forget_ports(
        &self,
        live: u32,
        kept: impl Fn(NetnsId, u16) -> bool,
    ) -> Result<(), BpfError> {
        let mut ports = lock(&self.port_writer);
        let used = self.remove_ports(&mut ports, |key| {
            key.netns != OWN_NETNS && (u32::from(key.bank) != live || !kept(key.netns, key.port))
        })?;
        if !ports.removed.is_empty() {
            // Programs that found a slot before may still count there.
            quiesce();
        }
        self.give_back(&mut ports, &used)
    }

    /// Whether there is a slot for one more port of another namespace.
    pub fn has_room_for_port(&self, netns: NetnsId) -> bool {
        let [free, taken] = [self.free_slots(), self.taken_slots(netns)];
        let [free, taken] = [free, taken].map(|slots| slots.load(Ordering::Relaxed));
        PortShares::may_take(taken, free, self.limits.ports / 4)
    }

    /// Makes all slots free, for the first time.
    pub(super) fn init_port_slots(&self) -> Result<(), BpfError> {
        let mut ports = lock(&self.port_writer);
        let reserved = offset_of!(PortShares, reserved);
        let reserved = self.ports.shares.atomic(0, reserved);
        reserved.store(self.limits.ports / 4, Ordering::Relaxed);
        let slots = 1..=self.limits.ports;
        ports.pending_free = slots.map(|slot| (OWN_NETNS, slot)).collect();
        self.enter_free(&mut ports)
    }

    /// Removes ports from banks. Gives the slots that ports have afterwards.
    fn remove_ports(
        &self,
        ports: &mut PortWriter,
        removed: impl Fn(&PortKey) -> bool,
    ) -> Result<BTreeSet<u32>, BpfError> {
        let mut used = BTreeSet::new();
        for (key, slot) in self.ports.entries(|_| true)? {
            if removed(&key) {
                ignore_enoent(ports.slots.remove(&PodWrapper(key))).map_err(ports_error)?;
                ports.removed.push((key, slot));
            } else {
                used.insert(slot);
            }
        }
        Ok(used)
    }

    /// Empties what was removed, where no program may be counting, and makes the slots free that are not
    /// `used`.
    fn give_back(&self, ports: &mut PortWriter, used: &BTreeSet<u32>) -> Result<(), BpfError> {
        let mut freed = BTreeSet::from([OTHER_PORTS]);
        for (key, slot) in ports.removed.drain(..) {
            self.ports.gauges.clear(slot, key.bank.into());
            if !used.contains(&slot) && freed.insert(slot) {
                ports.pending_free.push((key.netns, slot));
            }
        }
        self.enter_free(ports)
    }

    /// Enters as free what no port has.
    fn enter_free(&self, ports: &mut PortWriter) -> Result<(), BpfError> {
        while let Some((netns, slot)) = ports.pending_free.pop() {
            self.count_taken(netns, -1);
            if let Err(error) = ports.free.push(slot, 0) {
                self.count_taken(netns, 1);
                ports.pending_free.push((netns, slot));
                return Err(free_error(error));
            }
        }
        Ok(())
    }

    /// A slot that no port has, from now on taken by a namespace other than the tracker's own; none if
    /// there is none left, or it has its share.
    fn take_free(&self, ports: &mut PortWriter, netns: NetnsId) -> Result<Option<u32>, BpfError> {
        if !self.has_room_for_port(netns) {
            return Ok(None);
        }
        match ports.free.pop(0) {
            Ok(slot) => {
                self.count_taken(netns, 1);
                Ok(Some(slot))
            }
            Err(MapError::ElementNotFound) => Ok(None),
            Err(error) => Err(free_error(error)),
        }
    }

    /// A namespace has one slot more (`by` 1) or less (-1).
    fn count_taken(&self, netns: NetnsId, by: i32) {
        let by = by.cast_unsigned();
        self.free_slots().fetch_sub(by, Ordering::Relaxed);
        if netns != OWN_NETNS {
            self.taken_slots(netns).fetch_add(by, Ordering::Relaxed);
        }
    }

    fn free_slots(&self) -> &AtomicU32 {
        self.ports.shares.atomic(0, offset_of!(PortShares, free))
    }

    fn taken_slots(&self, netns: NetnsId) -> &AtomicU32 {
        let index = PortShares::index(netns) * size_of::<u32>();
        let offset = offset_of!(PortShares, taken) + index;
        self.ports.shares.atomic(0, offset)
    }
}

impl Ports {
    /// The ports of the own namespace in `bank`, and the slot of each: from their page, since the map
    /// has room for every port, and listing it takes as long as if they were there. Before 5.15 the kernel
    /// wants contiguous memory for a page, and may have none.
    fn own_slots(&self, bank: u32) -> Result<Vec<(u16, u32)>, BpfError> {
        match self.slots_in_page(bank) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                let own = |key: &PortKey| key.netns == OWN_NETNS && u32::from(key.bank) == bank;
                let entries = self.entries(own)?.into_iter();
                Ok(entries.map(|(key, slot)| (key.port, slot)).collect())
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

    fn entries(&self, wanted: impl Fn(&PortKey) -> bool) -> Result<Vec<(PortKey, u32)>, BpfError> {
        let mut found = Vec::new();
        let none = (key(OWN_NETNS, 0, 0), OTHER_PORTS);
        batch::for_each(&self.listed, none, |PodWrapper(key), &slot| {
            if wanted(key) {
                found.push((*key, slot));
            }
        })
        .map_err(|error| ports_error(MapError::IoError(error)))?;
        Ok(found)
    }

    fn ends(&self, slot: u32, bank: u32) -> [u64; CONNECTION_END_REASONS] {
        let mut sum = [0; CONNECTION_END_REASONS];
        for shard in self.gauges.of(slot, bank) {
            for (sum, count) in sum.iter_mut().zip(shard.ends) {
                *sum += u64::from(count);
            }
        }
        sum
    }

    fn sum(&self, slot: u32, bank: u32) -> PortSum {
        let mut sum = [[0_u32; STATE_SLOTS]; Family::COUNT];
        for shard in self.gauges.of(slot, bank) {
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

fn key(netns: NetnsId, port: u16, bank: u32) -> PodWrapper<PortKey> {
    PodWrapper(PortKey {
        netns,
        port,
        bank: u16::from(bank & 1 == 1),
        padding: 0,
    })
}

fn ports_error(source: MapError) -> BpfError {
    BpfError::Map {
        name: "PORTS",
        source,
    }
}

fn pages_error(source: MapError) -> BpfError {
    BpfError::Map {
        name: ".bss.ports",
        source,
    }
}

fn free_error(source: MapError) -> BpfError {
    BpfError::Map {
        name: "FREE_PORTS",
        source,
    }
}
