//! Counting everything again beside the count that is kept: what an audit compares. Decides
//! nothing: see [`super::audit`].

use std::{collections::BTreeMap, sync::Arc, thread, time::Duration};

use tcp_status_common::state::State;

use super::{
    confirm::Finding,
    gauge::Gauges,
    ledger::Retired,
    places::by_id,
    reading::Reading,
    seed::{self, SeedError, Walks},
    split::Moment,
    tracker::{POISONED, Tracker, sockets_listed},
};
use crate::{
    bpf::{Banks, LoadError},
    kernel::{
        netns,
        plan::SeedMethod,
        procfs::Listing,
        quiesce::quiesce,
        sock_diag::{self, MiniSplit},
    },
};
use tcp_status_common::counters::{NetnsId, OWN_NETNS};

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

impl Tracker {
    /// By how much the sockets that there are in each namespace exceed those that are counted.
    /// Changes no reading. Looks once more after `patience`.
    pub(super) fn recount(&self, patience: Duration) -> Result<BTreeMap<NetnsId, Gauges>, Error> {
        match self.plan.seed {
            SeedMethod::Iterator => self.recount_by_iterator(patience),
            SeedMethod::Procfs => {
                thread::sleep(patience);
                Ok([(OWN_NETNS, self.recount_at_rest(OWN_NETNS)?.missing)].into())
            }
        }
    }

    /// Seeds the other bank while events go on, and switches to it. At the moment of the switch
    /// both banks have counted the same events, so that what differs then is drift. What the old
    /// one had more or less goes into the base for now.
    ///
    /// What can fail comes before the switch, which either takes place wholly or not at all; or
    /// after it, where readings do not depend on it.
    fn recount_by_iterator(&self, patience: Duration) -> Result<BTreeMap<NetnsId, Gauges>, Error> {
        // What an earlier recount could not read after its switch.
        self.retire()?;
        let old = self.ledger().live;
        let new = 1 - old;
        let unplaced = self.bpf.writers()?.unplaced;
        let unrecorded = self.bpf.closed_totals()?.unrecorded;
        let places = self.places();
        let began = self.moment(OWN_NETNS).ok();
        let seed::Filled {
            walks,
            ports,
            known,
            mut seeding,
        } = seed::fill(
            &self.bpf,
            &places,
            Some(old),
            new,
            sockets_listed(),
            patience,
        )?;
        let all_recorded = self.bpf.closed_totals()?.unrecorded == unrecorded;
        let living = self.living()?;
        *self.known.write().expect(POISONED) = known;
        let skipped = self.may_have_skipped(&self.gauges(OWN_NETNS)?);
        {
            let mut ledger = self.ledger_mut();
            seeding.complete(new)?;
            ledger.meet(&walks, &living);
            ledger.switch(ports, unplaced);
            if all_recorded {
                ledger.unrecorded = unrecorded;
            }
        }
        self.saw_aside(&walks, skipped, began);
        // Events that began before the switch end.
        quiesce();
        drop(seeding);
        let mut found = self.retire()?;
        self.hooks.switched_to(self.bpf.counts_timewait(new));
        found.retain(|netns, _| walks.contains_key(netns));
        Ok(found)
    }

    /// Has the books take over what the bank before the last switch counted, if they have not yet.
    /// Gives by how much the sockets that were walked exceed those that were counted.
    fn retire(&self) -> Result<BTreeMap<NetnsId, Gauges>, LoadError> {
        let (live, (retiring, netnses)) = self.live_bank_with(|ledger| {
            let others = ledger.others.keys().copied();
            let netnses: Vec<_> = others.chain([OWN_NETNS]).collect();
            (ledger.retiring.map(|old| (old, ledger.live)), netnses)
        });
        let Some((old, new)) = retiring else {
            return Ok(BTreeMap::new());
        };
        // The bank is the first that counts minisockets: they are no drift.
        let first_timewait = self.bpf.counts_timewait(new) && !self.bpf.counts_timewait(old);
        let old = self.bpf.read_bank(old);
        let mut counts = BTreeMap::new();
        for netns in netnses {
            let mut seeded = Gauges::of(&Banks {
                seeded: live.counters(netns)?.seeded,
                ..Banks::default()
            });
            if first_timewait {
                seeded = seeded.without_minisockets();
            }
            let counted = old.counters(netns)?;
            counts.insert(netns, Retired { counted, seeded });
        }
        Ok(self.ledger_mut().retire(&counts))
    }

    /// By how much the sockets that the kernel lists in the calling thread's namespace exceed those
    /// that are counted. A dump tells the truth only if nothing moved.
    fn recount_at_rest(&self, netns: NetnsId) -> Result<AtRest, Error> {
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
    fn ports_of(&self, netns: NetnsId) -> Result<BTreeMap<u16, Gauges>, LoadError> {
        let ports = self.live_bank().ports()?;
        let range = ports.range((netns, 0)..=(netns, u16::MAX));
        Ok(range.map(|(&(_, port), &sum)| (port, sum.into())).collect())
    }

    /// The places of what is listed: minisockets have some where events follow them.
    fn places_of(&self, listing: &Listing, beside: &MiniSplit) -> Gauges {
        let full = Gauges::full_sockets(listing, beside);
        let live = self.ledger().live;
        if self.bpf.counts_timewait(live) {
            full + Gauges::minisockets_of(beside)
        } else {
            full
        }
    }

    /// Whether a walk may have passed over sockets of a namespace that is counted like this.
    pub(super) fn may_have_skipped(&self, gauges: &Gauges) -> bool {
        self.plan.walk_skips && gauges.sum(&[State::Listen]) == 0
    }

    /// Has a listing at rest decide what was found where walks may have passed over sockets.
    pub(super) fn decide(&self, findings: &mut BTreeMap<NetnsId, Finding>) -> Result<(), Error> {
        if !self.plan.walk_skips {
            return Ok(());
        }
        let places = self.places();
        let ids = places.ids(&self.bpf)?;
        let listed = places.each(|| {
            let inode = netns::own().unwrap_or(self.inode);
            let Some(&netns) = ids.get(&inode) else {
                return Ok(None);
            };
            let skipped = self.may_have_skipped(&self.gauges(netns)?);
            Ok(skipped.then(|| self.recount_at_rest(netns)))
        })?;
        for (netns, listed) in by_id(listed, &ids) {
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

    fn keep_ports_at_rest(&self, netns: NetnsId, ports: BTreeMap<u16, Gauges>) {
        let mut ledger = self.ledger_mut();
        let book = ledger.books_mut().find(|(of, _)| *of == netns);
        if let Some((_, book)) = book {
            book.ports = Arc::new(ports);
        }
    }

    /// Keeps what an audit's walks met beside full sockets, unless they may have passed over some.
    pub(super) fn saw_aside(&self, walks: &Walks, skipped: bool, began: Option<Moment>) {
        self.splits.retain(|netns| walks.contains_key(&netns));
        if let Some(walked) = walks.get(&OWN_NETNS).filter(|_| !skipped) {
            self.keep_aside(OWN_NETNS, walked, began);
        }
    }
}
