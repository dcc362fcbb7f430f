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
    answer::Families,
    answer::unavailable,
    beside::Effort,
    cost::Cost,
    gauge::Gauges,
    hooks::Hooks,
    ledger::Ledger,
    places::Places,
    recount::SKIPPED,
    sample::{Bell, Samples},
    scan::Scan,
    schedule::Pace,
    seed::{self, SeedError},
    splits::Splits,
};
use crate::{
    bpf::{Bpf, Limits, LoadError},
    kernel::{
        netns::{self, list::Known},
        plan::{EbpfPlan, SeedMethod},
        procfs,
        quiesce::quiesce,
        sock_diag,
    },
    server::{
        Source,
        protocol::{Get, Refusal, Show},
    },
    snapshot::Snapshot,
};
use tcp_status_common::counters::{NetnsId, OWN_NETNS};

/// How long the first seeding waits for sockets that were reported before it began: it has nothing
/// to compare with.
const FIRST_PATIENCE: Duration = Duration::from_millis(200);

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
    pub limits: Limits,
    /// Seed first, and attach the hooks of timewait minisockets in the background, however long
    /// the kernel takes.
    pub attach_later: bool,
}

/// The tracker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel refused a program or a map.
    #[error(transparent)]
    Load(#[from] LoadError),
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
    pub(super) hooks: Hooks,
    pub(super) settings: Settings,
    /// Inode number of the tracker's own namespace.
    pub(super) inode: u32,
    ledger: RwLock<Ledger>,
    pub(super) splits: Splits,
    pub(super) samples: Mutex<Samples>,
    /// Of the thread that samples, once there is one.
    pub(super) bell: OnceLock<Arc<Bell>>,
    /// The ways to other namespaces that the last walks took.
    pub(super) known: RwLock<BTreeMap<NetnsId, Known>>,
    /// Inode numbers of other namespaces that were there when last looked.
    inodes: RwLock<BTreeMap<NetnsId, u32>>,
    pub(super) scan: Scan,
}

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
                "only the own network namespace is counted: this kernel has no TCP iterator"
            );
            settings.all_namespaces = false;
        }
        plan.host.all_namespaces = settings.all_namespaces.into();
        let (bpf, plan) = match Bpf::load(&plan.host, btf, iterator, inode, settings.limits) {
            Err(refused @ LoadError::Timewait { .. }) => {
                let plan = plan.reduced(refused.to_string());
                let bpf = Bpf::load(&plan.host, btf, iterator, inode, settings.limits)?;
                (bpf, plan)
            }
            loaded => (loaded?, plan),
        };
        let hooks = Hooks::new(&plan);
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
            ledger: RwLock::new(Ledger::new(Duration::ZERO, 0)),
            splits: Splits::default(),
            samples: Mutex::default(),
            bell: OnceLock::new(),
            known: RwLock::default(),
            inodes: RwLock::default(),
            scan: Scan::new(
                "what is not tracked is counted by a scan".into(),
                settings.pace.share_on_demand(),
            ),
        };
        let ledger = match tracker.plan.seed {
            SeedMethod::Iterator => tracker.seed_by_iterator()?,
            SeedMethod::Procfs => tracker.seed_by_procfs()?,
        };
        *tracker.ledger_mut() = ledger;
        let live = tracker.ledger().live;
        tracker.hooks.switched_to(tracker.bpf.counts_timewait(live));
        Ok(tracker)
    }

    /// Attaches what [`Settings::attach_later`] has left, if anything; an audit that is held
    /// afterwards makes the tier full. Blocks for as long as the kernel takes.
    pub fn attach_rest(&self) {
        if self.hooks.are_pending() {
            self.hooks.attach(|| self.bpf.attach_timewait());
        }
    }

    pub(super) fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.ledger.read().expect(POISONED)
    }

    pub(super) fn ledger_mut(&self) -> RwLockWriteGuard<'_, Ledger> {
        self.ledger.write().expect(POISONED)
    }

    /// Where walks go.
    pub(super) fn places(&self) -> Places {
        if self.settings.all_namespaces {
            Places::all(self.inode)
        } else {
            Places::own(self.inode)
        }
    }

    /// The inode number of each other namespace that is there and in which anything was counted.
    /// Forgets those that are gone.
    pub(super) fn living(&self) -> Result<BTreeMap<NetnsId, u32>, LoadError> {
        if !self.settings.all_namespaces {
            return Ok(BTreeMap::new());
        }
        let living = self.bpf.living_namespaces()?;
        let is_living = |netns: &NetnsId| living.contains_key(netns);
        self.ledger_mut().others.retain(|netns, _| is_living(netns));
        self.inodes.write().expect(POISONED).clone_from(&living);
        Ok(living)
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
    pub(super) fn has_unwalked_ports(&self) -> Result<bool, LoadError> {
        let (live, (unplaced, walked)) =
            self.live_bank_with(|ledger| (ledger.unplaced, Arc::clone(&ledger.walked_ports)));
        Ok(self.bpf.writers()?.unplaced != unplaced || !live.port_keys()?.is_subset(&walked))
    }

    fn seed_by_iterator(&self) -> Result<Ledger, StartError> {
        let (started, cost) = (Instant::now(), Cost::start());
        let unplaced = self.bpf.writers()?.unplaced;
        let places = self.places();
        let seed::Filled {
            walks,
            ports,
            known,
            mut seeding,
        } = seed::fill(
            &self.bpf,
            &places,
            None,
            0,
            sockets_listed(),
            FIRST_PATIENCE,
        )?;
        seeding.complete(0)?;
        let baseline = disagreement(&self.bpf)?;
        let (elapsed, cost) = (started.elapsed(), cost.spent());
        quiesce();
        drop(seeding);
        let mut ledger = Ledger::new(cost, baseline);
        ledger.unplaced = unplaced;
        ledger.walked_ports = Arc::new(ports);
        *self.known.write().expect(POISONED) = known;
        ledger.meet(&walks, &self.living()?);
        self.doubt_skipped(&mut ledger)?;
        let skipped = self.may_have_skipped(&self.gauges(OWN_NETNS)?);
        self.saw_aside(&walks, skipped, None);
        let sockets: u64 = walks.values().map(|walked| walked.sockets).sum();
        log::info!(sockets, namespaces = walks.len(), milliseconds = elapsed.as_millis(); "seeded");
        Ok(ledger)
    }

    /// The first walk had nothing to compare with: where it may have passed over sockets, an audit
    /// has to look.
    fn doubt_skipped(&self, ledger: &mut Ledger) -> Result<(), LoadError> {
        let bank = self.bpf.read_bank(ledger.live);
        for (netns, book) in ledger.books_mut() {
            if self.may_have_skipped(&Gauges::of(&bank.counters(netns)?)) {
                book.doubt = Some(SKIPPED.into());
            }
        }
        Ok(())
    }

    /// Events first, so that nothing in between is lost; what is counted twice is for the audit.
    fn seed_by_procfs(&self) -> Result<Ledger, StartError> {
        self.bpf.switch(Mode::new(Some(0), None))?;
        let baseline = disagreement(&self.bpf)?;
        let cost = Cost::start();
        let beside = sock_diag::minisockets(&BTreeSet::new())?.all;
        let base = Gauges::full_sockets(&procfs::listing(None)?, &beside);
        let mut ledger = Ledger::new(cost.spent(), baseline);
        ledger.own.base = base;
        ledger.doubt = Some(
            "seeded from procfs, for want of a TCP iterator; \
             the first audit at rest makes it exact"
                .into(),
        );
        Ok(ledger)
    }

    /// The namespace that a query names, if it is one that is counted.
    fn counted(&self, named: Option<&str>) -> Result<Option<NetnsId>, Refusal> {
        let Some(text) = named else {
            return Ok(Some(OWN_NETNS));
        };
        // Held open, so that no other one gets its number meanwhile.
        let target = netns::resolve(text)?;
        if target.inode() == self.inode {
            return Ok(Some(OWN_NETNS));
        }
        let living = self.living().map_err(unavailable)?;
        let named = living.iter().find(|(_, inode)| **inode == target.inode());
        let ledger = self.ledger();
        let counted = named.filter(|(netns, _)| ledger.others.contains_key(netns));
        Ok(counted.map(|(&netns, _)| netns))
    }

    /// Whether the counts of a port can be answered for: it was entered before the last walk.
    pub(super) fn is_walked(&self, netns: NetnsId, port: u16) -> bool {
        self.ledger().walked_ports.contains(&(netns, port))
    }
}

impl Source for Tracker {
    fn get(&self, query: &Get) -> Result<u64, Refusal> {
        let state = query.state()?;
        let families = query.families()?;
        let Some(netns) = self.counted(query.netns.as_deref())? else {
            return self.scan.get(query);
        };
        let counts = match query.port {
            None => Some(self.counts(netns, state, Effort::Walk)?),
            Some(port) if self.is_walked(netns, port) => self.port_counts(netns, port, state)?,
            Some(_) => None,
        };
        let Some(counts) = counts else {
            return self.scan.get(query);
        };
        Ok(sum(&counts, families, state))
    }

    fn get_at_once(&self, query: &Get) -> Option<Result<u64, Refusal>> {
        let (state, families) = (query.state().ok()?, query.families().ok()?);
        let own = query.netns.is_none() && query.port.is_none();
        (own && self.is_walk_needless(state)).then(|| {
            let counts = self.counts(OWN_NETNS, state, Effort::Last)?;
            Ok(sum(&counts, families, state))
        })
    }

    fn show(&self, query: &Show) -> Result<Vec<Snapshot>, Refusal> {
        let window = query.window();
        if query.all_netns {
            return match query.port {
                Some(port) => self.port_snapshots(port, window),
                None => self.snapshots(window),
            };
        }
        let Some(netns) = self.counted(query.netns.as_deref())? else {
            return self.scan.show(query);
        };
        match query.port {
            None => Ok(vec![self.snapshot(netns, window)?]),
            Some(port) => Ok(vec![self.one_port(netns, port, window)?]),
        }
    }
}

fn sum(counts: &Families, families: &[Family], state: State) -> u64 {
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
pub(super) fn sockets_listed() -> u64 {
    let totals = procfs::invariants().unwrap_or_default();
    [totals.allocated, totals.timewait]
        .into_iter()
        .flatten()
        .sum()
}

/// Events that the first copy of the handler was skipped for and the second did not see: constant
/// unless the kernel kept something from both.
pub(super) fn disagreement(bpf: &Bpf) -> Result<i64, LoadError> {
    /// How often it is read again because an event came in between.
    const ATTEMPTS: u32 = 10;
    let mut caught = bpf.writers()?.caught;
    let mut disagreement = 0;
    for _ in 0..ATTEMPTS {
        let Ok(skipped) = bpf.skipped() else {
            return Ok(0);
        };
        disagreement = skipped.cast_signed() - caught.cast_signed();
        let before = std::mem::replace(&mut caught, bpf.writers()?.caught);
        if caught == before {
            break;
        }
    }
    Ok(disagreement)
}
