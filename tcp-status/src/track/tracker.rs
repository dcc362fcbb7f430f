//! The tracker: programs in the kernel, the books of every namespace that they count, and who may
//! ask what.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use aya::Btf;
use tcp_status_common::{
    control::Mode,
    state::{Family, State},
};

use super::{
    audit_state::AuditState,
    aux_counts::StalenessPolicy,
    cpu_time::CpuTimer,
    gauge::Gauges,
    netns_targets::NetnsTargets,
    query::{FamilyCounts, unavailable},
    recount::SKIPPED,
    sampler::{Samples, Waker},
    scan::Scan,
    schedule::Pace,
    seed::{self, SeedError},
    split_caches::SplitCaches,
    timewait_hooks::TimewaitHooks,
};
use crate::{
    bpf::{Bpf, BpfError, MapLimits},
    kernel::{
        netns::{self, list::NetnsEntry},
        plan::{EbpfPlan, SeedMethod},
        procfs,
        quiesce::quiesce,
        sock_diag,
    },
    serve::{
        Source,
        protocol::{ApiError, Get, Show},
    },
    snapshot::Snapshot,
};
use tcp_status_common::counters::{NetnsId, OWN_NETNS};

/// How long the first seeding waits for sockets that were reported before it began: it has nothing
/// to compare with.
const FIRST_SETTLE_TIME: Duration = Duration::from_millis(200);

/// What the user may set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// When to audit.
    pub pace: Pace,
    /// The shortest time between two walks that split minisockets.
    pub split_interval: Duration,
    /// The shortest time between two samples of the gauges, from which peaks are made.
    pub sample_interval: Duration,
    /// Count every network namespace, not just the own one.
    pub all_namespaces: bool,
    /// How much is kept apart.
    pub limits: MapLimits,
    /// Seed first, and attach the hooks of timewait minisockets in the background, however long
    /// the kernel takes.
    pub attach_later: bool,
}

/// The tracker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// The kernel refused a program or a map.
    #[error(transparent)]
    Load(#[from] BpfError),
    /// The first counts cannot be had.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The kernel's own tables cannot be read.
    #[error(transparent)]
    Procfs(#[from] procfs::Error),
    /// The kernel's own tables cannot be dumped.
    #[error(transparent)]
    SockDiag(#[from] sock_diag::Error),
    /// The namespace is unknown.
    #[error("cannot read the network namespace of this process: {0}; mount /proc")]
    Netns(std::io::Error),
}

/// Counts network namespaces by events. Dropping it takes everything out of the kernel.
pub struct Tracker {
    pub(super) bpf: Bpf,
    pub(super) plan: EbpfPlan,
    pub(super) hooks: TimewaitHooks,
    pub(super) settings: Settings,
    /// Inode number of the tracker's own namespace.
    pub(super) inode: u32,
    audit_state: RwLock<AuditState>,
    pub(super) splits: SplitCaches,
    pub(super) samples: Mutex<Samples>,
    /// Of the thread that samples, once there is one.
    pub(super) waker: OnceLock<Arc<Waker>>,
    /// The ways to other namespaces that the last walks took.
    pub(super) netns_entries: RwLock<BTreeMap<NetnsId, NetnsEntry>>,
    /// Inode numbers of other namespaces that were there when last looked.
    inodes: RwLock<BTreeMap<NetnsId, u32>>,
    pub(super) scan: Scan,
}

impl Tracker {
    /// Loads, attaches and seeds. Blocks for about a microsecond per socket that there is.
    ///
    /// # Errors
    /// [`TrackerError`]; nothing is left in the kernel then.
    pub fn start(
        mut plan: EbpfPlan,
        btf: &Btf,
        mut settings: Settings,
    ) -> Result<Self, TrackerError> {
        let inode = netns::own().map_err(TrackerError::Netns)?;
        let iterator = plan.seed == SeedMethod::Iterator;
        if settings.all_namespaces && !iterator {
            log::warn!(
                "counting only the tracker's network namespace: this kernel has no TCP iterator"
            );
            settings.all_namespaces = false;
        }
        plan.layout.all_namespaces = settings.all_namespaces.into();
        let (bpf, plan) = match Bpf::load(&plan.layout, btf, iterator, inode, settings.limits) {
            Err(refused @ BpfError::Timewait { .. }) => {
                let plan = plan.reduced(refused.to_string());
                let bpf = Bpf::load(&plan.layout, btf, iterator, inode, settings.limits)?;
                (bpf, plan)
            }
            loaded => (loaded?, plan),
        };
        let hooks = TimewaitHooks::new(&plan);
        if hooks.are_pending() && !settings.attach_later {
            hooks.attach(|| bpf.attach_timewait());
        }
        hooks.log();
        let tracker = Self {
            bpf,
            hooks,
            plan,
            settings,
            inode,
            audit_state: RwLock::new(AuditState::new(Duration::ZERO, 0)),
            splits: SplitCaches::default(),
            samples: Mutex::default(),
            waker: OnceLock::new(),
            netns_entries: RwLock::default(),
            inodes: RwLock::default(),
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

    /// Attaches what [`Settings::attach_later`] has left, if anything; an audit that is held
    /// afterwards makes the tier full. Blocks for as long as the kernel takes.
    pub fn attach_pending(&self) {
        if self.hooks.are_pending() {
            self.hooks.attach(|| self.bpf.attach_timewait());
        }
    }

    pub(super) fn audit_state(&self) -> RwLockReadGuard<'_, AuditState> {
        self.audit_state.read().expect(POISONED)
    }

    pub(super) fn audit_state_mut(&self) -> RwLockWriteGuard<'_, AuditState> {
        self.audit_state.write().expect(POISONED)
    }

    /// Where walks go.
    pub(super) fn netns_targets(&self) -> NetnsTargets {
        if self.settings.all_namespaces {
            NetnsTargets::all(self.inode)
        } else {
            NetnsTargets::own(self.inode)
        }
    }

    /// The inode number of each other namespace that is there and in which anything was counted.
    /// Forgets those that are gone.
    pub(super) fn live_namespaces(&self) -> Result<BTreeMap<NetnsId, u32>, BpfError> {
        if !self.settings.all_namespaces {
            return Ok(BTreeMap::new());
        }
        let live_namespaces = self.bpf.live_namespaces()?;
        let is_living = |netns: &NetnsId| live_namespaces.contains_key(netns);
        self.audit_state_mut()
            .others
            .retain(|netns, _| is_living(netns));
        self.inodes
            .write()
            .expect(POISONED)
            .clone_from(&live_namespaces);
        Ok(live_namespaces)
    }

    /// The inode number of a namespace that is counted; 0 if it is gone.
    pub(super) fn inode(&self, netns: NetnsId) -> u32 {
        if netns == OWN_NETNS {
            return self.inode;
        }
        let inodes = self.inodes.read().expect(POISONED);
        inodes.get(&netns).copied().unwrap_or_default()
    }

    /// Whether ports got a listener since the last walk began.
    pub(super) fn has_unaudited_ports(&self) -> Result<bool, BpfError> {
        let (live, (unregistered, walked)) = self.live_bank_with(|audit_state| {
            (
                audit_state.unregistered,
                Arc::clone(&audit_state.walked_ports),
            )
        });
        Ok(self.bpf.writers()?.unregistered != unregistered
            || !live.port_keys()?.is_subset(&walked))
    }

    fn seed_by_iterator(&self) -> Result<AuditState, TrackerError> {
        let (started, timer) = (Instant::now(), CpuTimer::start());
        let unregistered = self.bpf.writers()?.unregistered;
        let targets = self.netns_targets();
        let seed::SeededBank {
            walks,
            ports,
            netns_entries,
            mut seeding,
        } = seed::seed_bank(
            &self.bpf,
            &targets,
            None,
            0,
            socket_count_estimate(),
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
        audit_state.sync_namespaces(&walks, &self.live_namespaces()?);
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
        let bank = self.bpf.read_bank(audit_state.live);
        for (netns, netns_state) in audit_state.netns_states_mut() {
            if self.may_have_skipped(&Gauges::of(&bank.counters(netns)?)) {
                netns_state.degraded_reason = Some(SKIPPED.into());
            }
        }
        Ok(())
    }

    /// Events first, so that nothing in between is lost; what is counted twice is for the audit.
    fn seed_by_procfs(&self) -> Result<AuditState, TrackerError> {
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

    /// The namespace that a query names, if it is one that is counted.
    fn resolve_tracked(&self, named: Option<&str>) -> Result<Option<NetnsId>, ApiError> {
        let Some(text) = named else {
            return Ok(Some(OWN_NETNS));
        };
        // Held open, so that no other one gets its number meanwhile.
        let target = netns::resolve(text)?;
        if target.inode() == self.inode {
            return Ok(Some(OWN_NETNS));
        }
        let live_namespaces = self.live_namespaces().map_err(unavailable)?;
        let named = live_namespaces
            .iter()
            .find(|(_, inode)| **inode == target.inode());
        let audit_state = self.audit_state();
        let counted = named.filter(|(netns, _)| audit_state.others.contains_key(netns));
        Ok(counted.map(|(&netns, _)| netns))
    }

    /// Whether the counts of a port can be answered for: it was entered before the last walk.
    pub(super) fn is_port_tracked(&self, netns: NetnsId, port: u16) -> bool {
        self.audit_state().walked_ports.contains(&(netns, port))
    }
}

impl Source for Tracker {
    fn get(&self, query: &Get) -> Result<u64, ApiError> {
        let state = query.state()?;
        let families = query.families()?;
        let Some(netns) = self.resolve_tracked(query.netns.as_deref())? else {
            return self.scan.get(query);
        };
        let counts = match query.port {
            None => Some(self.counts(netns, state, StalenessPolicy::Refresh)?),
            Some(port) if self.is_port_tracked(netns, port) => {
                self.port_counts(netns, port, state)?
            }
            Some(_) => None,
        };
        let Some(counts) = counts else {
            return self.scan.get(query);
        };
        Ok(sum(&counts, families, state))
    }

    fn try_get(&self, query: &Get) -> Option<Result<u64, ApiError>> {
        let (state, families) = (query.state().ok()?, query.families().ok()?);
        let own = query.netns.is_none() && query.port.is_none();
        (own && self.needs_no_walk(state)).then(|| {
            let counts = self.counts(OWN_NETNS, state, StalenessPolicy::UseCached)?;
            Ok(sum(&counts, families, state))
        })
    }

    fn show(&self, query: &Show) -> Result<Vec<Snapshot>, ApiError> {
        let window = query.window();
        if query.all_netns {
            return match query.port {
                Some(port) => self.port_snapshots(port, window),
                None => self.snapshots(window),
            };
        }
        let Some(netns) = self.resolve_tracked(query.netns.as_deref())? else {
            return self.scan.show(query);
        };
        match query.port {
            None => Ok(vec![self.snapshot(netns, window)?]),
            Some(port) => Ok(vec![self.one_port(netns, port, window)?]),
        }
    }
}

fn sum(counts: &FamilyCounts, families: &[Family], state: State) -> u64 {
    let of = |family: &Family| counts[family.index()][state];
    families.iter().map(of).sum()
}

/// Why no lock is poisoned.
pub(super) const POISONED: &str = "a panic ends the process";

/// Locks what nobody left half-done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect(POISONED)
}

/// How many sockets there may be to remember. Only a size to begin with: unknown is no error.
pub(super) fn socket_count_estimate() -> u64 {
    let totals = procfs::invariants().unwrap_or_default();
    [totals.allocated, totals.timewait]
        .into_iter()
        .flatten()
        .sum()
}

/// Events that the first copy of the handler was skipped for and the second did not see: constant
/// unless the kernel kept something from both.
pub(super) fn copy_mismatch(bpf: &Bpf) -> Result<i64, BpfError> {
    /// How often it is read again because an event came in between.
    const ATTEMPTS: u32 = 10;
    let mut recovered = bpf.writers()?.recovered;
    let mut copy_mismatch = 0;
    for _ in 0..ATTEMPTS {
        let Ok(skipped) = bpf.skipped() else {
            return Ok(0);
        };
        copy_mismatch = skipped.cast_signed() - recovered.cast_signed();
        let before = std::mem::replace(&mut recovered, bpf.writers()?.recovered);
        if recovered == before {
            break;
        }
    }
    Ok(copy_mismatch)
}
