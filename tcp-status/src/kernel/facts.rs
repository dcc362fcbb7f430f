//! What this host offers, as plain data. Probing decides nothing: see [`super::plan`].

use std::{fs, path::Path};

use aya::Btf;

use super::{
    cgroups,
    layout::{KernelTypes, VMLINUX_BTF},
};

/// What is known about the host. `None` is "unknown", never "no".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// As `uname -r` prints it; for messages only.
    pub release: Option<String>,
    /// The kernel's types, or why they cannot be read.
    pub types: Result<KernelTypes, String>,
    /// Effective capabilities of this process.
    pub capabilities: Option<Capabilities>,
    /// The kernel's lockdown mode, where it has one.
    pub lockdown: Option<String>,
    /// Whether a cgroup2 hierarchy is mounted, or why that is not known or not so.
    pub cgroup2: Result<(), String>,
}

/// The effective capabilities that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Load programs and maps.
    pub bpf: bool,
    /// Read kernel memory from programs.
    pub perfmon: bool,
    /// Both, before kernel 5.8; enter other namespaces.
    pub sys_admin: bool,
}

impl Capabilities {
    /// From the mask that `/proc/PID/status` shows as `CapEff`.
    #[must_use]
    pub fn from_mask(mask: u64) -> Self {
        const SYS_ADMIN: u32 = 21;
        const PERFMON: u32 = 38;
        const BPF: u32 = 39;
        let has = |bit: u32| mask >> bit & 1 == 1;
        Self {
            bpf: has(BPF),
            perfmon: has(PERFMON),
            sys_admin: has(SYS_ADMIN),
        }
    }

    /// Which capabilities are missing to load tracing programs.
    #[must_use]
    pub const fn missing(self) -> &'static [&'static str] {
        match (self.sys_admin, self.bpf, self.perfmon) {
            (true, _, _) | (_, true, true) => &[],
            (_, true, false) => &["CAP_PERFMON"],
            (_, false, true) => &["CAP_BPF"],
            (_, false, false) => &["CAP_BPF", "CAP_PERFMON"],
        }
    }
}

impl Facts {
    /// Looks at the host. The types that were parsed on the way come along, since loading
    /// programs needs them again.
    #[must_use]
    pub fn probe() -> (Self, Option<Btf>) {
        let (types, btf) = match KernelTypes::read(Path::new(VMLINUX_BTF)) {
            Ok((types, btf)) => (Ok(types), Some(btf)),
            Err(error) => (Err(error.to_string()), None),
        };
        let facts = Self {
            release: line("/proc/sys/kernel/osrelease"),
            types,
            capabilities: fs::read_to_string("/proc/thread-self/status")
                .ok()
                .and_then(|status| effective(&status)),
            lockdown: line("/sys/kernel/security/lockdown").and_then(|modes| selected(&modes)),
            cgroup2: cgroups::probe().map_err(|error| error.to_string()),
        };
        (facts, btf)
    }
}

fn line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}

/// The `CapEff` line of `/proc/PID/status`.
fn effective(status: &str) -> Option<Capabilities> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16)
        .ok()
        .map(Capabilities::from_mask)
}

/// The bracketed word of `[none] integrity confidentiality`.
fn selected(modes: &str) -> Option<String> {
    let (_, rest) = modes.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// What `/proc` and `/sys` say of this process and of the kernel.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    effective(&text);
    selected(&text);
}

#[cfg(test)]
mod tests {
    use super::{Capabilities, effective, selected};

    #[test]
    fn capabilities_come_from_the_effective_mask() {
        let root = effective("Name:\tx\nCapInh:\t0\nCapEff:\t000001ffffffffff\n").unwrap();
        assert!(root.bpf && root.perfmon && root.sys_admin);
        assert!(root.missing().is_empty());
        let tracer = Capabilities::from_mask(1 << 38 | 1 << 39);
        assert!(tracer.missing().is_empty() && !tracer.sys_admin);
        assert_eq!(Capabilities::from_mask(1 << 39).missing(), ["CAP_PERFMON"]);
        assert_eq!(Capabilities::from_mask(1 << 38).missing(), ["CAP_BPF"]);
        let none = effective("CapEff:\t0000000000000000\n").unwrap();
        assert_eq!(none.missing(), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(effective("CapEff:\tnonsense\n"), None);
        assert_eq!(effective("Name:\tx\n"), None);
    }

    #[test]
    fn lockdown_is_the_bracketed_mode() {
        assert_eq!(
            selected("none [integrity] confidentiality").as_deref(),
            Some("integrity")
        );
        assert_eq!(selected("none"), None);
    }
}
