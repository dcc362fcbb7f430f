//! Cgroups of namespaces other than the tracker's own: what a pass over the kernel's tables says of them. The
//! gauges are corrected in place, while events go on.

use std::collections::{BTreeMap, BTreeSet};

use tcp_status_common::counters::{NetnsId, OWN_NETNS};

use crate::{
    bpf::{BpfError, CgroupSum, CgroupsOfNetns},
    track::tracker::Tracker,
};

/// What a pass found of the cgroups of a namespace.
#[derive(Debug, Default)]
pub(crate) struct FoundCgroups {
    /// The sockets of those that have no slot.
    pub(crate) unslotted: BTreeMap<u64, CgroupSum>,
    /// By how much those that are listed exceed those that are counted, where these differ.
    pub(crate) missing: BTreeMap<u64, CgroupSum>,
}

impl FoundCgroups {
    pub(crate) fn new(netns: NetnsId, listed: &CgroupsOfNetns, counted: &CgroupsOfNetns) -> Self {
        let all = (netns, 0)..=(netns, u64::MAX);
        let mut found = Self::default();
        for (&(_, id), sum) in counted.range(all.clone()) {
            found.missing.insert(id, sum.map(|count| -count));
        }
        for (&(_, id), sum) in listed.range(all) {
            match found.missing.get_mut(&id) {
                Some(missing) => missing
                    .iter_mut()
                    .zip(sum)
                    .for_each(|(all, count)| *all += count),
                None => {
                    found.unslotted.insert(id, *sum);
                }
            }
        }
        found.missing.retain(|_, sum| *sum != CgroupSum::default());
        found
    }
}

impl Tracker {
    /// Adds sockets to those of cgroups of a namespace. Whether all have a slot.
    pub(crate) fn add_to_cgroups(
        &self,
        netns: NetnsId,
        added: impl Iterator<Item = (u64, CgroupSum)>,
    ) -> Result<bool, BpfError> {
        let added = added.map(|(id, sum)| ((netns, id), sum));
        let left_out = self.bpf.add_to_cgroups(added)?;
        Ok(left_out.is_empty())
    }

    /// In these namespaces all cgroups had slots after so many events: programs may give more, unless an event
    /// came meanwhile.
    pub(crate) fn admit_cgroups(&self, complete: &BTreeMap<NetnsId, u64>) -> Result<(), BpfError> {
        let refused = self.bpf.cgroups_refused();
        for (&netns, &events) in complete {
            if !refused.contains(netns) {
                continue;
            }
            self.bpf.set_cgroups_refused(netns, false);
            let record = self.bpf.namespace(netns)?;
            if record.is_none_or(|record| record.events != events) {
                self.bpf.set_cgroups_refused(netns, true);
            }
        }
        Ok(())
    }

    /// Gives back the slots of cgroups of namespaces that are gone, and of those without a socket in the
    /// `settled` ones.
    pub(crate) fn give_back_cgroups(&self, settled: &BTreeSet<NetnsId>) -> Result<(), BpfError> {
        let mut forgotten = self.live_bank().cgroups()?.tracked;
        // One that came since is there: a namespace is entered before its cgroups are.
        let living = self.bpf.live_namespaces()?;
        let is_living = |netns| living.contains_key(&netns);
        forgotten.retain(|(netns, _), sum| {
            let is_unused = settled.contains(netns) && *sum == CgroupSum::default();
            *netns != OWN_NETNS && (!is_living(*netns) || is_unused)
        });
        if forgotten.is_empty() {
            return Ok(());
        }
        self.bpf
            .forget_cgroups(&forgotten.into_keys().collect(), is_living)
    }
}

#[cfg(test)]
mod tests {
    use super::{CgroupSum, CgroupsOfNetns, FoundCgroups};

    fn sum(established: i64) -> CgroupSum {
        let mut sum = CgroupSum::default();
        sum[1] = established;
        sum
    }

    #[test]
    fn what_has_no_slot_is_apart_from_what_differs() {
        let listed = CgroupsOfNetns::from([
            ((7, 1), sum(3)),
            ((7, 2), sum(5)),
            ((7, 4), sum(9)),
            ((8, 1), sum(1)),
        ]);
        let counted = CgroupsOfNetns::from([
            ((6, 1), sum(1)),
            ((7, 1), sum(3)),
            ((7, 2), sum(4)),
            ((7, 3), sum(2)),
        ]);
        let found = FoundCgroups::new(7, &listed, &counted);
        assert_eq!(found.unslotted, [(4, sum(9))].into());
        assert_eq!(found.missing, [(2, sum(1)), (3, sum(-2))].into());
    }
}
