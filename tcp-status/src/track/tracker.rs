//! The tracker: what is known about one network namespace, and the answers made from it.

use std::{
    sync::{Mutex, PoisonError, RwLock, RwLockWriteGuard},
    time::{Duration, Instant},
};

use aya::Btf;
use tcp_status_common::{
    control::Mode,
    counters::Walked,
    state::{Family, State},
};

use super::{
    assemble::{Beside, assemble},
    cost::Cost,
    gauge::{self, Gauges},
    ledger::Ledger,
    scan::Scan,
    schedule::Pace,
    seed::{self, SeedError},
    split::{Split, SplitCache},
};
use crate::{
    bpf::{Banks, Bpf, LoadError},
    kernel::{
        netns,
        plan::{EbpfPlan, SeedMethod, SplitMethod},
        procfs,
        quiesce::quiesce,
        sock_diag::{self, MiniSplit},
    },
    server::{
        Source,
        protocol::{Get, Refusal, RefusalKind, Show},
    },
    snapshot::{Events, Snapshot, Transitions},
};

/// For how long the first seeding looks for sockets that were reported before it: there is no
/// earlier count to tell that one is missing, and a host that boots is busy.
const FIRST_PATIENCE: Duration = Duration::from_millis(200);

/// What the user may set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// When to audit.
    pub pace: Pace,
    /// The shortest time between two walks that split minisockets.
    pub split_interval: Duration,
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
    #[error("read network namespace, on this process: {0}; mount /proc")]
    Netns(std::io::Error),
}

/// Counts one network namespace by events. Dropping it takes everything out of the kernel.
pub struct Tracker {
    pub(super) bpf: Bpf,
    pub(super) plan: EbpfPlan,
    pub(super) settings: Settings,
    ledger: RwLock<Ledger>,
    split: Mutex<SplitCache>,
    netns: u32,
    scan: Scan,
}

/// The live bank, read once.
pub(super) struct Reading {
    pub(super) gauges: Gauges,
    /// Flows since start, of all banks there were.
    pub(super) flows: Banks,
}

impl Tracker {
    /// Loads, attaches and seeds. Blocks for about a microsecond per socket that there is.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left in the kernel then.
    pub fn start(plan: EbpfPlan, btf: &Btf, settings: Settings) -> Result<Self, StartError> {
        let netns = netns::own().map_err(StartError::Netns)?;
        let iterator = plan.seed == SeedMethod::Iterator;
        let (bpf, plan) = match Bpf::load(&plan.host, btf, iterator, netns) {
            Err(refused @ LoadError::Timewait { .. }) => {
                let plan = plan.reduced(refused.to_string());
                (Bpf::load(&plan.host, btf, iterator, netns)?, plan)
            }
            loaded => (loaded?, plan),
        };
        log::info!(tier = plan.tier().name(), reason = plan.reason.as_deref(); "attached");
        let ledger = match plan.seed {
            SeedMethod::Iterator => seed_by_iterator(&bpf)?,
            SeedMethod::Procfs => seed_by_procfs(&bpf)?,
        };
        Ok(Self {
            bpf,
            plan,
            settings,
            ledger: RwLock::new(ledger),
            split: Mutex::new(SplitCache::default()),
            netns,
            scan: Scan::new("ports and other namespaces are counted by a scan".into()),
        })
    }

    pub(super) fn ledger_mut(&self) -> RwLockWriteGuard<'_, Ledger> {
        self.ledger.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self) -> Result<Reading, LoadError> {
        let ledger = self.ledger.read().unwrap_or_else(PoisonError::into_inner);
        let bank = self.bpf.bank(ledger.live)?;
        Ok(Reading {
            gauges: Gauges::of(&bank) + ledger.base,
            flows: bank.plus_flows(&ledger.retired),
        })
    }

    /// What is beside the full sockets, as far as `wanted` needs it.
    fn beside(&self, gauges: &Gauges, wanted: &[State]) -> Result<Beside, Refusal> {
        let half_open = wanted.contains(&State::SynRecv);
        let closing = wanted.contains(&State::TimeWait) || wanted.contains(&State::FinWait2);
        let mut beside = Beside::default();
        if half_open {
            beside.requests = self.requests(gauges)?;
        }
        if closing {
            beside.minisockets = minisocket_count()?;
        }
        let events = self.plan.split == SplitMethod::Events;
        if events {
            [beside.timewait, beside.finwait2] = gauges.minisockets();
        }
        let abandoned = self.bpf.writers().map_err(unavailable)?.abandoned;
        let mut cache = self.split.lock().unwrap_or_else(PoisonError::into_inner);
        let unsplit = !events && beside.minisockets > 0;
        let orphans = half_open && cache.may_have_orphans(abandoned);
        if unsplit || orphans {
            // A walk that somebody waits for may cost as much as an audit that has a reason.
            let pace = self.settings.pace.urgent(cache.cost());
            if cache.is_older_than(self.settings.split_interval.max(pace)) {
                self.look_aside(&mut cache, gauges, abandoned)?;
            }
            let split = cache.last();
            if unsplit {
                (beside.finwait2, beside.timewait) = (split.finwait2, split.timewait);
            }
            if half_open {
                beside.orphaned = split.orphaned;
            }
        }
        Ok(beside)
    }

    /// Walks over everything but full sockets.
    fn look_aside(
        &self,
        cache: &mut SplitCache,
        gauges: &Gauges,
        abandoned: u64,
    ) -> Result<(), Refusal> {
        let cost = Cost::start();
        let walk = match sock_diag::minisockets() {
            // A kernel without the module; the iterator needs four times as long.
            Err(sock_diag::Error::Unsupported(_)) if self.plan.seed == SeedMethod::Iterator => {
                aside(&self.bpf.walk_sockets().map_err(unavailable)?)
            }
            walk => walk.map_err(unavailable)?,
        };
        let split = Split::new(&walk, self.requests(gauges)?);
        cache.put(split, abandoned, cost.spent());
        Ok(())
    }

    /// Keeps what an audit's walk met beside full sockets.
    pub(super) fn saw_aside(&self, walked: &Walked) -> Result<(), LoadError> {
        let walk = aside(walked);
        let abandoned = self.bpf.writers()?.abandoned;
        let at_listeners = self
            .bpf
            .walk_listeners(listeners(&self.read()?.gauges))?
            .requests;
        let mut cache = self.split.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = cache.cost();
        cache.put(Split::new(&walk, at_listeners), abandoned, cost);
        Ok(())
    }

    /// Request sockets at listeners, by family.
    fn requests(&self, gauges: &Gauges) -> Result<[u64; Family::COUNT], Refusal> {
        match self.plan.seed {
            SeedMethod::Iterator => {
                let listeners = u64::try_from(gauges.sum(&[State::Listen])).unwrap_or(0);
                Ok(self
                    .bpf
                    .walk_listeners(listeners)
                    .map_err(unavailable)?
                    .requests)
            }
            SeedMethod::Procfs => Ok(sock_diag::minisockets().map_err(unavailable)?.requests),
        }
    }

    fn snapshot(&self) -> Result<Snapshot, Refusal> {
        let reading = self.read().map_err(unavailable)?;
        let counts = assemble(&reading.gauges, &self.beside(&reading.gauges, &State::ALL)?);
        let writers = self.bpf.writers().map_err(unavailable)?;
        let ledger = self.ledger.read().unwrap_or_else(PoisonError::into_inner);
        Ok(Snapshot {
            tier_reason: self.plan.reason.clone(),
            degraded: ledger.degraded(&reading.gauges),
            transitions: Transitions::from_flows(&gauge::flows(&reading.flows)),
            events: Events {
                counted: writers.counted,
                missed: ledger.missed,
            },
            drift: ledger.drift(),
            ..Snapshot::of(self.plan.tier(), self.netns, counts)
        })
    }

    /// Whether the namespace that a query names is the one that is counted.
    fn is_own(&self, named: Option<&str>) -> Result<bool, Refusal> {
        match named {
            None => Ok(true),
            Some(text) => Ok(netns::resolve(text)?.inode() == self.netns),
        }
    }
}

impl Source for Tracker {
    fn get(&self, query: &Get) -> Result<u64, Refusal> {
        let state = query.state()?;
        let families = query.families()?;
        if query.port.is_some() || !self.is_own(query.netns.as_deref())? {
            return self.scan.get(query);
        }
        let reading = self.read().map_err(unavailable)?;
        let counts = assemble(&reading.gauges, &self.beside(&reading.gauges, &[state])?);
        Ok(families
            .iter()
            .map(|family| counts[family.index()][state])
            .sum())
    }

    fn show(&self, query: &Show) -> Result<Vec<Snapshot>, Refusal> {
        if query.port.is_some() || !self.is_own(query.netns.as_deref())? {
            return self.scan.show(query);
        }
        Ok(vec![self.snapshot()?])
    }
}

fn seed_by_iterator(bpf: &Bpf) -> Result<Ledger, StartError> {
    let (started, cost) = (Instant::now(), Cost::start());
    let walked = seed::fill(bpf, None, 0, sockets_listed(), FIRST_PATIENCE)?;
    bpf.switch(Mode::new(Some(0), None))?;
    let baseline = disagreement(bpf)?;
    let (elapsed, cost) = (started.elapsed(), cost.spent());
    quiesce();
    bpf.remember(0)?;
    log::info!(sockets = walked.sockets, milliseconds = elapsed.as_millis(); "seeded");
    Ok(Ledger::new(cost, baseline))
}

/// Events first, so that nothing in between is lost; what is counted twice is for the audit.
fn seed_by_procfs(bpf: &Bpf) -> Result<Ledger, StartError> {
    bpf.switch(Mode::new(Some(0), None))?;
    let baseline = disagreement(bpf)?;
    let cost = Cost::start();
    let base = Gauges::full_sockets(&procfs::listing(None)?, &sock_diag::minisockets()?);
    let mut ledger = Ledger::new(cost.spent(), baseline);
    ledger.base = base;
    ledger.doubt = Some(
        "seeded from procfs, for want of a TCP iterator; the first audit at rest makes it exact"
            .into(),
    );
    Ok(ledger)
}

/// How many sockets there may be to remember. Only a size to begin with: unknown is no error.
pub(super) fn sockets_listed() -> u64 {
    let totals = procfs::invariants().unwrap_or_default();
    [totals.inuse_v4, totals.inuse_v6, totals.timewait]
        .into_iter()
        .flatten()
        .sum()
}

/// Events that the first copy of the handler was skipped for and the second did not see: constant
/// unless the kernel kept something from both.
pub(super) fn disagreement(bpf: &Bpf) -> Result<i64, LoadError> {
    // In this order: the second copy sees an event after it was skipped for the first.
    let second = bpf.writers()?.second;
    let skipped = bpf.skipped().unwrap_or(second);
    Ok(skipped.cast_signed() - second.cast_signed())
}

/// What a walk met beside full sockets.
const fn aside(walked: &Walked) -> MiniSplit {
    MiniSplit {
        finwait2: walked.finwait2,
        timewait: walked.timewait,
        requests: walked.requests,
    }
}

fn listeners(gauges: &Gauges) -> u64 {
    Family::ALL
        .into_iter()
        .map(|family| gauges.get(family, State::Listen))
        .sum()
}

/// The kernel's own count of timewait minisockets.
fn minisocket_count() -> Result<u64, Refusal> {
    procfs::invariants()
        .map_err(unavailable)?
        .timewait
        .ok_or_else(|| {
            unavailable("read timewait count, on /proc/net/sockstat: no tw field; mount /proc")
        })
}

fn unavailable(why: impl std::fmt::Display) -> Refusal {
    Refusal {
        kind: RefusalKind::Unavailable,
        message: why.to_string(),
    }
}
