//! The start of a tracker: loads the programs, attaches them and seeds the first bank.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, OnceLock, RwLock},
    time::{Duration, Instant},
};

use aya::Btf;
use tcp_status_common::{control::Mode, counters::OWN_NETNS};

use super::seeding::{self, Live};
use crate::{
    bpf::{Bpf, BpfError, Scope},
    kernel::{
        netns,
        plan::{EbpfPlan, SeedMethod},
        procfs,
        quiesce::quiesce,
        sock_diag,
    },
    track::{
        answers::accept_latency::AcceptMeter,
        audit::state::{AuditState, SKIPPED},
        gauge::Gauges,
        minisockets::{split_caches::SplitCaches, timewait_hooks::TimewaitHooks},
        resources::{cpu_time::CpuTimer, sync::POISONED},
        scan::Scan,
        start_error::StartError,
        tracker::{Settings, Tracker, attach, copy_mismatch},
    },
};

/// How long the first seeding waits for sockets that were reported before it began: it has nothing
/// to compare with.
const FIRST_SETTLE_TIME: Duration = Duration::from_millis(200);

impl Tracker {
    /// Loads, attaches and seeds. Blocks for about a microsecond per socket that there is.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left in the kernel then.
    pub fn start(
        mut plan: EbpfPlan,
        btf: &Btf,
        mut settings: Settings,
    ) -> Result<Self, StartError> {
        let inode = netns::own().map_err(StartError::Netns)?;
        let iterator = plan.seed == SeedMethod::Iterator;
        if settings.all_namespaces && !iterator {
            log::warn!(
                "counting only the tracker's network namespace: this kernel has no TCP iterator"
            );
            settings.all_namespaces = false;
        }
        plan.layout.all_namespaces = settings.all_namespaces.into();
        if settings.limits.cgroups == 0 {
            plan.layout.counts_cgroups = 0;
            plan.cgroups_reason = Some("switched off by --max-cgroups 0".into());
        }
        let load = |plan: &EbpfPlan| {
            let accept = plan.accept.as_ref().ok().map(|hook| hook.layout);
            let accept = accept.filter(|_| settings.accept_latency);
            Bpf::load(&plan.layout, btf, iterator, inode, settings.limits, accept)
        };
        let (bpf, plan) = match load(&plan) {
            Err(refused @ BpfError::Timewait { .. }) => {
                let plan = plan.reduced(refused.to_string());
                (load(&plan)?, plan)
            }
            loaded => (loaded?, plan),
        };
        let hooks = TimewaitHooks::new(&plan);
        let accept = AcceptMeter::load(&bpf, btf, &plan, settings.accept_latency);
        if !settings.attach_later {
            attach(&bpf, &hooks, &accept);
        }
        hooks.log();
        let tracker = Self {
            bpf,
            hooks,
            accept,
            plan,
            settings,
            inode,
            audit_state: RwLock::new(AuditState::new(Duration::ZERO, 0)),
            splits: SplitCaches::default(),
            samples: Mutex::default(),
            waker: OnceLock::new(),
            netns_entries: RwLock::default(),
            hidden: RwLock::default(),
            inodes: RwLock::default(),
            listed: Mutex::default(),
            inside: Mutex::default(),
            cgroup_names: Default::default(),
            fullest: Mutex::default(),
            scan: Scan::new(
                "counted by a scan: not tracked".into(),
                settings.pace.share_on_demand(),
            ),
        };
        let audit_state = match tracker.plan.seed {
            SeedMethod::Iterator => tracker.seed_by_iterator()?,
            SeedMethod::Procfs => tracker.seed_by_procfs()?,
        };
        *tracker.audit_state_mut() = audit_state;
        let live = tracker.audit_state().live;
        tracker
            .hooks
            .bank_switched(tracker.bpf.counts_timewait(live));
        Ok(tracker)
    }

    fn seed_by_iterator(&self) -> Result<AuditState, StartError> {
        let (started, timer) = (Instant::now(), CpuTimer::start());
        let unregistered = self.bpf.writers().unregistered;
        let targets = self.netns_targets(Scope::All);
        let live = Live {
            own: None,
            others: 0,
        };
        let seeding::SeededBank {
            walks,
            ports,
            netns_entries,
            mut seeding,
        } = seeding::seed_bank(
            &self.bpf,
            &targets,
            live,
            0,
            self.socket_count_estimate(Scope::All)?,
            FIRST_SETTLE_TIME,
        )?;
        seeding.complete(0)?;
        let baseline = copy_mismatch(&self.bpf)?;
        let (elapsed, cost) = (started.elapsed(), timer.spent());
        quiesce();
        drop(seeding);
        let mut audit_state = AuditState::new(cost, baseline);
        audit_state.unregistered = unregistered;
        audit_state.walked_ports = Arc::new(ports);
        *self.netns_entries.write().expect(POISONED) = netns_entries;
        audit_state.sync_namespaces(&walks, &self.live_namespaces()?, self.doubt_unwalked());
        self.flag_incomplete_walk(&mut audit_state)?;
        let skipped = self.may_have_skipped(&self.gauges(OWN_NETNS)?);
        self.cache_audit_split(&walks, skipped, None);
        let sockets: u64 = walks.values().map(|walked| walked.sockets).sum();
        log::info!(sockets, namespaces = walks.len(), milliseconds = elapsed.as_millis(); "seeded");
        Ok(audit_state)
    }

    /// The first walk had nothing to compare with: where it may have passed over sockets, an audit
    /// has to look.
    fn flag_incomplete_walk(&self, audit_state: &mut AuditState) -> Result<(), BpfError> {
        let bank = self
            .bpf
            .read_bank(audit_state.live, audit_state.live_of_others);
        for (netns, netns_state) in audit_state.netns_states_mut() {
            if self.may_have_skipped(&Gauges::of(&bank.counters(netns)?)) {
                netns_state.degraded_reason = Some(SKIPPED.into());
            }
        }
        Ok(())
    }

    /// Events first, so that nothing in between is lost; what is counted twice is for the audit.
    fn seed_by_procfs(&self) -> Result<AuditState, StartError> {
        self.bpf.set_mode(Mode::new(Some(0), None))?;
        let baseline = copy_mismatch(&self.bpf)?;
        let timer = CpuTimer::start();
        let aux = sock_diag::minisockets(&BTreeSet::new())?.all;
        let base = Gauges::full_sockets(&procfs::listing(None)?, &aux);
        let mut audit_state = AuditState::new(timer.spent(), baseline);
        audit_state.own.base = base;
        audit_state.degraded_reason = Some(
            "seeded from procfs, for want of a TCP iterator; \
             the first audit at rest makes it exact"
                .into(),
        );
        Ok(audit_state)
    }
}
