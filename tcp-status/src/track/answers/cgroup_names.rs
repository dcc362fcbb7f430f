//! The names of cgroups that have sockets.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{kernel::cgroups, snapshot::CgroupName};

/// What cgroups are called: those that have sockets keep their names when they are removed.
#[derive(Debug, Default)]
pub(crate) struct Names {
    names: BTreeMap<u64, Entry>,
    /// When the hierarchy was last read, and how long that took.
    read: Option<(Instant, Duration)>,
}

#[derive(Debug)]
struct Entry {
    /// None if it was not found.
    name: Option<CgroupName>,
    /// When it was last asked for.
    asked: Instant,
}

impl Names {
    /// How long a name is kept that nobody asks for.
    const KEPT: Duration = Duration::from_secs(60);

    /// Reading the hierarchy takes at most this part of the time.
    const SHARE: u32 = 100;

    /// Finds the names of `ids`, and forgets those that were not asked for.
    pub(crate) fn resolve(&mut self, ids: impl IntoIterator<Item = u64>) {
        let now = Instant::now();
        let mut unknown = Vec::new();
        for id in ids {
            match self.names.get_mut(&id) {
                Some(entry) => entry.asked = now,
                None => unknown.push(id),
            }
        }
        let is_kept = |entry: &Entry| now.saturating_duration_since(entry.asked) < Self::KEPT;
        self.names.retain(|_, entry| is_kept(entry));
        let is_due = self
            .read
            .is_none_or(|(read, took)| read.elapsed() >= took * Self::SHARE);
        if !is_due || unknown.is_empty() {
            return;
        }
        let found = cgroups::names();
        self.read = Some((Instant::now(), now.elapsed()));
        let Ok(mut found) = found else { return };
        for id in unknown {
            // Not moved: the kernel has no way to.
            let name = found.remove(&id);
            self.names.insert(id, Entry { name, asked: now });
        }
    }

    /// What a cgroup is called, as far as it is known.
    pub(crate) fn get(&self, id: u64) -> CgroupName {
        let entry = self.names.get(&id);
        entry
            .and_then(|entry| entry.name.clone())
            .unwrap_or_default()
    }

    /// Its systemd unit, as far as it is known.
    pub(crate) fn unit(&self, id: u64) -> Option<String> {
        self.names.get(&id)?.name.as_ref()?.unit.clone()
    }
}
