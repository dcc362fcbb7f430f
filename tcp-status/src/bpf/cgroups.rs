//! Gauges by cgroup: reading them, and giving out the slots that they are kept in.

use std::collections::BTreeSet;

use tcp_status_common::counters::{CGROUP_BANK_OF_OTHERS, NetnsId, OTHER_SLOT, OWN_NETNS, SlotKey};

use crate::kernel::quiesce::quiesce;

use super::{
    BankReader, Bpf, BpfError, Scope,
    cgroup_slots::{CgroupSum, CgroupsOfNetns},
    slots::{self, Refusals},
};

/// The full sockets of the cgroups.
#[derive(Clone, Debug, Default)]
pub struct CgroupSums {
    /// By namespace and id, of each cgroup that has a slot.
    pub tracked: CgroupsOfNetns,
    /// Of those of the tracker's own namespace that have none, together; none if all have one.
    pub other: Option<CgroupSum>,
    /// Other namespaces with cgroups that may have none.
    pub refused: Refusals,
}

impl BankReader<'_> {
    /// The sockets of all cgroups of all namespaces. Those of other namespaces are not held: they may be
    /// corrected, or given back, meanwhile.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn cgroups(&self) -> Result<CgroupSums, BpfError> {
        let (cgroups, own) = (&self.bpf.cgroups, self.bank_of(OWN_NETNS));
        // Before the sums: who gets a slot meanwhile is in one of both.
        let refused = cgroups.slots.refusals();
        let entries = cgroups.slots.entries(|key| is_live(key, own))?;
        let sum = |(key, slot): (SlotKey, u32)| {
            ((key.netns, key.item), cgroups.sum(slot, slots::bank(&key)))
        };
        Ok(CgroupSums {
            tracked: entries.into_iter().map(sum).collect(),
            other: cgroups
                .slots
                .has_refused_own(own)
                .then(|| cgroups.sum(OTHER_SLOT, own)),
            refused,
        })
    }

    /// The ids of all cgroups that have a slot.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn cgroup_ids(&self) -> Result<BTreeSet<u64>, BpfError> {
        let own = self.bank_of(OWN_NETNS);
        let entries = self.bpf.cgroups.slots.entries(|key| is_live(key, own))?;
        Ok(entries.into_iter().map(|(key, _)| key.item).collect())
    }
}

/// Whether a cgroup is entered in the bank that is read, which is `own` of the tracker's own namespace.
fn is_live(key: &SlotKey, own: u32) -> bool {
    key.netns != OWN_NETNS || slots::bank(key) == own
}

impl Bpf {
    /// Enters the cgroups of the tracker's own namespace that have sockets in the `live` bank into the other
    /// `bank`, at the slots that they have. It is empty, and no event may be using it.
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn carry_over_cgroups(&self, live: &BankReader<'_>, bank: u32) -> Result<(), BpfError> {
        let own = live.bank_of(OWN_NETNS);
        let mut slots = self.cgroups.slots.write();
        let live = |key: &SlotKey| key.netns == OWN_NETNS && slots::bank(key) == own;
        for (key, slot) in self.cgroups.slots.entries(live)? {
            // Whatever a gauge is off by, a cgroup with sockets is not forgotten.
            let has_sockets = || self.cgroups.sum(slot, own).iter().any(|&count| count != 0);
            if has_sockets() {
                slots.carry_over(slots::key(OWN_NETNS, key.item, bank), slot)?;
            }
        }
        Ok(())
    }

    /// Adds sockets to those of cgroups of other namespaces, while events go on. One without a slot gets one,
    /// if there is room. Gives the namespaces for whose cgroups there is none.
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn add_to_cgroups(
        &self,
        added: impl IntoIterator<Item = ((NetnsId, u64), CgroupSum)>,
    ) -> Result<BTreeSet<NetnsId>, BpfError> {
        let mut slots = self.cgroups.slots.write();
        let mut left_out = BTreeSet::new();
        for ((netns, id), sum) in added {
            let slot = slots.enter(slots::key(netns, id, CGROUP_BANK_OF_OTHERS))?;
            if let Some(slot) = slot {
                self.cgroups.add(slot, &sum);
            } else {
                self.cgroups.slots.set_refused(netns, true);
                left_out.insert(netns);
            }
        }
        Ok(left_out)
    }

    /// Namespaces with cgroups that may have no slot.
    pub fn cgroups_refused(&self) -> Refusals {
        self.cgroups.slots.refusals()
    }

    /// Whether programs give no slots to cgroups of a namespace: they may where all that have sockets have one.
    pub fn set_cgroups_refused(&self, netns: NetnsId, refused: bool) {
        self.cgroups.slots.set_refused(netns, refused);
    }

    /// Forgets these cgroups of other namespaces, while events go on. What came to those of a `living`
    /// namespace meanwhile is kept.
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn forget_cgroups(
        &self,
        forgotten: &BTreeSet<(NetnsId, u64)>,
        living: impl Fn(NetnsId) -> bool,
    ) -> Result<(), BpfError> {
        let mut slots = self.cgroups.slots.write();
        let used = slots.remove(|key| forgotten.contains(&(key.netns, key.item)))?;
        // Programs that found a slot before may still count there.
        quiesce();
        let sums = slots.removed().iter().map(|(key, slot)| {
            let sum = self.cgroups.sum(*slot, slots::bank(key));
            ((key.netns, key.item), sum)
        });
        let is_used = |&((netns, _), sum): &((NetnsId, u64), CgroupSum)| {
            living(netns) && sum != CgroupSum::default()
        };
        let came: Vec<_> = sums.filter(is_used).collect();
        slots.give_back(&used)?;
        drop(slots);
        self.add_to_cgroups(came).map(drop)
    }

    /// Whether there is a slot for one more cgroup of another namespace.
    pub fn has_room_for_cgroup(&self, netns: NetnsId) -> bool {
        self.cgroups.slots.has_room(netns)
    }

    /// Empties `bank`, which no event in `scope` may be using, and makes the slots free that no cgroup has in
    /// the other one.
    pub(super) fn clear_cgroups(&self, bank: u32, scope: Scope) -> Result<(), BpfError> {
        let mut slots = self.cgroups.slots.write();
        let used = slots.remove(|key| slots::bank(key) == bank && scope.includes(key.netns))?;
        slots.give_back(&used)?;
        self.cgroups.slots.gauges.clear(OTHER_SLOT, bank);
        self.cgroups.slots.clear_refusals(bank, scope == Scope::All);
        self.cgroups.clear_cache(bank)
    }
}
