//! From facts to what will be loaded: a pure function, so that every host can be invented.

use tcp_status_common::kernel_layout::KernelLayout;

use super::{
    accept::AcceptHook,
    facts::{Capabilities, Facts},
};
use crate::snapshot::Tier;

/// What the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The best that works; falling to the scan is a warning.
    #[default]
    Auto,
    /// eBPF or nothing.
    Ebpf,
    /// No eBPF.
    Scan,
}

/// The reason for a scan that was asked for.
pub const REQUESTED: &str = "asked for by --backend scan";

/// Where the first counts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedMethod {
    /// A walk inside the kernel that agrees with the events socket by socket.
    Iterator,
    /// One reading of procfs, corrected by the first audit that finds the host at rest.
    Procfs,
}

/// Where the split of minisockets between TIME_WAIT and FIN_WAIT2 comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitMethod {
    /// Events from birth to end.
    Events,
    /// A filtered walk, when somebody asks.
    Walk,
}

/// What to load and attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EbpfPlan {
    /// For the programs.
    pub layout: KernelLayout,
    /// Where the first counts come from.
    pub seed: SeedMethod,
    /// Whether a walk may pass over sockets of a namespace without listeners.
    pub walk_skips: bool,
    /// Where the split of minisockets comes from.
    pub split: SplitMethod,
    /// Why the tier that follows is not `full`.
    pub reason: Option<String>,
    /// Why sockets are not counted by cgroup.
    pub cgroups_reason: Option<String>,
    /// What measures time in accept queues, or why nothing does.
    pub accept: Result<AcceptHook, String>,
}

impl EbpfPlan {
    /// The tier that this plan gives.
    #[must_use]
    pub const fn tier(&self) -> Tier {
        match self.split {
            SplitMethod::Events => Tier::Full,
            SplitMethod::Walk => Tier::Reduced,
        }
    }

    /// The same without timewait events, which the kernel refused for this `reason`.
    #[must_use]
    pub fn reduced(mut self, reason: String) -> Self {
        self.layout.timewait_events = 0;
        self.split = SplitMethod::Walk;
        self.accept = Err(format!("the tier is reduced: {reason}"));
        self.reason = Some(reason);
        self
    }
}

/// Counting backend.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one, for a moment")]
pub enum BackendPlan {
    /// By events.
    Ebpf(EbpfPlan),
    /// By a dump per query.
    Scan {
        /// Why not by events: cause and cure.
        reason: String,
    },
}

/// eBPF was demanded and cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot load eBPF: {0}")]
pub struct BackendUnavailable(pub String);

impl BackendPlan {
    /// The best plan that `facts` allow and `backend` admits.
    ///
    /// # Errors
    /// [`BackendUnavailable`] if `backend` demands eBPF and something that it needs is missing.
    pub fn from_facts(facts: &Facts, backend: Backend) -> Result<Self, BackendUnavailable> {
        match (backend, ebpf(facts)) {
            (Backend::Scan, _) => Ok(Self::Scan {
                reason: REQUESTED.into(),
            }),
            (_, Ok(plan)) => Ok(Self::Ebpf(plan)),
            (Backend::Auto, Err(reason)) => Ok(Self::Scan { reason }),
            (Backend::Ebpf, Err(reason)) => Err(BackendUnavailable(reason)),
        }
    }
}

/// What events need; the error is cause and cure.
fn ebpf(facts: &Facts) -> Result<EbpfPlan, String> {
    if let Some(missing @ [_, ..]) = facts.capabilities.map(Capabilities::missing) {
        let missing = missing.join(" and ");
        return Err(format!(
            "no privilege to load eBPF, {missing} missing; run as root or with {missing}"
        ));
    }
    if facts.lockdown.as_deref() == Some("confidentiality") {
        return Err(
            "kernel lockdown is in confidentiality mode, which forbids tracing; \
                    boot with lockdown=integrity or none"
                .into(),
        );
    }
    let types = facts.types.as_ref().map_err(Clone::clone)?;
    let newer = "use kernel 5.10 or newer";
    if !types.tracepoint {
        return Err(format!(
            "the kernel has no tracepoint inet_sock_set_state; {newer}"
        ));
    }
    let mut layout = types
        .layout
        .clone()
        .map_err(|missing| format!("{missing}; {newer}"))?;
    // A kernel without this helper never skips a program, so that one copy sees everything.
    layout.two_copies = types.current_task_btf.into();
    layout.timewait_events = 1;
    let cgroups_reason = cgroups_reason(facts, &layout, types.tcp_iterator);
    layout.counts_cgroups = cgroups_reason.is_none().into();
    let plan = EbpfPlan {
        layout,
        seed: SeedMethod::Iterator,
        walk_skips: types.tcp_iterator_skips,
        split: SplitMethod::Events,
        reason: None,
        cgroups_reason,
        accept: types.accept.clone(),
    };
    if !types.tcp_iterator {
        let reason = "the kernel has no TCP iterator, which timewait events need for their seed";
        let reduced = plan.reduced(format!("{reason}; use kernel 5.9 or newer"));
        return Ok(EbpfPlan {
            seed: SeedMethod::Procfs,
            ..reduced
        });
    }
    if !types.missing_timewait_hooks.is_empty() {
        let missing = types.missing_timewait_hooks.join(", ");
        return Ok(plan.reduced(format!("the kernel has no function {missing} to attach to")));
    }
    Ok(plan)
}

/// Why sockets cannot be counted by cgroup: cause and cure.
fn cgroups_reason(facts: &Facts, layout: &KernelLayout, iterator: bool) -> Option<String> {
    if let Err(error) = &facts.cgroup2 {
        return Some(format!("{error}; mount cgroup2 at /sys/fs/cgroup"));
    }
    if layout.sk_cgrp_data == 0 {
        let why = "the kernel does not store the cgroup of a socket";
        return Some(format!("{why}; use one with CONFIG_SOCK_CGROUP_DATA=y"));
    }
    (!iterator).then(|| "the kernel has no TCP iterator; use kernel 5.9 or newer".into())
}

#[cfg(test)]
mod tests {
    use tcp_status_common::kernel_layout::KernelLayout;

    use super::{Backend, BackendPlan, EbpfPlan, Facts, SeedMethod};
    use crate::kernel::{facts::Capabilities, layout::KernelTypes};
    use crate::snapshot::Tier;

    fn good() -> Facts {
        Facts {
            release: Some("6.12.0".into()),
            types: Ok(KernelTypes {
                layout: Ok(KernelLayout {
                    sk_cgrp_data: 8,
                    ..KernelLayout::default()
                }),
                tracepoint: true,
                tcp_iterator: true,
                tcp_iterator_skips: false,
                current_task_btf: true,
                missing_timewait_hooks: Vec::new(),
                accept: Err("no hook".into()),
            }),
            capabilities: Some(Capabilities::from_mask(u64::MAX)),
            lockdown: None,
            cgroup2: Ok(()),
        }
    }

    fn with_types(change: impl FnOnce(&mut KernelTypes)) -> Facts {
        let mut facts = good();
        change(facts.types.as_mut().unwrap());
        facts
    }

    /// What `auto` gives as the reason for the scan; `ebpf` must refuse with the same.
    fn scan_reason(facts: &Facts) -> String {
        let Ok(BackendPlan::Scan { reason }) = BackendPlan::from_facts(facts, Backend::Auto) else {
            panic!("{facts:?} should leave the scan only");
        };
        let refused = BackendPlan::from_facts(facts, Backend::Ebpf).unwrap_err();
        assert!(refused.to_string().ends_with(&reason));
        reason
    }

    #[test]
    fn a_good_host_is_tracked_by_events() {
        for backend in [Backend::Auto, Backend::Ebpf] {
            let Ok(BackendPlan::Ebpf(plan)) = BackendPlan::from_facts(&good(), backend) else {
                panic!("a good host can do eBPF");
            };
            assert_eq!((plan.seed, plan.tier()), (SeedMethod::Iterator, Tier::Full));
            assert_eq!(
                (plan.layout.two_copies, plan.layout.timewait_events),
                (1, 1)
            );
            assert_eq!(plan.reason, None);
        }
    }

    #[test]
    fn scan_is_scan_wherever_it_is_asked_for() {
        let Ok(BackendPlan::Scan { reason }) = BackendPlan::from_facts(&good(), Backend::Scan)
        else {
            panic!("the scan was asked for");
        };
        assert!(reason.contains("--backend scan"));
    }

    #[test]
    fn unknown_is_not_no() {
        let facts = Facts {
            capabilities: None,
            release: None,
            ..good()
        };
        assert!(matches!(
            BackendPlan::from_facts(&facts, Backend::Ebpf),
            Ok(BackendPlan::Ebpf(_))
        ));
    }

    #[test]
    fn each_missing_piece_is_named_with_its_cure() {
        let caps = Facts {
            capabilities: Some(Capabilities::from_mask(1 << 39)),
            ..good()
        };
        let reason = scan_reason(&caps);
        assert!(
            reason.contains("CAP_PERFMON missing") && !reason.contains("CAP_BPF"),
            "{reason}"
        );
        let locked = Facts {
            lockdown: Some("confidentiality".into()),
            ..good()
        };
        assert!(scan_reason(&locked).contains("lockdown"));
        let bare = Facts {
            types: Err("no such file; use a kernel built with CONFIG_DEBUG_INFO_BTF=y".into()),
            ..good()
        };
        assert!(scan_reason(&bare).contains("CONFIG_DEBUG_INFO_BTF"));
        let old = with_types(|types| types.tracepoint = false);
        assert!(scan_reason(&old).contains("inet_sock_set_state"));
        let odd = with_types(|types| types.layout = Err("struct net has no member ns.inum".into()));
        assert!(scan_reason(&odd).contains("ns.inum"));
    }

    fn tracked(facts: &Facts) -> EbpfPlan {
        let Ok(BackendPlan::Ebpf(plan)) = BackendPlan::from_facts(facts, Backend::Auto) else {
            panic!("{facts:?} should be tracked by events");
        };
        plan
    }

    #[test]
    fn without_the_iterator_procfs_seeds() {
        let plan = tracked(&with_types(|types| types.tcp_iterator = false));
        assert_eq!(
            (plan.seed, plan.tier()),
            (SeedMethod::Procfs, Tier::Reduced)
        );
        assert!(plan.reason.unwrap().contains("iterator"));
    }

    #[test]
    fn without_a_timewait_hook_the_tier_is_reduced_and_says_which() {
        let plan = tracked(&with_types(|types| {
            types.missing_timewait_hooks.push("inet_twsk_kill");
        }));
        assert_eq!(
            (plan.tier(), plan.layout.timewait_events),
            (Tier::Reduced, 0)
        );
        assert!(plan.reason.unwrap().contains("inet_twsk_kill"));
    }

    #[test]
    fn a_refused_hook_reduces_the_tier() {
        let plan = tracked(&good()).reduced("fentry refused".into());
        assert_eq!(
            (plan.tier(), plan.layout.timewait_events),
            (Tier::Reduced, 0)
        );
        assert_eq!(
            (plan.seed, plan.layout.two_copies),
            (SeedMethod::Iterator, 1)
        );
    }

    #[test]
    fn without_the_task_one_copy_is_attached() {
        let plan = tracked(&with_types(|types| types.current_task_btf = false));
        assert_eq!((plan.layout.two_copies, plan.tier()), (0, Tier::Full));
    }
}
