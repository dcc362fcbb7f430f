//! The names of cgroups that have sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use crate::{
    kernel::cgroups,
    snapshot::CgroupName,
    track::resources::{cpu_time::CpuTimer, sync::lock},
};

/// What cgroups are called: those that have sockets keep their names when they are removed.
#[derive(Debug, Default)]
pub(crate) struct Names {
    table: Mutex<Table>,
    /// Who reads the hierarchy holds it; nobody else waits for that.
    reader: Mutex<Reader>,
}

impl Names {
    /// Finds the names of `ids` if that is cheap by now, and forgets those that were not asked for.
    pub(crate) fn resolve(&self, ids: impl IntoIterator<Item = u64>) {
        let unknown = lock(&self.table).unknown(ids);
        if unknown.is_empty() {
            return;
        }
        if let Ok(mut reader) = self.reader.try_lock()
            && reader.wait(Reader::SHARE) == Duration::ZERO
            && let Ok(found) = reader.read()
        {
            self.enter(unknown, found);
        }
    }

    /// As [`Self::resolve`], however long it takes: who asks for a cgroup by name would take one whose name
    /// was not read yet for one without sockets.
    ///
    /// # Errors
    /// If the hierarchy cannot be read.
    pub(crate) fn resolve_now(&self, ids: impl IntoIterator<Item = u64>) -> io::Result<()> {
        let unknown = lock(&self.table).unknown(ids);
        if unknown.is_empty() {
            return Ok(());
        }
        let mut reader = lock(&self.reader);
        // Another one may have read them meanwhile.
        let unknown = lock(&self.table).unknown(unknown);
        if !unknown.is_empty() {
            self.enter(unknown, reader.read_in_turn()?);
        }
        Ok(())
    }

    /// Whether there is a cgroup of this name at all, with or without sockets.
    ///
    /// # Errors
    /// If the hierarchy cannot be read.
    pub(crate) fn exists(&self, named: &str) -> io::Result<bool> {
        let names = lock(&self.reader).read_in_turn()?;
        Ok(names.values().any(|name| name.is_named(named)))
    }

    /// What a cgroup is called, as far as it is known.
    pub(crate) fn get(&self, id: u64) -> CgroupName {
        let table = lock(&self.table);
        let entry = table.0.get(&id);
        entry
            .and_then(|entry| entry.name.clone())
            .unwrap_or_default()
    }

    fn enter(&self, unknown: BTreeSet<u64>, mut found: BTreeMap<u64, CgroupName>) {
        let asked = Instant::now();
        let mut table = lock(&self.table);
        for id in unknown {
            // Not moved: the kernel has no way to.
            let name = found.remove(&id);
            table.0.entry(id).or_insert(Entry { name, asked });
        }
    }
}

#[derive(Debug, Default)]
struct Table(BTreeMap<u64, Entry>);

#[derive(Debug)]
struct Entry {
    /// None if it was not found.
    name: Option<CgroupName>,
    /// When it was last asked for.
    asked: Instant,
}

impl Table {
    /// How long a name is kept that nobody asks for.
    const KEPT: Duration = Duration::from_secs(60);

    /// Those of `ids`, which may repeat, that were not looked for yet; the others are kept on.
    fn unknown(&mut self, ids: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
        let now = Instant::now();
        let mut unknown = BTreeSet::new();
        for id in ids {
            match self.0.get_mut(&id) {
                Some(entry) => entry.asked = now,
                None => drop(unknown.insert(id)),
            }
        }
        let is_kept = |entry: &Entry| now.saturating_duration_since(entry.asked) < Self::KEPT;
        self.0.retain(|_, entry| is_kept(entry));
        unknown
    }
}

/// Reads the whole hierarchy, which costs the more the more cgroups there are.
#[derive(Debug, Default)]
struct Reader {
    /// When it was last read, and the processor time that this cost.
    last: Option<(Instant, Duration)>,
}

impl Reader {
    /// Reading for names that nobody waits for takes at most this part of a processor.
    const SHARE: u32 = 100;

    /// The same of readings that somebody waits for, whoever asks and however often.
    const SHARE_IN_TURN: u32 = 10;

    /// How long it is until the next reading may begin, where readings have a part of a processor.
    fn wait(&self, share: u32) -> Duration {
        self.last.map_or(Duration::ZERO, |(read, cost)| {
            (cost * share).saturating_sub(read.elapsed())
        })
    }

    fn read_in_turn(&mut self) -> io::Result<BTreeMap<u64, CgroupName>> {
        thread::sleep(self.wait(Self::SHARE_IN_TURN));
        self.read()
    }

    fn read(&mut self) -> io::Result<BTreeMap<u64, CgroupName>> {
        let cost = CpuTimer::start();
        let found = cgroups::names();
        self.last = Some((Instant::now(), cost.spent()));
        found
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Mutex,
        time::{Duration, Instant},
    };

    use super::{Names, Reader};
    use crate::{kernel::cgroups, snapshot::CgroupName};

    fn root() -> Option<u64> {
        match cgroups::paths() {
            Ok(paths) => paths
                .into_iter()
                .find_map(|(id, path)| (path == "/").then_some(id)),
            Err(error) => {
                tcp_status_testkit::skip(&error.to_string());
                None
            }
        }
    }

    #[test]
    fn who_asks_by_name_does_not_wait_for_the_next_reading() {
        let Some(root) = root() else { return };
        let names = Names {
            reader: Mutex::new(Reader {
                last: Some((Instant::now(), Duration::from_millis(20))),
            }),
            ..Names::default()
        };
        names.resolve([root]);
        assert_eq!(names.get(root), CgroupName::default());
        let began = Instant::now();
        names.resolve_now([root]).unwrap();
        assert_eq!(names.get(root).path.as_deref(), Some("/"));
        assert!(
            began.elapsed() >= Duration::from_millis(150),
            "its share is a bound"
        );
        assert!(names.exists("/").unwrap() && !names.exists("no.service").unwrap());
    }

    #[test]
    fn a_cgroup_of_several_namespaces_has_its_name() {
        let Some(root) = root() else { return };
        let names = Names::default();
        names.resolve([root, root]);
        assert_eq!(names.get(root).path.as_deref(), Some("/"));
    }
}
