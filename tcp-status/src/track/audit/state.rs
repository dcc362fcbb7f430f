//! The audit state: which bank is live, what is added to it, and what the audits found, for each
//! namespace that is counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tcp_status_common::{
    counters::{NetnsId, OVERFLOW_NETNS, OWN_NETNS},
    state::State,
};

use super::schedule::Cause;
use crate::{
    bpf::{BankSum, PortEnds, Scope},
    snapshot::{Counts, Drift},
    track::{gauge::Gauges, minisockets::idle_ages::IdleAges, seed::seeding::Walks},
};

/// A namespace that is counted by events, but that no walk has visited.
pub const UNREACHABLE: &str = "no process or mount references this network namespace: \
     counts start at its first event and cannot be audited";

/// A namespace in which a walk may have passed over sockets, and that was never at rest since.
pub const SKIPPED: &str = "this kernel's TCP iterator may skip sockets of a network namespace \
     without listeners; the first audit at rest decides";

/// A namespace in which something was counted, but that nothing has confirmed yet.
pub const APPEARED: &str = "network namespace created since the last audit";

/// What is known of one namespace beside its counters.
#[derive(Clone, Debug, Default)]
pub struct NetnsState {
    /// Added to the live bank's gauges: a seed or a correction made in user space.
    pub base: Gauges,
    /// Added to the live bank's gauges of single ports: what a walk passed over there.
    pub ports: Arc<BTreeMap<u16, Gauges>>,
    /// Flows of banks that are no longer live.
    pub accumulated: Arc<BankSum>,
    /// Ends of connections, by port, that these counted.
    pub port_ends: Arc<PortEnds>,
    /// Events were missed there, and no pass has counted its cgroups since: of other namespaces than the
    /// tracker's own.
    pub cgroups_in_doubt: bool,
    /// Why its counts are in doubt until an audit has looked.
    pub degraded_reason: Option<String>,
    /// How long connections had been silent when a walk last met them.
    pub idle_ages: Option<IdleAges>,
    corrections: Counts,
}

impl NetnsState {
    /// Of a namespace that has been seen, but not walked.
    #[must_use]
    pub fn unaudited(degraded_reason: &str) -> Self {
        Self {
            degraded_reason: Some(degraded_reason.to_owned()),
            ..Self::default()
        }
    }

    /// Whether an audit ever corrected something.
    #[must_use]
    pub fn is_corrected(&self) -> bool {
        self.corrections.total() > 0
    }

    /// Enters what an audit found: what it corrected, and why that may not be all.
    pub fn audited(&mut self, corrections: [u64; State::COUNT], degraded_reason: Option<&str>) {
        for (state, by) in State::ALL.into_iter().zip(corrections) {
            self.cgroups_in_doubt |= by > 0;
            self.corrections[state] += by;
        }
        self.degraded_reason = degraded_reason.map(str::to_owned);
    }
}

/// What a bank that is no longer live counted, and what the one after it was seeded with.
#[derive(Debug)]
pub struct RetiredBank {
    /// All that was counted.
    pub counted: BankSum,
    /// Ends of connections, by port.
    pub port_ends: PortEnds,
    /// The sockets at the moment of the switch.
    pub seeded: Gauges,
}

/// Everything that changes at an audit.
#[derive(Debug)]
pub struct AuditState {
    /// The bank that events of the tracker's own namespace are counted into.
    pub live: u32,
    /// The bank that events of other namespaces are counted into.
    pub live_of_others: u32,
    /// The bank that events were counted into before, until the states of namespaces have what it counted, and
    /// whose.
    pub retiring: Option<(u32, Scope)>,
    /// By how much the two copies of the handler disagreed when the last audit began.
    pub baseline: i64,
    /// Events that the kernel told neither copy of the handler, as far as they are known.
    pub missed: u64,
    /// Why all counts are in doubt until the next audit succeeds.
    pub degraded_reason: Option<String>,
    /// A reason to expect a difference in the counts that no audit has looked into yet.
    pub suspicion: Option<Cause>,
    /// The tracker's own namespace.
    pub own: NetnsState,
    /// Other namespaces.
    pub others: BTreeMap<NetnsId, NetnsState>,
    /// Ports that were entered before the last walk began: connections that they had before
    /// they got a listener are counted as well. By namespace.
    pub walked_ports: Arc<BTreeSet<(NetnsId, u16)>>,
    /// Listeners without a port when the last walk began, since start.
    pub unregistered: u64,
    /// Closed listeners that could not be recorded before the last audit that found room for all, since
    /// start.
    pub unrecorded: u64,
    audits: u64,
    last_audit: Instant,
    cost: Duration,
}

impl AuditState {
    /// Right after the first seeding, which took `cost`.
    #[must_use]
    pub fn new(cost: Duration, baseline: i64) -> Self {
        Self {
            live: 0,
            live_of_others: 0,
            retiring: None,
            baseline,
            missed: 0,
            degraded_reason: None,
            suspicion: None,
            own: NetnsState::default(),
            others: BTreeMap::new(),
            walked_ports: Arc::default(),
            unregistered: 0,
            unrecorded: 0,
            audits: 0,
            last_audit: Instant::now(),
            cost,
        }
    }

    /// The state of a namespace; none if nothing is known of it.
    #[must_use]
    pub fn netns_state(&self, netns: NetnsId) -> Option<&NetnsState> {
        if netns == OWN_NETNS {
            Some(&self.own)
        } else {
            self.others.get(&netns)
        }
    }

    fn netns_states(&self) -> impl Iterator<Item = (NetnsId, &NetnsState)> {
        let others = self
            .others
            .iter()
            .map(|(&netns, netns_state)| (netns, netns_state));
        std::iter::once((OWN_NETNS, &self.own)).chain(others)
    }

    /// The state of every namespace.
    pub fn netns_states_mut(&mut self) -> impl Iterator<Item = (NetnsId, &mut NetnsState)> {
        let others = self
            .others
            .iter_mut()
            .map(|(&netns, netns_state)| (netns, netns_state));
        std::iter::once((OWN_NETNS, &mut self.own)).chain(others)
    }

    /// What is added to the ports of each namespace that has such.
    #[must_use]
    pub fn port_bases(&self) -> Vec<(NetnsId, Arc<BTreeMap<u16, Gauges>>)> {
        self.netns_states()
            .filter(|(_, netns_state)| !netns_state.ports.is_empty())
            .map(|(netns, netns_state)| (netns, Arc::clone(&netns_state.ports)))
            .collect()
    }

    /// Connections that ended, by port, of each namespace that has such, as banks counted that are no longer live.
    #[must_use]
    pub fn port_ends(&self) -> Vec<(NetnsId, Arc<PortEnds>)> {
        self.netns_states()
            .filter(|(_, netns_state)| !netns_state.port_ends.is_empty())
            .map(|(netns, netns_state)| (netns, Arc::clone(&netns_state.port_ends)))
            .collect()
    }

    /// Adds a state for each namespace in which something was walked or counted, keeps what walks
    /// met, and removes those of namespaces that are gone and empty. Those that were not walked
    /// are in doubt for the reason `unaudited`, where there is one.
    pub fn sync_namespaces(
        &mut self,
        walks: &Walks,
        live_namespaces: &BTreeMap<NetnsId, u32>,
        unaudited: Option<&str>,
    ) {
        for (&netns, walked) in walks {
            let netns_state = if netns == OWN_NETNS {
                &mut self.own
            } else {
                self.others.entry(netns).or_default()
            };
            netns_state.idle_ages = Some(IdleAges::new(walked));
        }
        self.appeared(live_namespaces.keys().copied());
        self.forget_all_but(live_namespaces);
        for (netns, netns_state) in &mut self.others {
            if let Some(unaudited) = unaudited.filter(|_| !walks.contains_key(netns)) {
                netns_state.degraded_reason = Some(unaudited.into());
            }
        }
    }

    /// Adds a state for each of these namespaces that has none.
    pub fn appeared(&mut self, live_namespaces: impl Iterator<Item = NetnsId>) {
        for netns in live_namespaces {
            let unaudited = || NetnsState::unaudited(APPEARED);
            self.others.entry(netns).or_insert_with(unaudited);
        }
    }

    /// Removes the states of namespaces that are gone.
    pub fn forget_all_but(&mut self, live_namespaces: &BTreeMap<NetnsId, u32>) {
        self.others
            .retain(|netns, _| *netns == OVERFLOW_NETNS || live_namespaces.contains_key(netns));
    }

    /// Events in `scope` are counted into the other bank from now on. `ports` were entered there
    /// before it was seeded.
    pub fn switch(&mut self, ports: BTreeSet<(NetnsId, u16)>, unregistered: u64, scope: Scope) {
        self.retiring = Some((self.live, scope));
        self.live = 1 - self.live;
        let walked = Arc::make_mut(&mut self.walked_ports);
        walked.retain(|(netns, _)| !scope.includes(*netns));
        walked.extend(ports);
        self.unregistered = unregistered;
        self.own.ports = Arc::default();
        if scope == Scope::All {
            self.live_of_others = self.live;
            for netns_state in self.others.values_mut() {
                netns_state.ports = Arc::default();
            }
        }
    }

    /// Enters a correction of another namespace, and that its counts, and those of `ports` and, `by_cgroup`, of
    /// its cgroups, are what the kernel lists.
    pub fn confirm(
        &mut self,
        netns: NetnsId,
        correction: Gauges,
        ports: impl IntoIterator<Item = (u16, Gauges)>,
        by_cgroup: bool,
    ) {
        let Some(netns_state) = self.others.get_mut(&netns) else {
            return;
        };
        netns_state.base = netns_state.base + correction;
        netns_state.audited(correction.distance(&Gauges::default()), None);
        netns_state.cgroups_in_doubt &= !by_cgroup;
        for (port, correction) in ports {
            Arc::make_mut(&mut self.walked_ports).insert((netns, port));
            if correction != Gauges::default() {
                let base = Arc::make_mut(&mut netns_state.ports)
                    .entry(port)
                    .or_default();
                *base = *base + correction;
            }
        }
    }

    /// Forgets the ports of other namespaces that are not `kept`.
    pub fn forget_ports(&mut self, kept: impl Fn(NetnsId, u16) -> bool) {
        let is_kept = |netns, port| netns == OWN_NETNS || kept(netns, port);
        Arc::make_mut(&mut self.walked_ports).retain(|&(netns, port)| is_kept(netns, port));
        for (&netns, netns_state) in &mut self.others {
            if netns_state.ports.keys().any(|&port| !kept(netns, port)) {
                Arc::make_mut(&mut netns_state.ports).retain(|&port, _| kept(netns, port));
            }
        }
    }

    /// Enters what the retiring bank counted of each namespace into its state, so that readings stay
    /// what they are with the live bank alone. Gives by how much the sockets that the live bank was
    /// seeded with exceed those that were counted.
    pub fn accumulate_retired(
        &mut self,
        counts: &BTreeMap<NetnsId, RetiredBank>,
    ) -> BTreeMap<NetnsId, Gauges> {
        let mut found = BTreeMap::new();
        for (netns, netns_state) in self.netns_states_mut() {
            if let Some(retired) = counts.get(&netns) {
                let RetiredBank {
                    counted, seeded, ..
                } = retired;
                let missing = *seeded - (Gauges::of(counted) + netns_state.base);
                netns_state.accumulated = Arc::new(counted.plus_flows(&netns_state.accumulated));
                netns_state.base = -missing;
                let ends = Arc::make_mut(&mut netns_state.port_ends);
                add_ends(ends, &retired.port_ends);
                // Their counters are gone, or begin anew.
                ends.retain(|port, _| retired.port_ends.contains_key(port));
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
    /// `baseline`. What it found is in the states of namespaces.
    pub fn audited(&mut self, cost: Duration, baseline: i64) {
        self.audits += 1;
        self.missed += baseline.abs_diff(self.baseline);
        self.baseline = baseline;
        self.degraded_reason = None;
        self.suspicion = None;
        self.record_attempt(cost);
    }

    /// Enters an audit that could not tell.
    pub fn record_attempt(&mut self, cost: Duration) {
        self.cost = cost;
        self.last_audit = Instant::now();
    }

    /// What the audits found in one namespace, as outputs show it.
    #[must_use]
    pub fn drift(&self, netns_state: &NetnsState) -> Drift {
        let audited = self.audits > 0;
        Drift {
            corrections: netns_state.corrections.total(),
            corrections_by_state: netns_state.corrections,
            audits: self.audits,
            last_audit_seconds_ago: audited.then(|| self.since_audit().as_secs()),
            last_audit_microseconds: audited
                .then(|| u64::try_from(self.cost.as_micros()).unwrap_or(u64::MAX)),
        }
    }

    /// Why a number of a namespace may be off right now.
    #[must_use]
    pub fn degraded(&self, netns_state: &NetnsState) -> Option<String> {
        self.degraded_reason
            .clone()
            .or_else(|| netns_state.degraded_reason.clone())
            .or_else(|| {
                let cause = self.suspicion.as_ref();
                cause.map(|cause| format!("{cause}; the next audit corrects what that changed"))
            })
    }
}

/// Adds counts by port and reason to others.
pub fn add_ends(sums: &mut PortEnds, counts: &PortEnds) {
    for (port, counts) in counts {
        let sums = sums.entry(*port).or_default().iter_mut();
        sums.zip(counts).for_each(|(sum, count)| *sum += count);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{AuditState, Cause, State};

    #[test]
    fn an_audit_settles_every_doubt_and_is_counted_by_state() {
        let mut audit_state = AuditState::new(Duration::from_millis(3), 10);
        assert_eq!(
            audit_state.drift(&audit_state.own).last_audit_seconds_ago,
            None
        );
        audit_state.degraded_reason = Some("seeded from procfs".into());
        audit_state.suspicion = Some(Cause::Missed(2));
        let degraded = |audit_state: &AuditState| audit_state.degraded(&audit_state.own);
        assert!(degraded(&audit_state).unwrap().contains("procfs"));
        let mut corrections = [0; State::COUNT];
        corrections[State::FinWait1.index()] = 5;
        audit_state.own.audited(corrections, None);
        audit_state.audited(Duration::from_millis(7), 12);
        assert_eq!(degraded(&audit_state), None);
        let drift = audit_state.drift(&audit_state.own);
        assert_eq!((drift.corrections, drift.audits), (5, 1));
        assert_eq!(drift.corrections_by_state[State::FinWait1], 5);
        assert_eq!(drift.last_audit_microseconds, Some(7000));
        assert_eq!(audit_state.missed, 2);
        audit_state
            .own
            .audited([0; State::COUNT], Some("recounts differ"));
        assert_eq!(degraded(&audit_state).as_deref(), Some("recounts differ"));
    }

    #[test]
    fn what_may_be_off_is_degraded() {
        let mut audit_state = AuditState::new(Duration::ZERO, 0);
        assert_eq!(audit_state.degraded(&audit_state.own), None);
        audit_state.suspicion = Some(Cause::Missed(4));
        let missed = audit_state.degraded(&audit_state.own).unwrap();
        assert!(missed.contains("4 state changes missed"));
    }
}
