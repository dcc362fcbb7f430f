//! Counts without eBPF: walks over the kernel's tables on demand, within a share of one core
//! whatever is asked for. Keeps nothing but the latest walks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tcp_status_common::state::State;

use super::{
    answers::queues,
    audit::schedule::Pace,
    resources::{
        budget::Budget,
        cpu_time::{self, CpuTimer},
    },
};
use crate::{
    kernel::{
        netns::{self, Target},
        procfs::{self, Listing, PortListing},
        sock_diag, sysctl,
    },
    serve::{
        Source,
        protocol::{ApiError, ApiErrorKind, Get, Show},
    },
    snapshot::{Counts, Listener, Overflows, PortCounts, Ports, Snapshot, Syncookies, Tier},
};

/// Why there are no counts by cgroup.
const NO_CGROUPS: &str = "connections are counted by cgroup only with eBPF";

/// Why no time in accept queues is measured.
pub(super) const NO_ACCEPT_LATENCY: &str = "accept latency is measured only in tier full";

/// How long a walk answers without another one.
const FRESH: Duration = Duration::from_secs(1);

/// How long a walk answers while there is no processor time for another one.
const USABLE: Duration = Duration::from_secs(60);

/// How many walks are kept.
const MAX_CACHED: usize = 64;

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ScanKey {
    netns: u32,
    port: Option<u16>,
}

/// Answers from a dump of the kernel's tables.
#[derive(Debug)]
pub struct Scan {
    reason: String,
    share: f64,
    budget: Mutex<Budget>,
    walks: Mutex<WalkCache>,
    /// Held during a walk: the next one waits, and may find its answer then.
    walking: Mutex<()>,
    fell_back: AtomicBool,
}

impl Scan {
    /// Walks nothing yet. `reason` is why there is no better tier, `share` the part of one core that
    /// walks may take.
    #[must_use]
    pub fn new(reason: String, share: f64) -> Self {
        let budget = Budget::new(share, Pace::SAVED_ON_DEMAND, Duration::ZERO, Instant::now());
        Self {
            reason,
            share,
            budget: Mutex::new(budget),
            walks: Mutex::default(),
            walking: Mutex::new(()),
            fell_back: AtomicBool::new(false),
        }
    }

    /// Whether there is processor time for a walk that splits minisockets. Scans leave some for it.
    pub(super) fn affords_split(&self) -> bool {
        lock(&self.budget).saved(Instant::now()) > Duration::ZERO
    }

    /// How long it takes until there is processor time for a scan.
    fn wait(&self) -> Duration {
        let reserve = Pace::SAVED_ON_DEMAND.mul_f64(self.share) / 4;
        lock(&self.budget).wait(reserve, Instant::now())
    }

    /// Enters what a walk on demand has cost.
    pub(super) fn spend(&self, cost: Duration) {
        lock(&self.budget).spend(cost, Instant::now());
    }

    /// A walk that answers the question, and when it began.
    fn walk_for(
        &self,
        named: Option<&str>,
        port: Option<u16>,
    ) -> Result<(u32, CachedWalk), ApiError> {
        if port == Some(0) {
            return Err(ApiError {
                kind: ApiErrorKind::BadArgument,
                message: "cannot scan port 0: no socket has it; use 1 to 65535".into(),
            });
        }
        let target = named.map(netns::resolve).transpose()?;
        let netns = match &target {
            Some(target) => target.inode(),
            None => netns::own().map_err(|error| ApiError {
                kind: ApiErrorKind::Unavailable,
                message: format!(
                    "cannot read the network namespace of this process: {error}; mount /proc"
                ),
            })?,
        };
        let key = ScanKey { netns, port };
        let cached = |age| lock(&self.walks).find(key, age, Instant::now());
        if let Some(walk) = cached(FRESH) {
            return Ok((netns, walk));
        }
        let _walking = lock(&self.walking);
        // Somebody else may have walked while this one waited.
        if let Some(walk) = cached(FRESH) {
            return Ok((netns, walk));
        }
        let wait = self.wait();
        if !wait.is_zero() {
            return match cached(USABLE) {
                Some(walk) => Ok((netns, walk)),
                None => Err(self.exhausted(netns, wait)),
            };
        }
        let (timer, began) = (CpuTimer::start(), Instant::now());
        // Whoever asks for port after port gets them all by one walk.
        let port = port.filter(|_| !lock(&self.walks).has_fresh(netns, began));
        let walked = self.walk_within(target.as_ref(), port);
        self.spend(timer.spent());
        let cached = CachedWalk {
            began,
            walk: Arc::new(walked?),
        };
        lock(&self.walks).insert(ScanKey { netns, port }, cached.clone());
        Ok((netns, cached))
    }

    fn exhausted(&self, netns: u32, wait: Duration) -> ApiError {
        ApiError {
            kind: ApiErrorKind::Unavailable,
            message: format!(
                "cannot scan network namespace {netns}: scans have used up their {}; \
                 try again in {} s",
                self.describe_share(),
                wait.as_secs() + 1
            ),
        }
    }

    fn describe_share(&self) -> String {
        // Without what binary fractions add: 0.3 is shown as such.
        format!("{} % of one core", (self.share * 1e4).round() / 100.0)
    }

    /// Why the counts of a walk may be off, if it is an old one.
    fn degraded(&self, began: Instant) -> Option<String> {
        let age = began.elapsed();
        (age >= 2 * FRESH).then(|| {
            format!(
                "counted {} s ago: scans may take {}",
                age.as_secs(),
                self.describe_share()
            )
        })
    }

    /// Walks inside the namespace, if one is given, at the expense of the calling thread.
    fn walk_within(&self, target: Option<&Target>, port: Option<u16>) -> Result<Walk, ApiError> {
        match target {
            Some(target) => {
                let (walk, spent) = netns::within(target, || {
                    let timer = CpuTimer::start();
                    (self.walk(port), timer.spent())
                })?;
                if target.inode() != netns::own().unwrap_or(0) {
                    cpu_time::charge(spent);
                }
                walk
            }
            None => self.walk(port),
        }
    }

    fn walk(&self, port: Option<u16>) -> Result<Walk, ApiError> {
        let (listing, mut listeners) = match listings(port) {
            Err(error @ sock_diag::Error::Unsupported(_)) => {
                if !self.fell_back.swap(true, Ordering::Relaxed) {
                    log::warn!(error:%; "sock_diag unavailable: reading procfs, without accept queues");
                }
                (procfs_listing(port)?, Vec::new())
            }
            result => result?,
        };
        let settings = sysctl::settings();
        queues::set_syn_queue_limits(&mut listeners, &settings);
        let (overflows, syncookies) = procfs::queue_counters()?;
        Ok(Walk {
            port,
            listing,
            listeners,
            overflows,
            syncookies,
            ephemeral_ports: settings.ephemeral_ports,
        })
    }
}

/// All sockets by port, or only those of one, and the listeners among them.
fn listings(port: Option<u16>) -> Result<(PortListing, Vec<Listener>), sock_diag::Error> {
    let mut listeners = sock_diag::listeners()?;
    let listing = match port {
        Some(port) => {
            listeners.retain(|listener| listener.port == port);
            PortListing {
                all: sock_diag::listing(Some(port))?,
                ports: BTreeMap::new(),
            }
        }
        None => sock_diag::listing_by_port()?,
    };
    Ok((listing, listeners))
}

fn procfs_listing(port: Option<u16>) -> Result<PortListing, procfs::Error> {
    match port {
        Some(port) => Ok(PortListing {
            all: procfs::listing(Some(port))?,
            ports: BTreeMap::new(),
        }),
        None => procfs::listing_by_port(),
    }
}

/// What one walk found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Walk {
    /// The port that it was limited to.
    port: Option<u16>,
    listing: PortListing,
    listeners: Vec<Listener>,
    overflows: Option<Overflows>,
    syncookies: Option<Syncookies>,
    ephemeral_ports: Option<u32>,
}

impl Walk {
    /// All sockets, or those of one port.
    fn listing(&self, port: Option<u16>) -> Listing {
        match port {
            Some(port) if self.port.is_none() => {
                self.listing.ports.get(&port).copied().unwrap_or_default()
            }
            _ => self.listing.all,
        }
    }

    /// All listeners, or those of one port.
    fn listeners(&self, port: Option<u16>) -> Vec<Listener> {
        let wanted = |listener: &&Listener| port.is_none_or(|port| port == listener.port);
        self.listeners.iter().filter(wanted).cloned().collect()
    }

    /// The ports that have a listener, and the rest together: whether a port had one, a walk does
    /// not know.
    fn ports(&self) -> Ports {
        let mut outgoing = Counts::default();
        let mut tracked = Vec::new();
        for (&port, listing) in &self.listing.ports {
            let states = listing.total();
            if states[State::Listen] > 0 {
                tracked.push(PortCounts {
                    port,
                    states,
                    connection_ends: None,
                });
            } else {
                outgoing += &states;
            }
        }
        Ports {
            tracked,
            outgoing: Some(outgoing),
            ..Ports::default()
        }
    }
}

impl Source for Scan {
    fn get(&self, query: &Get) -> Result<u64, ApiError> {
        let state = query.state()?;
        let families = query.families()?;
        if query.cgroup.is_some() {
            return Err(ApiError {
                kind: ApiErrorKind::Unavailable,
                message: format!(
                    "cannot count by cgroup: {NO_CGROUPS}; use tcp-status who --by cgroup"
                ),
            });
        }
        let (_, CachedWalk { walk, .. }) = self.walk_for(query.netns.as_deref(), query.port)?;
        let listing = walk.listing(query.port);
        Ok(families
            .iter()
            .map(|&family| listing.of(family)[state])
            .sum())
    }

    fn show(&self, query: &Show) -> Result<Vec<Snapshot>, ApiError> {
        let (netns, CachedWalk { walk, began }) =
            self.walk_for(query.netns.as_deref(), query.port)?;
        let Listing { ipv4, ipv6 } = walk.listing(query.port);
        Ok(vec![
            Snapshot {
                tier_reason: Some(self.reason.clone()),
                degraded: self.degraded(began),
                port: query.port,
                cgroups_reason: Some(NO_CGROUPS.into()),
                accept_latency_reason: Some(NO_ACCEPT_LATENCY.into()),
                overflows: walk.overflows,
                syncookies: walk.syncookies,
                ephemeral_ports: walk.ephemeral_ports,
                listeners: walk.listeners(query.port),
                // One port says nothing of others.
                ports: query
                    .port
                    .map_or_else(|| walk.ports(), |_| Ports::default()),
                ..Snapshot::of(Tier::Scan, netns, [ipv4, ipv6])
            }
            .with_problems(),
        ])
    }
}

/// A walk, and when it began.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CachedWalk {
    began: Instant,
    walk: Arc<Walk>,
}

/// The latest walks, the oldest first.
#[derive(Debug, Default)]
struct WalkCache(Vec<(ScanKey, CachedWalk)>);

impl WalkCache {
    /// The latest walk younger than `age` that answers the question.
    fn find(&self, key: ScanKey, age: Duration, now: Instant) -> Option<CachedWalk> {
        let answers = |walked: &ScanKey| {
            walked.netns == key.netns && (walked.port.is_none() || walked.port == key.port)
        };
        let mut latest = self.0.iter().rev();
        let (_, cached) = latest.find(|(walked, _)| answers(walked))?;
        (now.saturating_duration_since(cached.began) < age).then(|| cached.clone())
    }

    /// Whether a walk in the namespace, over whatever port, is fresh.
    fn has_fresh(&self, netns: u32, now: Instant) -> bool {
        let fresh = |cached: &CachedWalk| now.saturating_duration_since(cached.began) < FRESH;
        let mut walks = self.0.iter();
        walks.any(|(walked, cached)| walked.netns == netns && fresh(cached))
    }

    fn insert(&mut self, key: ScanKey, cached: CachedWalk) {
        let usable = |old: &CachedWalk| cached.began.saturating_duration_since(old.began) < USABLE;
        self.0.retain(|(walked, old)| *walked != key && usable(old));
        if self.0.len() == MAX_CACHED {
            self.0.remove(0);
        }
        self.0.push((key, cached));
    }
}

/// A panic elsewhere leaves nothing half-done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
