//! What a process has in the kernel, and whether anything of it is left.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use aya::{maps::loaded_maps, programs::loaded_programs};

/// Programs and maps are freed a while after the last descriptor is closed
/// (`call_rcu_tasks_trace()`), longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How programs of the tracker are called, as far as the kernel keeps names.
const PROGRAMS: [&str; 4] = ["set_state_", "timewait_", "walk_sockets", "walk_listeners"];

/// Identifiers of programs and maps, which are not used again soon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    pub(crate) programs: BTreeSet<u32>,
    pub(crate) maps: BTreeSet<u32>,
}

impl Objects {
    /// What a process has open. One that ends meanwhile has nothing.
    pub(crate) fn of(pid: u32) -> Self {
        let mut objects = Self::default();
        let folder = PathBuf::from("/proc").join(pid.to_string()).join("fdinfo");
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let number = |name: &str| -> Option<u32> {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|line| line.trim().parse().ok())
            };
            objects.programs.extend(number("prog_id:"));
            objects.maps.extend(number("map_id:"));
        }
        objects
    }

    /// All programs with the tracker's names, and the maps that they use.
    pub(crate) fn named() -> Self {
        let mut objects = Self::default();
        for program in loaded_programs().filter_map(Result::ok) {
            let name = program.name_as_str().unwrap_or_default();
            if PROGRAMS.iter().any(|known| name.starts_with(known)) {
                objects.programs.insert(program.id());
                objects
                    .maps
                    .extend(program.map_ids().ok().flatten().unwrap_or_default());
            }
        }
        objects
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.maps.is_empty()
    }

    fn without(&self, others: &Self) -> Self {
        Self {
            programs: &self.programs - &others.programs,
            maps: &self.maps - &others.maps,
        }
    }

    /// Those that the kernel still has.
    fn loaded(&self) -> Self {
        let programs = loaded_programs()
            .filter_map(Result::ok)
            .map(|program| program.id());
        let maps = loaded_maps().filter_map(Result::ok).map(|map| map.id());
        Self {
            programs: programs.filter(|id| self.programs.contains(id)).collect(),
            maps: maps.filter(|id| self.maps.contains(id)).collect(),
        }
    }

    /// Waits until the kernel has none of them any more.
    pub(crate) fn assert_gone(&self, when: &str) {
        eventually(when, || self.loaded());
    }

    /// Waits until the kernel has no more of the tracker's than `before`, but what other processes
    /// have open: other trackers may come and go on this machine.
    pub(crate) fn assert_nothing_new(before: &Self, when: &str) {
        eventually(when, || {
            let new = Self::named().without(before);
            if new.is_empty() {
                new
            } else {
                new.without(&open_anywhere())
            }
        });
    }
}

fn eventually(when: &str, left: impl Fn() -> Objects) {
    let began = Instant::now();
    loop {
        let left = left();
        if left.is_empty() {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{when}: left behind: {left:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// What processes have open, and the maps of those programs. Not those with very many
/// descriptors: these hold sockets.
fn open_anywhere() -> Objects {
    const MANY: usize = 1000;
    let mut open = Objects::default();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if descriptors(&process.path()).is_ok_and(|count| count < MANY) {
            let of = Objects::of(pid);
            open.programs.extend(of.programs);
            open.maps.extend(of.maps);
        }
    }
    for program in loaded_programs().filter_map(Result::ok) {
        if open.programs.contains(&program.id()) {
            open.maps
                .extend(program.map_ids().ok().flatten().unwrap_or_default());
        }
    }
    open
}

fn descriptors(process: &Path) -> io::Result<usize> {
    Ok(fs::read_dir(process.join("fd"))?.take(1000).count())
}
