//! Counts without eBPF: one walk over the kernel's tables per question, at most one per second
//! for the same question. Keeps nothing but the latest answers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tcp_status_common::state::State;

use super::queues;
use crate::{
    kernel::{
        netns::{self, Target},
        procfs::{self, Listing, PortListing},
        sock_diag, sysctl,
    },
    server::{
        Source,
        protocol::{Get, Refusal, RefusalKind, Show},
    },
    snapshot::{Counts, Listener, Overflows, PortCounts, Ports, Snapshot, Syncookies, Tier},
};

/// How long an answer serves everybody who asks the same.
const FRESH: Duration = Duration::from_secs(1);

/// How many answers are kept.
const KEPT: usize = 64;

/// What a walk was limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Question {
    netns: u32,
    port: Option<u16>,
}

/// Answers from a dump of the kernel's tables.
#[derive(Debug)]
pub struct Scan {
    reason: String,
    answers: Mutex<Answers>,
    /// Held during a walk: the next one waits, so that the walks together take one core at most.
    walking: Mutex<()>,
    fell_back: AtomicBool,
}

impl Scan {
    /// Walks nothing yet. `reason` is why there is no better tier.
    #[must_use]
    pub const fn new(reason: String) -> Self {
        Self {
            reason,
            answers: Mutex::new(Answers(Vec::new())),
            walking: Mutex::new(()),
            fell_back: AtomicBool::new(false),
        }
    }

    /// The answer to a question that at most one walk per second looks into.
    fn answer(&self, named: Option<&str>, port: Option<u16>) -> Result<(u32, Arc<Walk>), Refusal> {
        if port == Some(0) {
            return Err(Refusal {
                kind: RefusalKind::BadArgument,
                message: "scan, on port 0: no socket has it; use 1 to 65535".into(),
            });
        }
        let target = named.map(netns::resolve).transpose()?;
        let netns = match &target {
            Some(target) => target.inode(),
            None => netns::own().map_err(|error| Refusal {
                kind: RefusalKind::Unavailable,
                message: format!("read network namespace, on this process: {error}; mount /proc"),
            })?,
        };
        let question = Question { netns, port };
        if let Some(walk) = lock(&self.answers).fresh(question, Instant::now()) {
            return Ok((netns, walk));
        }
        let _walking = lock(&self.walking);
        // Somebody else may have walked while this one waited.
        let began = Instant::now();
        if let Some(walk) = lock(&self.answers).fresh(question, began) {
            return Ok((netns, walk));
        }
        let walk = Arc::new(self.walk_within(target.as_ref(), port)?);
        lock(&self.answers).put(question, began, Arc::clone(&walk));
        Ok((netns, walk))
    }

    /// Walks inside the namespace, if one is given.
    fn walk_within(&self, target: Option<&Target>, port: Option<u16>) -> Result<Walk, Refusal> {
        match target {
            Some(target) => netns::within(target, || self.walk(port))?,
            None => self.walk(port),
        }
    }

    fn walk(&self, port: Option<u16>) -> Result<Walk, Refusal> {
        let (listing, mut listeners) = match listings(port) {
            Err(error @ sock_diag::Error::Unsupported(_)) => {
                if !self.fell_back.swap(true, Ordering::Relaxed) {
                    log::warn!(error:%; "reading procfs instead, which is slower, \
                        and tells nothing of accept queues");
                }
                (procfs_listing(port)?, Vec::new())
            }
            result => result?,
        };
        let settings = sysctl::settings();
        queues::limit(&mut listeners, &settings);
        let (overflows, syncookies) = procfs::queue_counters()?;
        Ok(Walk {
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
    listing: PortListing,
    listeners: Vec<Listener>,
    overflows: Option<Overflows>,
    syncookies: Option<Syncookies>,
    ephemeral_ports: Option<u32>,
}

impl Walk {
    /// The ports that have a listener, and the rest together: whether a port had one, a walk does
    /// not know.
    fn ports(&self) -> Ports {
        let mut outgoing = Counts::default();
        let mut tracked = Vec::new();
        for (&port, &states) in &self.listing.ports {
            if states[State::Listen] > 0 {
                tracked.push(PortCounts { port, states });
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
    fn get(&self, query: &Get) -> Result<u64, Refusal> {
        let state = query.state()?;
        let families = query.families()?;
        let (_, walk) = self.answer(query.netns.as_deref(), query.port)?;
        let listing = &walk.listing.all;
        Ok(families
            .iter()
            .map(|&family| listing.of(family)[state])
            .sum())
    }

    fn show(&self, query: &Show) -> Result<Vec<Snapshot>, Refusal> {
        let (netns, walk) = self.answer(query.netns.as_deref(), query.port)?;
        let Listing { ipv4, ipv6 } = walk.listing.all;
        Ok(vec![Snapshot {
            tier_reason: Some(self.reason.clone()),
            port: query.port,
            overflows: walk.overflows,
            syncookies: walk.syncookies,
            ephemeral_ports: walk.ephemeral_ports,
            listeners: walk.listeners.clone(),
            // A walk over one port knows nothing of others.
            ports: query
                .port
                .map_or_else(|| walk.ports(), |_| Ports::default()),
            ..Snapshot::of(Tier::Scan, netns, [ipv4, ipv6])
        }])
    }
}

/// The latest answers, the oldest first.
#[derive(Debug)]
struct Answers(Vec<(Question, Instant, Arc<Walk>)>);

impl Answers {
    fn fresh(&self, question: Question, now: Instant) -> Option<Arc<Walk>> {
        let (_, began, walk) = self.0.iter().find(|(asked, ..)| *asked == question)?;
        (now.saturating_duration_since(*began) < FRESH).then(|| Arc::clone(walk))
    }

    fn put(&mut self, question: Question, began: Instant, walk: Arc<Walk>) {
        self.0.retain(|(asked, ..)| *asked != question);
        if self.0.len() == KEPT {
            self.0.remove(0);
        }
        self.0.push((question, began, walk));
    }
}

/// A panic elsewhere leaves nothing half-done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<netns::Error> for Refusal {
    fn from(error: netns::Error) -> Self {
        let kind = match &error {
            _ if error.is_permission() => RefusalKind::Refused,
            netns::Error::Text { .. } | netns::Error::Unknown { .. } => RefusalKind::BadArgument,
            netns::Error::Open { .. } | netns::Error::Enter { .. } => RefusalKind::Unavailable,
        };
        Self {
            kind,
            message: error.to_string(),
        }
    }
}

impl From<sock_diag::Error> for Refusal {
    fn from(error: sock_diag::Error) -> Self {
        Self {
            kind: refused_if(error.is_permission()),
            message: error.to_string(),
        }
    }
}

impl From<procfs::Error> for Refusal {
    fn from(error: procfs::Error) -> Self {
        Self {
            kind: refused_if(error.is_permission()),
            message: error.to_string(),
        }
    }
}

const fn refused_if(permission: bool) -> RefusalKind {
    if permission {
        RefusalKind::Refused
    } else {
        RefusalKind::Unavailable
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use tcp_status_common::state::{Family, State};

    use super::{Answers, FRESH, Get, KEPT, Question, RefusalKind, Scan, Show, Source as _, Walk};

    fn get(state: &str) -> Get {
        Get {
            state: state.into(),
            port: None,
            family: None,
            netns: None,
        }
    }

    #[test]
    fn answers_serve_for_a_second_each_for_its_question() {
        let began = Instant::now();
        let mut walk = Walk::default();
        walk.listing.add(Family::V6, State::Listen, 80);
        walk.listing.add(Family::V6, State::TimeWait, 50_000);
        let ports = walk.ports();
        assert_eq!(ports.tracked.len(), 1);
        assert_eq!(ports.outgoing.unwrap()[State::TimeWait], 1);
        let walk = Arc::new(walk);
        let mut answers = Answers(Vec::new());
        let question = Question {
            netns: 1,
            port: Some(80),
        };
        assert_eq!(answers.fresh(question, began), None);
        answers.put(question, began, Arc::default());
        answers.put(question, began, Arc::clone(&walk));
        assert_eq!(answers.0.len(), 1);
        assert_eq!(answers.fresh(question, began + FRESH / 2), Some(walk));
        assert_eq!(answers.fresh(question, began + FRESH), None);
        for other in [
            Question {
                netns: 2,
                ..question
            },
            Question {
                port: None,
                ..question
            },
        ] {
            assert_eq!(answers.fresh(other, began), None);
        }
    }

    #[test]
    fn the_oldest_answer_makes_room() {
        let began = Instant::now();
        let mut answers = Answers(Vec::new());
        let questions: Vec<_> = (1..=100)
            .map(|port| Question {
                netns: 1,
                port: Some(port),
            })
            .collect();
        for &question in &questions {
            answers.put(question, began, Arc::default());
        }
        assert_eq!(answers.0.len(), KEPT);
        let kept = questions
            .iter()
            .filter(|&&q| answers.fresh(q, began).is_some());
        assert!(kept.eq(&questions[100 - KEPT..]));
    }

    #[test]
    fn what_cannot_be_is_a_bad_argument() {
        let scan = Scan::new("test".into());
        let bad = [
            Get {
                port: Some(0),
                ..get("listen")
            },
            Get {
                family: Some(5),
                ..get("listen")
            },
            Get {
                netns: Some("../x".into()),
                ..get("listen")
            },
            Get {
                netns: Some("no-such-namespace".into()),
                ..get("listen")
            },
            get("open"),
        ];
        for query in bad {
            let refusal = scan.get(&query).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::BadArgument, "{refusal}");
        }
        let show = Show {
            port: Some(0),
            ..Show::default()
        };
        assert_eq!(scan.show(&show).unwrap_err().kind, RefusalKind::BadArgument);
    }
}
