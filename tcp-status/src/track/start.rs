//! From what the user wants and the host offers to something that answers.

use std::{fs, sync::Arc, thread};

use nix::sys::resource::{Resource, getrlimit};

use super::{
    answers::accept_latency,
    audit::auditor::Auditor,
    history::sampler::Sampler,
    resources::memory,
    scan::{NO_ACCEPT_LATENCY, Scan},
    start_error::StartError,
    tracker::{Settings, Tracker},
};
use crate::{
    kernel::{
        facts::Facts,
        layout::VMLINUX_BTF,
        netns,
        plan::{Backend, BackendPlan, BackendUnavailable, REQUESTED},
    },
    privilege,
    serve::Source,
};

/// What answers, and what keeps it right. Ends when dropped.
pub struct Running {
    /// Answers queries.
    pub source: Arc<dyn Source>,
    _threads: Option<(Auditor, Sampler)>,
}

/// Starts the best backend that the host allows and `backend` admits. Falling to the scan is
/// logged as a warning, once, with cause and cure.
///
/// # Errors
/// [`StartError`], if `backend` demands eBPF and it cannot be had.
pub fn start(backend: Backend, settings: Settings) -> Result<Running, StartError> {
    memory::limit_arenas();
    memory::disable_huge_pages();
    let running = start_backend(backend, settings);
    memory::release_heap();
    running
}

fn start_backend(backend: Backend, settings: Settings) -> Result<Running, StartError> {
    // Nothing can be counted without procfs, by whatever backend.
    netns::own().map_err(StartError::Netns)?;
    if backend == Backend::Scan {
        // Nothing that the host offers matters, and reading the kernel's types takes a while.
        return Ok(scan(backend, REQUESTED.into(), &settings));
    }
    if let Some(reason) = address_space_shortage() {
        return match backend {
            Backend::Auto => Ok(scan(backend, reason, &settings)),
            _ => Err(BackendUnavailable(reason).into()),
        };
    }
    let (facts, btf) = Facts::probe();
    let plan = match (BackendPlan::from_facts(&facts, backend)?, btf) {
        (BackendPlan::Ebpf(plan), Some(btf)) => Tracker::start(plan, &btf, settings),
        (BackendPlan::Ebpf(_), None) => {
            unreachable!("a plan for eBPF is made from types that were read")
        }
        (BackendPlan::Scan { reason }, _) => return Ok(scan(backend, reason, &settings)),
    };
    match plan {
        Ok(tracker) => {
            let tracker = Arc::new(tracker);
            // The one thread that keeps the privilege to attach, until it has.
            if tracker.hooks.are_pending() {
                let attaching = Arc::clone(&tracker);
                thread::Builder::new()
                    .name("attach".into())
                    .spawn(move || attaching.attach_pending())
                    .map_err(StartError::Thread)?;
            }
            // Before the other threads start: each has what its creator has.
            privilege::drop_unneeded_capabilities();
            let auditor = Auditor::spawn(Arc::clone(&tracker)).map_err(StartError::Thread)?;
            let sampler = Sampler::spawn(Arc::clone(&tracker)).map_err(StartError::Thread)?;
            Ok(Running {
                source: tracker,
                _threads: Some((auditor, sampler)),
            })
        }
        Err(error) if backend == Backend::Auto => Ok(scan(backend, error.to_string(), &settings)),
        Err(error) => Err(error),
    }
}

/// Why this process may not have the memory that reading the kernel's types takes, if so: the
/// allocator ends a process that runs out of it.
fn address_space_shortage() -> Option<String> {
    /// What a tracker has without them.
    const BASE: u64 = 32 << 20;
    let (limit, _) = getrlimit(Resource::RLIMIT_AS).ok()?;
    let needed = BASE + 16 * fs::metadata(VMLINUX_BTF).ok()?.len();
    (limit < needed).then(|| {
        format!(
            "the address space is limited to {} MiB, reading the kernel's types takes up to {} MiB; \
             raise the limit (ulimit -v, LimitAS=)",
            limit >> 20,
            needed >> 20
        )
    })
}

fn scan(backend: Backend, reason: String, settings: &Settings) -> Running {
    if backend == Backend::Auto {
        log::warn!(reason = reason.as_str(); "eBPF unavailable: every query scans all sockets");
    }
    if settings.accept_latency {
        accept_latency::warn(format!("{NO_ACCEPT_LATENCY}: {reason}"));
    }
    Running {
        source: Arc::new(Scan::new(reason, settings.pace.share_on_demand())),
        _threads: None,
    }
}
