//! Gauges by local port: reading them, and giving out the slots that they are kept in.

use std::collections::{BTreeMap, BTreeSet};

use tcp_status_common::{
    counters::{NetnsId, OTHER_SLOT, OWN_NETNS, PortPage, SlotKey},
    ends::CONNECTION_END_REASONS,
};

use crate::kernel::quiesce::quiesce;

use super::{
    BankReader, Bpf, BpfError, Scope,
    pod::PodWrapper,
    port_slots::{PortSum, port},
    slots,
};

/// Connections that ended, by port and reason.
pub type PortEnds = BTreeMap<u16, [u64; CONNECTION_END_REASONS]>;

/// The sockets of ports, by namespace and port.
pub type PortSums = BTreeMap<(NetnsId, u16), PortSum>;

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
        let key = slots::key(netns, port.into(), self.bank_of(netns));
        let slot = self.bpf.ports.slots.get(key)?;
        Ok(slot.filter(|&slot| slot != OTHER_SLOT))
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
    pub fn ports(&self) -> Result<PortSums, BpfError> {
        Ok(self.sums(&self.entries()?))
    }

    /// The same, and connections that ended at them while the bank was live, by namespace.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn ports_with_ends(&self) -> Result<(PortSums, BTreeMap<NetnsId, PortEnds>), BpfError> {
        let entries = self.entries()?;
        Ok((self.sums(&entries), self.ends(&entries)))
    }

    /// Connections that ended at one port of a namespace while the bank was live; nothing if it is not
    /// kept apart.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn ends_of(&self, netns: NetnsId, port: u16) -> Result<PortEnds, BpfError> {
        let slot = self.slot(netns, port)?;
        let ends = slot.map(|slot| (port, self.bpf.ports.ends(slot, self.bank_of(netns))));
        Ok(ends.into_iter().collect())
    }

    /// The same of all ports of all namespaces that are kept apart.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn port_ends(&self) -> Result<BTreeMap<NetnsId, PortEnds>, BpfError> {
        Ok(self.ends(&self.entries()?))
    }

    fn sums(&self, entries: &[Entry]) -> PortSums {
        let sum = |(port, slot): Entry| (port, self.bpf.ports.sum(slot, self.bank_of(port.0)));
        slotted(entries).map(sum).collect()
    }

    fn ends(&self, entries: &[Entry]) -> BTreeMap<NetnsId, PortEnds> {
        let mut found = BTreeMap::<_, PortEnds>::new();
        for ((netns, port), slot) in slotted(entries) {
            let ends = self.bpf.ports.ends(slot, self.bank_of(netns));
            found.entry(netns).or_default().insert(port, ends);
        }
        found
    }

    /// The ports of the own namespace that have no slot, and their sockets together; none if all
    /// have a slot.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn other_ports(&self) -> Result<Option<(Vec<u16>, PortSum)>, BpfError> {
        let own = self.bpf.ports.own_slots(self.bank_of(OWN_NETNS))?;
        let others = own.into_iter().filter(|&(_, slot)| slot == OTHER_SLOT);
        let others: Vec<_> = others.map(|(port, _)| port).collect();
        if others.is_empty() {
            return Ok(None);
        }
        let sum = self.bpf.ports.sum(OTHER_SLOT, self.bank_of(OWN_NETNS));
        Ok(Some((others, sum)))
    }

    fn entries(&self) -> Result<Vec<Entry>, BpfError> {
        let own = self.bpf.ports.own_slots(self.bank_of(OWN_NETNS))?;
        let own = own
            .into_iter()
            .map(|(port, slot)| ((OWN_NETNS, port), slot));
        let mut entries: Vec<_> = own.collect();
        if self.bpf.ports.elsewhere {
            let read = |key: &SlotKey| {
                key.netns != OWN_NETNS && slots::bank(key) == self.bank_of(key.netns)
            };
            let others = self.bpf.ports.slots.entries(read)?.into_iter();
            entries.extend(others.map(|(key, slot)| ((key.netns, port(&key)), slot)));
        }
        Ok(entries)
    }
}

/// Those of the entries that have a slot.
fn slotted(entries: &[Entry]) -> impl Iterator<Item = Entry> {
    entries
        .iter()
        .copied()
        .filter(|(_, slot)| *slot != OTHER_SLOT)
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
        let mut slots = self.ports.slots.write();
        let mut page = Box::new(PodWrapper(PortPage::EMPTY));
        for ((netns, port), slot) in live.entries()? {
            let is_kept = || kept(netns, &self.ports.sum(slot, live.bank_of(netns)));
            if slot == OTHER_SLOT || !is_kept() {
                continue;
            }
            slots.carry_over(slots::key(netns, port.into(), bank), slot)?;
            if netns == OWN_NETNS {
                // As the programs have it: plus one. There are no more slots than ports.
                page.0.slots[usize::from(port)] = u16::try_from(slot + 1).unwrap_or(0);
            }
        }
        self.ports.set_page(bank, *page)
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
        let mut slots = self.ports.slots.write();
        let mut left_out = BTreeSet::new();
        for (netns, port) in entered {
            let slot = slots.enter(slots::key(netns, port.into(), bank))?;
            if slot.is_none() {
                left_out.insert(netns);
            }
        }
        Ok(left_out)
    }

    /// Empties `bank`, which no event in `scope` may be using, and makes the slots free that no port has in
    /// the other one.
    pub(super) fn clear_ports(&self, bank: u32, scope: Scope) -> Result<(), BpfError> {
        let mut slots = self.ports.slots.write();
        let used = slots.remove(|key| slots::bank(key) == bank && scope.includes(key.netns))?;
        slots.give_back(&used)?;
        self.ports.set_page(bank, PodWrapper(PortPage::EMPTY))
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
        let mut slots = self.ports.slots.write();
        let used = slots.remove(|key| {
            key.netns != OWN_NETNS && (slots::bank(key) != live || !kept(key.netns, port(key)))
        })?;
        if !slots.removed().is_empty() {
            // Programs that found a slot before may still count there.
            quiesce();
        }
        slots.give_back(&used)
    }

    /// Whether there is a slot for one more port of another namespace.
    pub fn has_room_for_port(&self, netns: NetnsId) -> bool {
        self.ports.slots.has_room(netns)
    }
}
