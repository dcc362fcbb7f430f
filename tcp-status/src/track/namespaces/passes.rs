//! Namespaces other than the tracker's own: one pass over the kernel's socket tables counts the
//! sockets of all of them, and confirms or corrects those that are at rest. Enters none.
//!
//! The pass takes no lock, and is no moment: it says something of a namespace only if no event was
//! counted there before, meanwhile and for a while before. What is found once may be a socket that
//! moved; only what two passes agree on is corrected.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tcp_status_common::{
    counters::{NamespaceRecord, NetnsId, OVERFLOW_NETNS},
    table::ListedCounts,
};

use super::{
    cgroup_passes::FoundCgroups,
    listed::ByNamespace,
    pass_schedule::{self, PassInputs, leaves_reserve},
    table_counts::{by_namespace, tables},
    watched::{Missing, Watched},
};
use crate::{
    bpf::{BpfError, Listing, Scope},
    track::{
        audit::{diff::AuditDiff, recount::RecountError, schedule::Pace},
        gauge::Gauges,
        resources::{
            budget::Budget,
            cpu_time::CpuTimer,
            sync::{POISONED, lock},
        },
        tracker::Tracker,
    },
};

/// How long a namespace may go without rest before a pass is to confirm it between two events.
const RESTLESS: Duration = Duration::from_secs(5);

/// How long it may go on before it is counted again from inside: events come too fast for a pass.
const BUSY: Duration = Duration::from_secs(30);

/// The shortest time between two looks for the ways into new namespaces.
const NAMES: Duration = Duration::from_secs(1);

/// Watches all namespaces but the tracker's own.
pub(crate) struct Namespaces {
    watched: BTreeMap<NetnsId, Watched>,
    budget: Budget,
    /// Events counted in all namespaces when these were last read.
    counted: Option<u64>,
    /// When the last pass ended, and what it cost.
    passed: Instant,
    cost: Duration,
    /// What it last cost to count all from inside.
    recount_cost: Duration,
    /// When the ways into namespaces were last looked for, and what for.
    named: Instant,
    unnamed: bool,
    /// Ports may be left of namespaces that went, or in a bank that is not live any more.
    stale_ports: bool,
    /// Namespaces that were forgotten when ports were last given back.
    removed: u64,
}

impl Namespaces {
    pub(crate) fn new(share: f64, now: Instant) -> Self {
        Self {
            watched: BTreeMap::new(),
            budget: Budget::new(share, Pace::SAVED, Duration::ZERO, now),
            counted: None,
            passed: now,
            cost: Duration::ZERO,
            recount_cost: Duration::ZERO,
            named: now,
            unnamed: false,
            stale_ports: false,
            removed: 0,
        }
    }

    /// Whether nothing is left to confirm.
    pub(crate) fn are_settled(&self) -> bool {
        self.watched.values().all(Watched::is_confirmed) && !self.unnamed
    }

    /// Confirms or corrects the namespaces that came to rest. `counted` events came in all of them
    /// and in the tracker's own.
    pub(crate) fn tick(&mut self, tracker: &Tracker, counted: u64) -> Result<(), RecountError> {
        if !tracker.bpf.lists_tables() {
            return Ok(());
        }
        for (&netns, watched) in &mut self.watched {
            let enters_port = watched.lacks_room && tracker.bpf.has_room_for_port(netns);
            let enters_cgroup = watched.lacks_cgroup_slot && tracker.bpf.has_room_for_cgroup(netns);
            if enters_port || enters_cgroup {
                // The next pass does.
                watched.confirmed = None;
            }
        }
        let now = Instant::now();
        let since = now - self.passed;
        let pace = &tracker.settings.pace;
        let first = self.counted.is_none();
        let moved = self.counted.replace(counted) != Some(counted);
        let is_due = since >= pace.regular(self.cost);
        if !moved && !is_due && self.are_settled() {
            return Ok(());
        }
        self.update(tracker, tracker.bpf.namespaces()?, now)?;
        self.find_names(tracker, now)?;
        if first || pass_schedule::is_due(pace, &self.inputs(now)) {
            let timer = CpuTimer::start();
            let passed = self.pass(tracker, now);
            (self.passed, self.cost) = (Instant::now(), timer.spent());
            self.spend(self.cost, self.passed);
            passed?;
        }
        Ok(())
    }

    /// What was seen since the last pass.
    fn inputs(&self, now: Instant) -> PassInputs {
        let watched = || self.watched.values();
        let resting = || watched().filter(|watched| watched.is_at_rest(now));
        PassInputs {
            since: now - self.passed,
            cost: self.cost,
            saved: self.budget.saved(now),
            amiss: resting().any(|watched| watched.found.is_some()),
            rested: resting().any(|watched| !watched.is_confirmed()),
            restless: watched().any(|watched| watched.is_restless_for(RESTLESS, now)),
        }
    }

    /// Subtracts the cost of a walk. What is saved up suffices for any.
    fn spend(&mut self, cost: Duration, now: Instant) {
        self.budget.spend(cost, now);
        self.budget.expect(self.cost.max(self.recount_cost), now);
    }

    /// All were counted again: the bank before has their ports still.
    pub(crate) const fn recounted(&mut self) {
        self.stale_ports = true;
    }

    /// The namespaces that have to be counted again from inside, for they never rest.
    pub(crate) fn busy(&self, now: Instant) -> BTreeSet<NetnsId> {
        let watched = self.watched.iter();
        let busy = watched.filter(|(_, watched)| watched.is_restless_for(BUSY, now));
        busy.map(|(&netns, _)| netns).collect()
    }

    /// Whether there is processor time to do that, beside what is left for those that come to rest.
    pub(crate) fn affords(&self, now: Instant) -> bool {
        leaves_reserve(self.budget.saved(now), self.recount_cost, self.cost)
    }

    /// The `busy` namespaces were counted again from inside, at this `cost`. The bank has changed:
    /// the ports of all others are confirmed anew.
    pub(crate) fn add_recount(&mut self, busy: &BTreeSet<NetnsId>, cost: Duration, now: Instant) {
        self.recount_cost = cost;
        self.spend(cost, now);
        self.stale_ports = true;
        for (netns, watched) in &mut self.watched {
            if busy.contains(netns) {
                // One that cannot be entered is tried again later.
                watched.verified = now;
            } else {
                watched.confirmed = None;
            }
        }
    }

    /// Enters which namespaces there are.
    fn update(
        &mut self,
        tracker: &Tracker,
        records: Vec<(NetnsId, NamespaceRecord)>,
        now: Instant,
    ) -> Result<(), BpfError> {
        // One may have come and gone between two looks.
        let removed = tracker.bpf.namespaces_removed();
        self.stale_ports |= removed != self.removed;
        self.removed = removed;
        let kept = records.iter().filter(|(id, _)| *id != OVERFLOW_NETNS);
        let live_namespaces: BTreeMap<_, _> = kept.map(|(id, one)| (*id, one.inode)).collect();
        self.watched
            .retain(|netns, _| *netns == OVERFLOW_NETNS || live_namespaces.contains_key(netns));
        let counts_timewait = tracker.counts_timewait(OVERFLOW_NETNS);
        for (netns, record) in records {
            let unused = netns == OVERFLOW_NETNS && record.events == 0;
            match self.watched.get_mut(&netns) {
                Some(watched) => watched.observe(record, counts_timewait, now),
                None if unused => {}
                None => {
                    self.unnamed = true;
                    let mut watched = Watched::new(record, now);
                    watched.observe(record, counts_timewait, now);
                    self.watched.insert(netns, watched);
                }
            }
        }
        tracker.keep_living(&live_namespaces);
        tracker
            .audit_state_mut()
            .appeared(self.watched.keys().copied());
        Ok(())
    }

    /// Looks for the ways into new namespaces, which say their names.
    fn find_names(&mut self, tracker: &Tracker, now: Instant) -> Result<(), BpfError> {
        let affords = !self.budget.saved(now).is_zero();
        if !self.unnamed || now - self.named < NAMES || !affords {
            return Ok(());
        }
        let timer = CpuTimer::start();
        let targets = tracker.netns_targets(Scope::All);
        let entries = targets.entries(&targets.ids(&tracker.bpf)?);
        let hidden = self.watched.keys().copied();
        let hidden = hidden.filter(|netns| !entries.contains_key(netns));
        *tracker.hidden.write().expect(POISONED) = hidden.collect();
        *tracker.netns_entries.write().expect(POISONED) = entries;
        self.unnamed = false;
        self.named = Instant::now();
        self.budget.spend(timer.spent(), self.named);
        Ok(())
    }

    /// One pass over the kernel's tables.
    fn pass(&mut self, tracker: &Tracker, now: Instant) -> Result<(), BpfError> {
        let restless = |watched: &Watched| watched.is_restless_for(RESTLESS, now);
        let judged: BTreeMap<NetnsId, bool> = self
            .watched
            .iter()
            .map(|(&netns, watched)| (netns, watched.is_at_rest(now), restless(watched)))
            .filter(|&(_, rested, restless)| rested || restless)
            .map(|(netns, rested, _)| (netns, rested))
            .collect();
        let ports = self.unconfirmed_ports(tracker, judged.keys())?;
        let hashinfos = tables(self.watched.values().map(|watched| &watched.record));
        if judged.values().any(|rested| !rested) {
            self.update(tracker, tracker.bpf.namespaces()?, now)?;
        }
        let moment = |watched: &BTreeMap<NetnsId, Watched>, netns| {
            let watched = watched.get(&netns);
            watched.map(Watched::moment)
        };
        let before: BTreeMap<_, _> = judged
            .keys()
            .map(|&netns| (netns, moment(&self.watched, netns)))
            .collect();
        let timer = CpuTimer::start();
        let by_cgroup = tracker.counts_cgroups();
        let listing = tracker.bpf.list_tables(&hashinfos, &ports, by_cgroup)?;
        let cost = timer.spent();
        log::debug!(sockets = listing.sockets, failed = listing.failed, judged = judged.len(),
            microseconds = cost.as_micros(); "listed the kernel's tables");
        let mut counted = tracker.gauges_of_others()?;
        counted.retain(|netns, _| judged.contains_key(netns));
        let port_gauges = match ports.is_empty() {
            true => BTreeMap::new(),
            false => tracker.port_sums()?,
        };
        let cgroups = tracker.live_bank().cgroups()?.tracked;
        // A namespace is judged only if nothing came meanwhile.
        self.update(tracker, tracker.bpf.namespaces()?, Instant::now())?;
        let truths = self.truths(tracker, &listing)?;
        let mut complete = BTreeMap::new();
        let timewait = tracker.counts_timewait(OVERFLOW_NETNS);
        for (netns, counted) in counted {
            let truth = truths.get(&netns).copied().unwrap_or_default();
            let truth = gauges(&truth, timewait);
            let counted = if timewait {
                counted
            } else {
                counted.without_minisockets()
            };
            let undisturbed = moment(&self.watched, netns) == before[&netns];
            let Some(watched) = self.watched.get_mut(&netns).filter(|_| undisturbed) else {
                continue;
            };
            let listed = listing.cgroups.as_ref().filter(|_| netns != OVERFLOW_NETNS);
            let found = listed.map(|listed| FoundCgroups::new(netns, listed, &cgroups));
            let FoundCgroups { unslotted, missing } = found.unwrap_or_default();
            let missing = Missing {
                gauges: truth - counted,
                cgroups: missing,
            };
            let Some(correction) = watched.judge(judged[&netns], missing, now) else {
                continue;
            };
            let added = correction.cgroups.into_iter().chain(unslotted);
            let entered = tracker.add_to_cgroups(netns, added);
            watched.lacks_cgroup_slot = !entered.inspect_err(|_| watched.confirmed = None)?;
            if listed.is_some() && !watched.lacks_cgroup_slot {
                complete.insert(netns, watched.record.events);
            }
            let correction = correction.gauges;
            let ports = listing.ports.iter().filter(|((of, _), _)| *of == netns);
            let ports = ports.filter_map(|((_, port), counts)| {
                let counted = port_gauges.get(&(netns, *port))?;
                let mut missing = gauges(counts, timewait) - *counted;
                if !timewait {
                    missing = missing.without_minisockets();
                }
                Some((*port, missing))
            });
            if correction != Gauges::default() {
                let corrected = AuditDiff::new(correction).describe();
                log::debug!(netns = tracker.inode(netns), corrected = corrected.as_str();
                    "the kernel's tables corrected the counts");
            }
            let mut audit_state = tracker.audit_state_mut();
            audit_state.confirm(netns, correction, ports, listed.is_some());
        }
        tracker.admit_cgroups(&complete)?;
        self.give_back_slots(tracker)?;
        let mut listed = lock(&tracker.listed);
        (listed.taken, listed.cost) = (Some(Instant::now()), cost);
        listed.counts = truths;
        Ok(())
    }

    /// Gives back the slots of ports and cgroups without a socket.
    fn give_back_slots(&mut self, tracker: &Tracker) -> Result<(), BpfError> {
        let (mut settled, mut settled_cgroups) = (BTreeSet::new(), BTreeSet::new());
        for (&netns, watched) in &mut self.watched {
            if !watched.is_confirmed() {
                continue;
            }
            let events = Some(watched.record.events);
            if watched.cgroups_freed_at != events {
                watched.cgroups_freed_at = events;
                settled_cgroups.insert(netns);
            }
            // Minisockets are not counted by port everywhere. They have no cgroup.
            if watched.record.timewait == 0 && watched.ports_freed_at != events {
                watched.ports_freed_at = events;
                settled.insert(netns);
            }
        }
        if !settled_cgroups.is_empty() || self.stale_ports {
            tracker.give_back_cgroups(&settled_cgroups)?;
        }
        if settled.is_empty() && !self.stale_ports {
            return Ok(());
        }
        let mut unused = tracker.port_sums()?;
        unused
            .retain(|(netns, _), sockets| settled.contains(netns) && *sockets == Gauges::default());
        if unused.is_empty() && !self.stale_ports {
            return Ok(());
        }
        let bank = tracker.audit_state().live_of_others;
        let kept =
            |netns, port| self.watched.contains_key(&netns) && !unused.contains_key(&(netns, port));
        // One that gets a listener meanwhile is entered again by the next pass, for it had an event.
        tracker.audit_state_mut().forget_ports(kept);
        tracker.bpf.forget_ports(bank, kept)?;
        self.stale_ports = false;
        Ok(())
    }

    /// What was listed by namespace; those without counters together. One without an event gets
    /// counters, if there is room.
    fn truths(&mut self, tracker: &Tracker, listing: &Listing) -> Result<ByNamespace, BpfError> {
        let timewait = tracker.counts_timewait(OVERFLOW_NETNS);
        let mut entered = Vec::new();
        let truths = by_namespace(listing, tracker.inode, |net, listed| {
            if listed.netns == OVERFLOW_NETNS || self.watched.contains_key(&listed.netns) {
                return Ok(Some(listed.netns));
            }
            let (netns, inode) = (listed.netns, listed.inode);
            if tracker.bpf.enter_namespace(netns, net, inode)? {
                entered.push((netns, gauges(&listed.counts, timewait)));
                return Ok(None);
            }
            Ok(Some(OVERFLOW_NETNS))
        })?;
        if !entered.is_empty() {
            self.update(tracker, tracker.bpf.namespaces()?, Instant::now())?;
            for (netns, missing) in entered {
                // Nothing was counted there: the next pass decides.
                if let Some(watched) = self.watched.get_mut(&netns) {
                    let missing = Missing {
                        gauges: missing,
                        ..Missing::default()
                    };
                    watched.found = Some((watched.moment(), missing));
                }
            }
        }
        if truths.contains_key(&OVERFLOW_NETNS) && !self.watched.contains_key(&OVERFLOW_NETNS) {
            let watched = Watched::new(NamespaceRecord::NONE, Instant::now());
            self.watched.insert(OVERFLOW_NETNS, watched);
        }
        Ok(truths)
    }

    /// The ports of namespaces to be judged whose counts are to be confirmed: those that no walk has
    /// covered, and all where something is amiss.
    fn unconfirmed_ports<'a>(
        &mut self,
        tracker: &Tracker,
        judged: impl Iterator<Item = &'a NetnsId>,
    ) -> Result<Vec<(NetnsId, u16)>, BpfError> {
        let (live, walked) =
            tracker.live_bank_with(|audit_state| Arc::clone(&audit_state.walked_ports));
        let unconfirmed: BTreeMap<NetnsId, bool> = judged
            .filter_map(|netns| Some((*netns, self.watched.get(netns)?)))
            .filter(|(_, watched)| !watched.is_confirmed())
            .map(|(netns, watched)| (netns, watched.found.is_some()))
            .collect();
        if unconfirmed.is_empty() {
            return Ok(Vec::new());
        }
        let mut ports = live.port_keys()?;
        let unentered = unentered_ports(tracker, &unconfirmed, &ports)?;
        let mut left_out = BTreeSet::new();
        if !unentered.is_empty() {
            let bank = tracker.audit_state().live_of_others;
            left_out = tracker.bpf.enter_ports(unentered, bank)?;
            ports = live.port_keys()?;
        }
        for netns in unconfirmed.keys() {
            if let Some(watched) = self.watched.get_mut(netns) {
                watched.lacks_room = left_out.contains(netns);
            }
        }
        let wanted = ports.into_iter().filter(|port| {
            let is_amiss = unconfirmed.get(&port.0);
            is_amiss.is_some_and(|is_amiss| *is_amiss || !walked.contains(port))
        });
        Ok(wanted.collect())
    }
}

/// The ports of `unconfirmed` namespaces that have a listener and are not entered: one that was there
/// before the tracker, where no walk came, or that came while the bank was changed.
fn unentered_ports(
    tracker: &Tracker,
    unconfirmed: &BTreeMap<NetnsId, bool>,
    entered: &BTreeSet<(NetnsId, u16)>,
) -> Result<BTreeSet<(NetnsId, u16)>, BpfError> {
    let listed = tracker.bpf.list_listeners()?.listeners.into_iter();
    let ports = listed.map(|one| (one.netns, one.record.port));
    let missing = ports.filter(|(netns, port)| {
        *netns != OVERFLOW_NETNS
            && unconfirmed.contains_key(netns)
            && !entered.contains(&(*netns, *port))
    });
    Ok(missing.collect())
}

/// What was listed, in the places of the counters: without request sockets, and without minisockets
/// unless events count them.
fn gauges(counts: &ListedCounts, timewait: bool) -> Gauges {
    const CLOSED: usize = 7;
    let mut gauges = Gauges::default();
    for (cells, counts) in gauges.0.iter_mut().zip(counts) {
        for (cell, &count) in cells.iter_mut().zip(counts) {
            *cell = count.into();
        }
        cells[CLOSED] = 0;
    }
    if timewait {
        gauges
    } else {
        gauges.without_minisockets()
    }
}
