//! The names of cgroups that have sockets.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{kernel::cgroups, snapshot::CgroupName, track::resources::cpu_time::CpuTimer};

/// What cgroups are called: those that have sockets keep their names when they are removed.
#[derive(Debug, Default)]
pub(crate) struct Names {
    names: BTreeMap<u64, Entry>,
    /// When the hierarchy was last read, and the processor time that it cost.
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

    /// Reading the hierarchy for names that nobody waits for takes at most this part of a processor.
    const SHARE: u32 = 100;

    /// Finds the names of `ids` if that is cheap by now, and forgets those that were not asked for.
    pub(crate) fn resolve(&mut self, ids: impl IntoIterator<Item = u64>) {
        let is_due = self
            .read
            .is_none_or(|(read, cost)| read.elapsed() >= cost * Self::SHARE);
        self.find(ids, is_due);
    }

    /// As [`Self::resolve`], at whatever cost: who asks for a cgroup by name would take one whose name was
    /// not read yet for one without sockets.
    pub(crate) fn resolve_now(&mut self, ids: impl IntoIterator<Item = u64>) {
        self.find(ids, true);
    }

    fn find(&mut self, ids: impl IntoIterator<Item = u64>, may_read: bool) {
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
        if !may_read || unknown.is_empty() {
            return;
        }
        let cost = CpuTimer::start();
        let found = cgroups::names();
        self.read = Some((Instant::now(), cost.spent()));
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Names;
    use crate::{kernel::cgroups, snapshot::CgroupName};

    #[test]
    fn who_asks_by_name_does_not_wait_for_the_next_reading() {
        let paths = match cgroups::paths() {
            Ok(paths) => paths,
            Err(error) => return tcp_status_testkit::skip(&error.to_string()),
        };
        let root = paths.iter().find(|(_, path)| *path == "/");
        let root = *root.unwrap().0;
        let mut names = Names {
            read: Some((Instant::now(), Duration::from_secs(3600))),
            ..Names::default()
        };
        names.resolve([root]);
        assert_eq!(names.get(root), CgroupName::default());
        names.resolve_now([root]);
        assert_eq!(names.get(root).path.as_deref(), Some("/"));
    }
}
