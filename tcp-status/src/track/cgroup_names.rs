//! The names of cgroups that have sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{kernel::cgroups, snapshot::CgroupName};

/// What cgroups are called: those that have sockets keep their names when they are removed.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// None of those that were not found.
    names: BTreeMap<u64, Option<CgroupName>>,
    /// When the hierarchy was last read, and how long that took.
    read: Option<(Instant, Duration)>,
}

impl Names {
    /// Reading the hierarchy takes at most this part of the time.
    const SHARE: u32 = 100;

    /// Finds the names of `ids`, and forgets all others.
    pub(super) fn resolve(&mut self, ids: &BTreeSet<u64>) {
        self.names.retain(|id, _| ids.contains(id));
        let is_new = |id: &u64| !self.names.contains_key(id);
        let is_due = self
            .read
            .is_none_or(|(read, took)| read.elapsed() >= took * Self::SHARE);
        if !is_due || !ids.iter().any(is_new) {
            return;
        }
        let began = Instant::now();
        let mut found = cgroups::names().unwrap_or_default();
        self.read = Some((Instant::now(), began.elapsed()));
        for &id in ids {
            let name = self.names.entry(id).or_default();
            if let Some(found) = found.remove(&id) {
                // Not moved: the kernel has no way to.
                *name = Some(found);
            }
        }
    }

    /// What a cgroup is called, as far as it is known.
    pub(super) fn get(&self, id: u64) -> CgroupName {
        self.names.get(&id).cloned().flatten().unwrap_or_default()
    }

    /// Its systemd unit, as far as it is known.
    pub(super) fn unit(&self, id: u64) -> Option<String> {
        self.names.get(&id)?.as_ref()?.unit.clone()
    }
}
