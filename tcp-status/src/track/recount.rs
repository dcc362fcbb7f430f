//! Counting everything again beside the count that is kept: what an audit compares. Decides
//! nothing: see [`super::audit`].

use std::{collections::BTreeMap, thread, time::Duration};

use tcp_status_common::{control::Mode, state::State};

use super::{
    confirm::Finding,
    gauge::Gauges,
    ledger::{Book, Ledger},
    seed::{self, SeedError, Walks},
    split::Moment,
    tracker::{Reading, Tracker, lock, sockets_listed},
};
use crate::{
    bpf::{Banks, LoadError},
    kernel::{
        netns,
        plan::{SeedMethod, SplitMethod},
        procfs::Listing,
        quiesce::quiesce,
        sock_diag::{self, MiniSplit},
    },
};

/// A namespace that is counted by events, but that no walk has visited.
pub const UNREACHABLE: &str = "nothing leads into this network namespace: \
     its sockets are counted since the first event there, and cannot be audited";

/// A namespace in which a walk may have passed over sockets, and that was never at rest since.
pub const SKIPPED: &str = "this kernel's iterator may pass over sockets of a network namespace \
     without listeners; the first audit at rest decides";

/// A namespace that no audit has met yet.
pub const APPEARED: &str = "this network namespace appeared since the last audit";

/// A recount that could not be held; the counts stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] LoadError),
    /// The walk could not be completed.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The dump could not be had.
    #[error(transparent)]
    SockDiag(#[from] sock_diag::Error),
    /// A dump tells the truth only at rest.
    #[error("connections came and went during the walk")]
    Unrest,
}

/// By how much a listing, taken while nothing moved, exceeds what is counted: in all, and beyond the
/// live bank's gauges at each port that is kept apart.
struct AtRest {
    missing: Gauges,
    ports: BTreeMap<u16, Gauges>,
}

/// What a book was before its bank was switched: its flows, and what it added.
type Before = BTreeMap<u32, (Banks, Gauges)>;

impl Tracker {
    /// By how much the sockets that there are in each namespace exceed those that are counted.
    /// Changes no reading. Looks once more after `patience`.
    pub(super) fn recount(&self, patience: Duration) -> Result<BTreeMap<u32, Gauges>, Error> {
        match self.plan.seed {
            SeedMethod::Iterator => self.recount_by_iterator(patience),
            SeedMethod::Procfs => {
                thread::sleep(patience);
                Ok([(self.netns, self.recount_at_rest(self.netns)?.missing)].into())
            }
        }
    }

    /// Seeds the other bank while events go on, and switches to it. At the moment of the switch
    /// both banks have counted the same events, so that what differs then is drift. What the old
    /// one had more or less goes into the base for now.
    fn recount_by_iterator(&self, patience: Duration) -> Result<BTreeMap<u32, Gauges>, Error> {
        let old = self.ledger_mut().live;
        let new = 1 - old;
        let unplaced = self.bpf.writers()?.unplaced;
        let places = self.places();
        let began = self.moment(self.netns).ok();
        let seed::Filled { walks, ports } = seed::fill(
            &self.bpf,
            &places,
            Some(old),
            new,
            sockets_listed(),
            patience,
        )?;
        let before = {
            let mut ledger = self.ledger_mut();
            self.meet(&mut ledger, &walks)?;
            let before: Before = ledger
                .books_mut(self.netns)
                .map(|(netns, book)| (netns, (book.retired, book.base)))
                .collect();
            self.bpf.switch(Mode::new(Some(new), None))?;
            ledger.live = new;
            self.move_books(&mut ledger, &before, old)?;
            ledger.walked_ports = ports;
            ledger.unplaced = unplaced;
            before
        };
        self.saw_aside(&walks, began)?;
        quiesce();
        // Once more, now that events which began before the switch have ended.
        let mut found = self.move_books(&mut self.ledger_mut(), &before, old)?;
        found.retain(|netns, _| walks.contains_key(netns));
        self.bpf.remember(0)?;
        Ok(found)
    }

    /// Opens a book for each namespace in which something was walked or counted, keeps what walks
    /// met, and closes the books of namespaces that are gone and empty.
    pub(super) fn meet(&self, ledger: &mut Ledger, walks: &Walks) -> Result<(), LoadError> {
        for netns in self.bpf.other_namespaces(ledger.live)? {
            let unwalked = || Book::unwalked(UNREACHABLE);
            ledger.others.entry(netns).or_insert_with(unwalked);
        }
        for (&netns, walked) in walks {
            let book = if netns == self.netns {
                &mut ledger.own
            } else {
                ledger.others.entry(netns).or_default()
            };
            book.walked(walked);
        }
        let mut gone = Vec::new();
        for (&netns, book) in &mut ledger.others {
            if walks.contains_key(&netns) {
                continue;
            }
            book.doubt = Some(UNREACHABLE.into());
            if Gauges::of(&self.bpf.other_bank(netns, ledger.live)?) + book.base
                == Gauges::default()
            {
                gone.push(netns);
            }
        }
        for netns in gone {
            ledger.others.remove(&netns);
        }
        Ok(())
    }

    /// Brings every book over from the bank `old`, as it was `before`, to the live one, so that
    /// its readings stay what they were. Gives by how much the sockets that were walked exceed
    /// those that were counted.
    fn move_books(
        &self,
        ledger: &mut Ledger,
        before: &Before,
        old: u32,
    ) -> Result<BTreeMap<u32, Gauges>, LoadError> {
        let live = ledger.live;
        let mut found = BTreeMap::new();
        for (netns, book) in ledger.books_mut(self.netns) {
            let Some((retired, base)) = before.get(&netns) else {
                continue;
            };
            let counted = self.bank(netns, old)?;
            let seeded = Gauges::of(&Banks {
                seeded: self.bank(netns, live)?.seeded,
                ..Banks::default()
            });
            let missing = seeded - (Gauges::of(&counted) + *base);
            book.retired = counted.plus_flows(retired);
            book.base = -missing;
            book.ports.clear();
            found.insert(netns, missing);
        }
        Ok(found)
    }

    /// By how much the sockets that the kernel lists in the calling thread's namespace exceed those
    /// that are counted. A dump tells the truth only if nothing moved.
    fn recount_at_rest(&self, netns: u32) -> Result<AtRest, Error> {
        let counted = self.ports_of(netns)?;
        let ports = counted.keys().copied().collect();
        let (before, beside) = (self.read(netns)?, sock_diag::minisockets(&ports)?);
        let truth = self.places_of(&sock_diag::listing(None)?, &beside.all);
        let listings = sock_diag::listings_of(&ports)?;
        let (after, still) = (self.read(netns)?, sock_diag::minisockets(&ports)?);
        let moved = |reading: &Reading| (reading.gauges, reading.events);
        if moved(&before) != moved(&after) || beside != still {
            return Err(Error::Unrest);
        }
        let missing = |(port, counted): (u16, Gauges)| {
            let listing = listings.get(&port).copied().unwrap_or_default();
            let beside = beside.ports.get(&port).copied().unwrap_or_default();
            (port, self.places_of(&listing, &beside) - counted)
        };
        Ok(AtRest {
            missing: truth - after.gauges,
            ports: counted.into_iter().map(missing).collect(),
        })
    }

    /// What the live bank has of the ports of a namespace.
    fn ports_of(&self, netns: u32) -> Result<BTreeMap<u16, Gauges>, LoadError> {
        // Held, so that the bank is not emptied meanwhile.
        let ledger = self.ledger();
        let ports = self.bpf.ports(ledger.live)?;
        let range = ports.range((netns, 0)..=(netns, u16::MAX));
        Ok(range.map(|(&(_, port), &sum)| (port, sum.into())).collect())
    }

    /// The places of what is listed: minisockets have some where events follow them.
    fn places_of(&self, listing: &Listing, beside: &MiniSplit) -> Gauges {
        let full = Gauges::full_sockets(listing, beside);
        match self.plan.split {
            SplitMethod::Events => full + Gauges::minisockets_of(beside),
            SplitMethod::Walk => full,
        }
    }

    /// Whether a walk may have passed over sockets of a namespace that is counted like this.
    pub(super) fn may_have_skipped(&self, gauges: &Gauges) -> bool {
        self.plan.walk_skips && gauges.sum(&[State::Listen]) == 0
    }

    /// Has a listing at rest decide what was found where walks may have passed over sockets.
    pub(super) fn decide(&self, findings: &mut BTreeMap<u32, Finding>) -> Result<(), Error> {
        if !self.plan.walk_skips {
            return Ok(());
        }
        let listed = self.places().each(|| {
            let netns = netns::own().unwrap_or(self.netns);
            let skipped = self.may_have_skipped(&self.gauges(netns)?);
            Ok(skipped.then(|| self.recount_at_rest(netns)))
        })?;
        for (netns, listed) in listed {
            if let (Some(listed), Some(finding)) = (listed, findings.get_mut(&netns)) {
                match listed {
                    Err(Error::Unrest) => finding.is_undecided(),
                    listed => {
                        let AtRest { missing, ports } = listed?;
                        finding.decided(missing);
                        self.keep_ports_at_rest(netns, ports);
                    }
                }
            }
        }
        Ok(())
    }

    fn keep_ports_at_rest(&self, netns: u32, ports: BTreeMap<u16, Gauges>) {
        let mut ledger = self.ledger_mut();
        let book = ledger.books_mut(self.netns).find(|(of, _)| *of == netns);
        if let Some((_, book)) = book {
            book.ports = ports;
        }
    }

    /// Keeps what an audit's walks met beside full sockets.
    pub(super) fn saw_aside(&self, walks: &Walks, began: Option<Moment>) -> Result<(), LoadError> {
        lock(&self.splits).retain(|netns, _| walks.contains_key(netns));
        if let Some(walked) = walks.get(&self.netns)
            && !self.may_have_skipped(&self.gauges(self.netns)?)
        {
            self.keep_aside(self.netns, walked, began);
        }
        Ok(())
    }
}
