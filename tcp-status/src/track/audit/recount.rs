//! Counting everything again beside the count that is kept: what an audit compares. Decides
//! nothing: see [`super::auditor`].

use std::{collections::BTreeMap, sync::Arc, thread, time::Duration};

use tcp_status_common::state::State;

use super::{diff::AuditDiff, state::RetiredBank};
use crate::{
    bpf::{BankSum, BpfError},
    kernel::{
        netns,
        plan::SeedMethod,
        procfs::Listing,
        quiesce::quiesce,
        sock_diag::{self, MiniSplit},
    },
    track::{
        answers::{accept_latency::forget_all_but, reading::Reading},
        gauge::Gauges,
        minisockets::split::SplitMoment,
        resources::sync::POISONED,
        seed::{
            netns_targets::{Area, NetnsTargets, by_id},
            seeding::{self, Live, SeedError, Walks},
        },
        tracker::Tracker,
    },
};

use tcp_status_common::counters::{NetnsId, OWN_NETNS};

/// A recount that could not be held; the counts stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum RecountError {
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] BpfError),
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
struct RestListing {
    missing: Gauges,
    ports: BTreeMap<u16, Gauges>,
}

impl Tracker {
    /// By how much the sockets that there are in each namespace exceed those that are counted.
    /// Changes no reading. Looks once more after `settle_time`.
    pub(crate) fn recount(
        &self,
        settle_time: Duration,
        area: &Area<'_>,
    ) -> Result<BTreeMap<NetnsId, Gauges>, RecountError> {
        match self.plan.seed {
            SeedMethod::Iterator => self.recount_by_iterator(settle_time, area),
            SeedMethod::Procfs => {
                thread::sleep(settle_time);
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
    ///
    /// Other namespaces are recounted with the tracker's own, from the same bank.
    fn recount_by_iterator(
        &self,
        settle_time: Duration,
        area: &Area<'_>,
    ) -> Result<BTreeMap<NetnsId, Gauges>, RecountError> {
        let scope = area.scope();
        // What an earlier recount could not read after its switch.
        self.accumulate_retired()?;
        let (old, others) = {
            let audit_state = self.audit_state();
            (audit_state.live, audit_state.live_of_others)
        };
        let new = 1 - old;
        let unregistered = self.bpf.writers().unregistered;
        let unrecorded = self.bpf.closed_totals()?.unrecorded;
        let targets = self.area_targets(area);
        let live = Live {
            own: Some(old),
            others,
        };
        let began = self.split_moment(OWN_NETNS).ok();
        let seeding::SeededBank {
            walks,
            mut ports,
            netns_entries,
            mut seeding,
        } = seeding::seed_bank(
            &self.bpf,
            &targets,
            live,
            new,
            self.socket_count_estimate(scope)?,
            settle_time,
        )?;
        let all_recorded = self.bpf.closed_totals()?.unrecorded == unrecorded;
        let live_namespaces = self.live_namespaces()?;
        // Those of others were carried over, without their sockets.
        if self.bpf.lists_tables() {
            ports.retain(|(netns, _)| walks.contains_key(netns));
        }
        self.netns_entries
            .write()
            .expect(POISONED)
            .extend(netns_entries);
        let skipped = self.may_have_skipped(&self.gauges(OWN_NETNS)?);
        {
            let mut audit_state = self.audit_state_mut();
            seeding.complete(new)?;
            audit_state.sync_namespaces(&walks, &live_namespaces, self.doubt_unwalked());
            audit_state.switch(ports, unregistered, scope);
            if all_recorded {
                audit_state.unrecorded = unrecorded;
            }
        }
        self.cache_audit_split(&walks, skipped, began);
        // Events that began before the switch end.
        quiesce();
        drop(seeding);
        let mut found = self.accumulate_retired()?;
        self.hooks.bank_switched(self.bpf.counts_timewait(new));
        found.retain(|netns, _| walks.contains_key(netns));
        if self.settings.accept_latency {
            // The banks are switched: what is found counts, and the next recount forgets as well.
            let ports = self.live_bank().port_keys();
            let forgotten = ports.and_then(|ports| forget_all_but(&ports, &self.bpf));
            if let Err(error) = forgotten {
                log::debug!(error:%; "times of closed ports are kept until the next audit");
            }
        }
        Ok(found)
    }

    /// Has the audit state take over what the bank before the last switch counted, if it has not yet.
    /// Gives by how much the sockets that were walked exceed those that were counted.
    fn accumulate_retired(&self) -> Result<BTreeMap<NetnsId, Gauges>, BpfError> {
        let (live, (retiring, new, all_netns)) = self.live_bank_with(|audit_state| {
            let others = audit_state.others.keys().copied();
            let all_netns: Vec<_> = others.chain([OWN_NETNS]).collect();
            (audit_state.retiring, audit_state.live, all_netns)
        });
        let Some((old, scope)) = retiring else {
            return Ok(BTreeMap::new());
        };
        let begins = |counts: &dyn Fn(u32) -> bool| counts(new) && !counts(old);
        let own_begins = begins(&|bank| self.bpf.counts_timewait(bank));
        let others_begin = begins(&|bank| self.bpf.counts_timewait_of_others(bank));
        let old = self.bpf.read_bank(old, old);
        let mut port_ends = old.port_ends()?;
        let mut counts = BTreeMap::new();
        for netns in all_netns.into_iter().filter(|&netns| scope.includes(netns)) {
            // The bank is the first that counts minisockets: they are no drift.
            let first_timewait = if netns == OWN_NETNS {
                own_begins
            } else {
                others_begin
            };
            let mut seeded = Gauges::of(&BankSum {
                seeded: live.counters(netns)?.seeded,
                ..BankSum::default()
            });
            if first_timewait {
                seeded = seeded.without_minisockets();
            }
            let retired = RetiredBank {
                counted: old.counters(netns)?,
                port_ends: port_ends.remove(&netns).unwrap_or_default(),
                seeded,
            };
            counts.insert(netns, retired);
        }
        Ok(self.audit_state_mut().accumulate_retired(&counts))
    }

    /// By how much the sockets that the kernel lists in the calling thread's namespace exceed those
    /// that are counted. A dump tells the truth only if nothing moved.
    fn recount_at_rest(&self, netns: NetnsId) -> Result<RestListing, RecountError> {
        let counted = self.ports_of(netns)?;
        let ports = counted.keys().copied().collect();
        let (before, aux) = (self.read(netns)?, sock_diag::minisockets(&ports)?);
        let truth = self.cells_of(netns, &sock_diag::listing(None)?, &aux.all);
        let listings = sock_diag::listings_of(&ports)?;
        let (after, still) = (self.read(netns)?, sock_diag::minisockets(&ports)?);
        let moved = |reading: &Reading| (reading.gauges, reading.events);
        if moved(&before) != moved(&after) || aux != still {
            return Err(RecountError::Unrest);
        }
        let missing = |(port, counted): (u16, Gauges)| {
            let listing = listings.get(&port).copied().unwrap_or_default();
            let aux = aux.ports.get(&port).copied().unwrap_or_default();
            (port, self.cells_of(netns, &listing, &aux) - counted)
        };
        Ok(RestListing {
            missing: truth - after.gauges,
            ports: counted.into_iter().map(missing).collect(),
        })
    }

    /// What the live bank has of the ports of a namespace.
    fn ports_of(&self, netns: NetnsId) -> Result<BTreeMap<u16, Gauges>, BpfError> {
        let ports = self.live_bank().ports()?;
        let range = ports.range((netns, 0)..=(netns, u16::MAX));
        Ok(range.map(|(&(_, port), &sum)| (port, sum.into())).collect())
    }

    /// The places of what is listed: minisockets have some where events follow them.
    fn cells_of(&self, netns: NetnsId, listing: &Listing, aux: &MiniSplit) -> Gauges {
        let full = Gauges::full_sockets(listing, aux);
        if self.counts_timewait(netns) {
            full + Gauges::minisockets_of(aux)
        } else {
            full
        }
    }

    /// Whether a walk may have passed over sockets of a namespace that is counted like this.
    pub(crate) fn may_have_skipped(&self, gauges: &Gauges) -> bool {
        self.plan.walk_skips && gauges.sum(&[State::Listen]) == 0
    }

    /// Has a listing at rest decide what was found where walks may have passed over sockets.
    pub(crate) fn apply_rest_listings(
        &self,
        diffs: &mut BTreeMap<NetnsId, AuditDiff>,
        area: &Area<'_>,
    ) -> Result<(), RecountError> {
        if !self.plan.walk_skips {
            return Ok(());
        }
        let targets = self.area_targets(area);
        let ids = targets.ids(&self.bpf)?;
        let listed = targets.walk_each(|| {
            let inode = netns::own().unwrap_or(self.inode);
            let Some(&netns) = ids.get(&inode) else {
                return Ok(None);
            };
            let skipped = self.may_have_skipped(&self.gauges(netns)?);
            Ok(skipped.then(|| self.recount_at_rest(netns)))
        })?;
        for (netns, listed) in by_id(listed, &ids) {
            if let (Some(listed), Some(diff)) = (listed, diffs.get_mut(&netns)) {
                match listed {
                    Err(RecountError::Unrest) => diff.mark_undecided(),
                    listed => {
                        let RestListing { missing, ports } = listed?;
                        diff.set_decided(missing);
                        self.set_port_bases(netns, ports);
                    }
                }
            }
        }
        Ok(())
    }

    fn area_targets(&self, area: &Area<'_>) -> NetnsTargets {
        let targets = self.netns_targets(area.scope());
        match area {
            Area::Busy(busy) => targets.only(&busy.iter().map(|&id| self.inode(id)).collect()),
            Area::Own | Area::All => targets,
        }
    }

    fn set_port_bases(&self, netns: NetnsId, ports: BTreeMap<u16, Gauges>) {
        let mut audit_state = self.audit_state_mut();
        let netns_state = audit_state.netns_states_mut().find(|(of, _)| *of == netns);
        if let Some((_, netns_state)) = netns_state {
            netns_state.ports = Arc::new(ports);
        }
    }

    /// Keeps what an audit's walks met beside full sockets, unless they may have passed over some.
    pub(crate) fn cache_audit_split(
        &self,
        walks: &Walks,
        skipped: bool,
        began: Option<SplitMoment>,
    ) {
        if let Some(walked) = walks.get(&OWN_NETNS).filter(|_| !skipped) {
            self.cache_split(OWN_NETNS, walked, began);
        }
    }
}
