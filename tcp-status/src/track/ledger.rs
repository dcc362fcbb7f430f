//! The books: which bank is live, what is added to it, and what the audits found, for each
//! namespace that is counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tcp_status_common::{
    counters::{NetnsId, OWN_NETNS},
    state::State,
};

use super::{ages::Ages, gauge::Gauges, schedule::Cause, seed::Walks};
use crate::{
    bpf::Banks,
    snapshot::{Counts, Drift},
};

/// A namespace that is counted by events, but that no walk has visited.
pub const UNREACHABLE: &str = "nothing leads into this network namespace: \
     its sockets are counted since the first event there, and cannot be audited";

/// What is known of one namespace beside its counters.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Added to the live bank's gauges: a seed or a correction made in user space.
    pub base: Gauges,
    /// Added to the live bank's gauges of single ports: what a walk passed over there.
    pub ports: Arc<BTreeMap<u16, Gauges>>,
    /// Flows of banks that are no longer live.
    pub retired: Banks,
    /// Why its counts are in doubt until an audit has looked.
    pub doubt: Option<String>,
    /// How long connections had been silent when a walk last met them.
    pub ages: Option<Ages>,
    corrections: Counts,
}

impl Book {
    /// Of a namespace that has been seen, but not walked.
    #[must_use]
    pub fn unwalked(doubt: &str) -> Self {
        Self {
            doubt: Some(doubt.to_owned()),
            ..Self::default()
        }
    }

    /// Whether an audit ever corrected something.
    #[must_use]
    pub fn is_corrected(&self) -> bool {
        self.corrections.total() > 0
    }

    /// Enters what an audit found: what it corrected, and why that may not be all.
    pub fn audited(&mut self, corrections: [u64; State::COUNT], doubt: Option<&str>) {
        for (state, by) in State::ALL.into_iter().zip(corrections) {
            self.corrections[state] += by;
        }
        self.doubt = doubt.map(str::to_owned);
    }
}

/// What a bank that is no longer live counted, and what the one after it was seeded with.
#[derive(Debug)]
pub struct Retired {
    /// All that was counted.
    pub counted: Banks,
    /// The sockets at the moment of the switch.
    pub seeded: Gauges,
}

/// Everything that changes at an audit.
#[derive(Debug)]
pub struct Ledger {
    /// The bank that events are counted into.
    pub live: u32,
    /// The bank that they were counted into before, until the books have what it counted.
    pub retiring: Option<u32>,
    /// By how much the two copies of the handler disagreed when the last audit began.
    pub baseline: i64,
    /// Events that the kernel told neither copy of the handler, as far as they are known.
    pub missed: u64,
    /// Why all counts are in doubt until the next audit succeeds.
    pub doubt: Option<String>,
    /// A reason to expect a difference in the counts that no audit has looked into yet.
    pub suspicion: Option<Cause>,
    /// The tracker's own namespace.
    pub own: Book,
    /// Other namespaces.
    pub others: BTreeMap<NetnsId, Book>,
    /// Ports that were entered before the last walk began: connections that they had before
    /// they got a listener are counted as well. By namespace.
    pub walked_ports: Arc<BTreeSet<(NetnsId, u16)>>,
    /// Listeners without a port when the last walk began, since start.
    pub unplaced: u64,
    /// Closed listeners that could not be recorded before the last audit that found room for all, since
    /// start.
    pub unrecorded: u64,
    audits: u64,
    last_audit: Instant,
    cost: Duration,
}

impl Ledger {
    /// Right after the first seeding, which took `cost`.
    #[must_use]
    pub fn new(cost: Duration, baseline: i64) -> Self {
        Self {
            live: 0,
            retiring: None,
            baseline,
            missed: 0,
            doubt: None,
            suspicion: None,
            own: Book::default(),
            others: BTreeMap::new(),
            walked_ports: Arc::default(),
            unplaced: 0,
            unrecorded: 0,
            audits: 0,
            last_audit: Instant::now(),
            cost,
        }
    }

    /// The book of a namespace.
    #[must_use]
    pub fn book(&self, netns: NetnsId) -> Option<&Book> {
        if netns == OWN_NETNS {
            Some(&self.own)
        } else {
            self.others.get(&netns)
        }
    }

    /// Every book.
    pub fn books_mut(&mut self) -> impl Iterator<Item = (NetnsId, &mut Book)> {
        let others = self.others.iter_mut().map(|(&netns, book)| (netns, book));
        std::iter::once((OWN_NETNS, &mut self.own)).chain(others)
    }

    /// What is added to the ports of each namespace that has such.
    #[must_use]
    pub fn port_bases(&self) -> Vec<(NetnsId, Arc<BTreeMap<u16, Gauges>>)> {
        let others = self.others.iter().map(|(&netns, book)| (netns, book));
        std::iter::once((OWN_NETNS, &self.own))
            .chain(others)
            .filter(|(_, book)| !book.ports.is_empty())
            .map(|(netns, book)| (netns, Arc::clone(&book.ports)))
            .collect()
    }

    /// Opens a book for each namespace in which something was walked or counted, keeps what walks
    /// met, and closes the books of namespaces that are gone and empty.
    pub fn meet(&mut self, walks: &Walks, living: &BTreeMap<NetnsId, u32>) {
        for (&netns, walked) in walks {
            let book = if netns == OWN_NETNS {
                &mut self.own
            } else {
                self.others.entry(netns).or_default()
            };
            book.ages = Some(Ages::new(walked));
        }
        for &netns in living.keys() {
            let unwalked = || Book::unwalked(UNREACHABLE);
            self.others.entry(netns).or_insert_with(unwalked);
        }
        self.others.retain(|netns, _| living.contains_key(netns));
        for (netns, book) in &mut self.others {
            if !walks.contains_key(netns) {
                book.doubt = Some(UNREACHABLE.into());
            }
        }
    }

    /// Events are counted into the other bank from now on. `ports` were entered there before it
    /// was seeded.
    pub fn switch(&mut self, ports: BTreeSet<(NetnsId, u16)>, unplaced: u64) {
        self.retiring = Some(self.live);
        self.live = 1 - self.live;
        self.walked_ports = Arc::new(ports);
        self.unplaced = unplaced;
        self.own.ports = Arc::default();
        for book in self.others.values_mut() {
            book.ports = Arc::default();
        }
    }

    /// Enters what the retiring bank counted of each namespace into its book, so that readings stay
    /// what they are with the live bank alone. Gives by how much the sockets that the live bank was
    /// seeded with exceed those that were counted.
    pub fn retire(&mut self, counts: &BTreeMap<NetnsId, Retired>) -> BTreeMap<NetnsId, Gauges> {
        let mut found = BTreeMap::new();
        for (netns, book) in self.books_mut() {
            if let Some(Retired { counted, seeded }) = counts.get(&netns) {
                let missing = *seeded - (Gauges::of(counted) + book.base);
                book.retired = counted.plus_flows(&book.retired);
                book.base = -missing;
                found.insert(netns, missing);
            }
        }
        self.retiring = None;
        found
    }

    /// What an audit of this host costs.
    #[must_use]
    pub const fn cost(&self) -> Duration {
        self.cost
    }

    /// Time since the last audit, or the seeding, ended.
    #[must_use]
    pub fn since_audit(&self) -> Duration {
        self.last_audit.elapsed()
    }

    /// Enters an audit that took `cost` and began when the copies of the handler disagreed by
    /// `baseline`. What it found is in the books.
    pub fn audited(&mut self, cost: Duration, baseline: i64) {
        self.audits += 1;
        self.missed += baseline.abs_diff(self.baseline);
        self.baseline = baseline;
        self.doubt = None;
        self.suspicion = None;
        self.settle(cost);
    }

    /// Enters an audit that could not tell.
    pub fn settle(&mut self, cost: Duration) {
        self.cost = cost;
        self.last_audit = Instant::now();
    }

    /// What the audits found in one namespace, as outputs show it.
    #[must_use]
    pub fn drift(&self, book: &Book) -> Drift {
        let audited = self.audits > 0;
        Drift {
            corrections: book.corrections.total(),
            corrections_by_state: book.corrections,
            audits: self.audits,
            last_audit_seconds_ago: audited.then(|| self.since_audit().as_secs()),
            last_audit_microseconds: audited
                .then(|| u64::try_from(self.cost.as_micros()).unwrap_or(u64::MAX)),
        }
    }

    /// Why a number of a namespace may be off right now.
    #[must_use]
    pub fn degraded(&self, book: &Book) -> Option<String> {
        self.doubt
            .clone()
            .or_else(|| book.doubt.clone())
            .or_else(|| {
                let cause = self.suspicion.as_ref();
                cause.map(|cause| format!("{cause}; the next audit corrects what that changed"))
            })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Cause, Ledger, State};

    #[test]
    fn an_audit_settles_every_doubt_and_is_counted_by_state() {
        let mut ledger = Ledger::new(Duration::from_millis(3), 10);
        assert_eq!(ledger.drift(&ledger.own).last_audit_seconds_ago, None);
        ledger.doubt = Some("seeded from procfs".into());
        ledger.suspicion = Some(Cause::Missed(2));
        let degraded = |ledger: &Ledger| ledger.degraded(&ledger.own);
        assert!(degraded(&ledger).unwrap().contains("procfs"));
        let mut corrections = [0; State::COUNT];
        corrections[State::FinWait1.index()] = 5;
        ledger.own.audited(corrections, None);
        ledger.audited(Duration::from_millis(7), 12);
        assert_eq!(degraded(&ledger), None);
        let drift = ledger.drift(&ledger.own);
        assert_eq!((drift.corrections, drift.audits), (5, 1));
        assert_eq!(drift.corrections_by_state[State::FinWait1], 5);
        assert_eq!(drift.last_audit_microseconds, Some(7000));
        assert_eq!(ledger.missed, 2);
        ledger
            .own
            .audited([0; State::COUNT], Some("recounts differ"));
        assert_eq!(degraded(&ledger).as_deref(), Some("recounts differ"));
    }

    #[test]
    fn what_cannot_be_vouched_for_is_said() {
        let mut ledger = Ledger::new(Duration::ZERO, 0);
        assert_eq!(ledger.degraded(&ledger.own), None);
        ledger.suspicion = Some(Cause::Missed(4));
        let missed = ledger.degraded(&ledger.own).unwrap();
        assert!(missed.contains("4 state changes missed"));
    }
}
