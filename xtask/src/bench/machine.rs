//! The machine that was measured on, in one paragraph: without it, no figure means anything.

use std::{fs, path::Path, thread};

use nix::sys::{sysinfo::sysinfo, utsname::uname};

use crate::step::Step;

/// Machine, kernel, load, and the last commit that changed what is measured.
pub(crate) fn describe(root: &Path) -> String {
    let unknown = || "unknown".to_owned();
    let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let model = text.lines().find(|line| line.starts_with("model name"))?;
        Some(model.split_once(':')?.1.trim().to_owned())
    });
    let cpus = thread::available_parallelism().map_or(0, usize::from);
    let kernel = uname().map_or_else(
        |_| unknown(),
        |name| name.release().to_string_lossy().into_owned(),
    );
    let (memory, load) = sysinfo().map_or((0, 0.0), |info| {
        (info.ram_total() >> 30, info.load_average().0)
    });
    let commit = Step::new("git")
        .args(["log", "-1", "--abbrev=12", "--format=%h", "--"])
        .args(["tcp-status", "tcp-status-ebpf", "tcp-status-common"])
        .folder(root)
        .ask()
        .map_or_else(unknown, |text| text.trim().to_owned());
    format!(
        "Commit {commit}; Linux {kernel}; {cpus} CPUs ({}), {} possible; {memory} GiB of memory; \
         load {load:.1} at the start.",
        cpu.unwrap_or_else(unknown),
        possible_cpus().map_or_else(unknown, |count| count.to_string()),
    )
}

/// How many CPUs per-CPU maps are made for.
pub(crate) fn possible_cpus() -> Option<u64> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible").ok()?;
    let last = text.trim().rsplit(['-', ',']).next()?;
    Some(last.parse::<u64>().ok()? + 1)
}
