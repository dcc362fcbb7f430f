//! The tracker: programs in the kernel, the audit state of every namespace that they count, and who may
//! ask what.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use tcp_status_common::counters::{NamespaceRecord, NetnsId, OVERFLOW_NETNS, OWN_NETNS};

use super::{
    answers::{
        accept_latency::AcceptMeter,
        cgroup_names::Names,
        reading::{Counters, Reading},
    },
    audit::{
        schedule::Pace,
        state::{APPEARED, AuditState, UNREACHABLE},
    },
    destinations::walks::Walks,
    gauge::{self, Gauges},
    history::samples::{Samples, Waker},
    minisockets::{split_caches::SplitCaches, timewait_hooks::TimewaitHooks},
    namespaces::{inside::InsideCache, listed::TableCounts},
    resources::sync::{POISONED, lock},
    scan::Scan,
    seed::netns_targets::NetnsTargets,
};
use crate::{
    bpf::{BankReader, BankSum, Bpf, BpfError, MapLimits, Scope},
    kernel::{netns::list::NetnsEntry, plan::EbpfPlan, procfs},
    snapshot::Transitions,
};

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
    pub limits: MapLimits,
    /// Seed first, and attach the hooks of timewait minisockets in the background, however long
    /// the kernel takes.
    pub attach_later: bool,
    /// Measure the time that connections wait for `accept()`.
    pub accept_latency: bool,
}

/// Counts network namespaces by events. Dropping it takes everything out of the kernel.
pub struct Tracker {
    pub(super) bpf: Bpf,
    pub(super) plan: EbpfPlan,
    pub(super) hooks: TimewaitHooks,
    pub(super) accept: AcceptMeter,
    pub(super) settings: Settings,
    /// Inode number of the tracker's own namespace.
    pub(super) inode: u32,
    pub(super) audit_state: RwLock<AuditState>,
    pub(super) splits: SplitCaches,
    pub(super) samples: Mutex<Samples>,
    /// Of the thread that samples, once there is one.
    pub(super) waker: OnceLock<Arc<Waker>>,
    /// The ways to other namespaces that the last walks took.
    pub(super) netns_entries: RwLock<BTreeMap<NetnsId, NetnsEntry>>,
    /// Other namespaces that no process and no mount references.
    pub(super) hidden: RwLock<BTreeSet<NetnsId>>,
    /// Inode numbers of other namespaces that were there when last looked.
    pub(super) inodes: RwLock<BTreeMap<NetnsId, u32>>,
    /// What the last pass over the kernel's tables counted in other namespaces.
    pub(super) listed: Mutex<TableCounts>,
    /// What was last read inside other namespaces.
    pub(super) inside: Mutex<InsideCache>,
    pub(super) cgroup_names: Names,
    /// Of destinations.
    pub(super) fullest: Mutex<Walks>,
    pub(super) scan: Scan,
}

impl Tracker {
    /// Attaches what [`Settings::attach_later`] has left, if anything; an audit that is held
    /// afterwards makes the tier full. Blocks for as long as the kernel takes.
    pub fn attach_pending(&self) {
        attach(&self.bpf, &self.hooks, &self.accept);
    }

    pub(super) fn audit_state(&self) -> RwLockReadGuard<'_, AuditState> {
        self.audit_state.read().expect(POISONED)
    }

    pub(super) fn audit_state_mut(&self) -> RwLockWriteGuard<'_, AuditState> {
        self.audit_state.write().expect(POISONED)
    }

    /// Where walks go.
    pub(super) fn netns_targets(&self, scope: Scope) -> NetnsTargets {
        if self.settings.all_namespaces && scope == Scope::All {
            NetnsTargets::all(self.inode)
        } else {
            NetnsTargets::own(self.inode)
        }
    }

    /// Why a namespace that a walk did not visit is in doubt: nothing else says what is there.
    pub(super) fn doubt_unwalked(&self) -> Option<&'static str> {
        (!self.bpf.lists_tables()).then_some(UNREACHABLE)
    }

    /// Whether no process and no mount references a namespace.
    pub(super) fn is_hidden(&self, netns: NetnsId) -> bool {
        self.hidden.read().expect(POISONED).contains(&netns)
    }

    /// Whether events count the timewait minisockets of a namespace.
    pub(super) fn counts_timewait(&self, netns: NetnsId) -> bool {
        let (own, others) = {
            let audit_state = self.audit_state();
            (audit_state.live, audit_state.live_of_others)
        };
        if netns == OWN_NETNS {
            self.bpf.counts_timewait(own)
        } else {
            self.bpf.counts_timewait_of_others(others)
        }
    }

    /// How many sockets there may be in all that is walked: of other namespaces, only a pass over
    /// the kernel's tables says.
    pub(super) fn socket_count_estimate(&self, scope: Scope) -> Result<u64, BpfError> {
        let listed = match scope {
            Scope::Own => 0,
            Scope::All => self.bpf.list_tables(&[], &[], false)?.sockets,
        };
        Ok(listed.max(socket_count_estimate()))
    }

    /// The banks that hold the counts, and what the audit state holds at that moment.
    pub(super) fn counters_with<T>(
        &self,
        of_state: impl FnOnce(&AuditState) -> T,
    ) -> (Counters<'_>, T) {
        let audit_state = self.audit_state();
        let counters = Counters {
            live: self
                .bpf
                .read_bank(audit_state.live, audit_state.live_of_others),
            retiring: audit_state.retiring.map(|(bank, scope)| {
                let others = match scope {
                    Scope::All => bank,
                    Scope::Own => audit_state.live_of_others,
                };
                (self.bpf.read_bank(bank, others), scope)
            }),
        };
        (counters, of_state(&audit_state))
    }

    /// The counts of a namespace.
    pub(super) fn read(&self, netns: NetnsId) -> Result<Reading, BpfError> {
        let (counters, known) = self.counters_with(|audit_state| Known::of(audit_state, netns));
        Ok(known.reading(&counters.of(netns)?))
    }

    /// The counts of all other namespaces, in few system calls.
    pub(super) fn readings_of_others(&self) -> Result<BTreeMap<NetnsId, Reading>, BpfError> {
        let (counters, mut known) = self.counters_with(|audit_state| {
            let others = audit_state.others.keys();
            let known = others.map(|&netns| (netns, Known::of(audit_state, netns)));
            known.collect::<BTreeMap<_, _>>()
        });
        let mut readings = BTreeMap::new();
        counters.for_each_namespace(|netns, banks| {
            let known = known.remove(&netns).unwrap_or_else(Known::appeared);
            readings.insert(netns, known.reading(&banks));
        })?;
        Ok(readings)
    }

    /// The gauges of all other namespaces alone.
    pub(super) fn gauges_of_others(&self) -> Result<BTreeMap<NetnsId, Gauges>, BpfError> {
        let (counters, bases) = self.counters_with(|audit_state| {
            let others = audit_state.others.iter();
            let bases = others.map(|(&netns, netns_state)| (netns, netns_state.base));
            bases.collect::<BTreeMap<_, _>>()
        });
        let mut gauges = BTreeMap::new();
        counters.for_each_namespace(|netns, banks| {
            let base = bases.get(&netns).copied().unwrap_or_default();
            gauges.insert(netns, Gauges::of(&banks) + base);
        })?;
        Ok(gauges)
    }

    /// The gauges of a namespace alone.
    pub(super) fn gauges(&self, netns: NetnsId) -> Result<Gauges, BpfError> {
        let (counters, base) = self.counters_with(|audit_state| {
            let netns_state = audit_state.netns_state(netns);
            netns_state.map_or_else(Gauges::default, |netns_state| netns_state.base)
        });
        Ok(Gauges::of(&counters.of(netns)?) + base)
    }

    /// The bank that events are counted into, which has the ports.
    pub(super) fn live_bank(&self) -> BankReader<'_> {
        self.live_bank_with(|_| ()).0
    }

    /// The same, and what the audit state holds at that moment.
    pub(super) fn live_bank_with<T>(
        &self,
        of_state: impl FnOnce(&AuditState) -> T,
    ) -> (BankReader<'_>, T) {
        let audit_state = self.audit_state();
        let live = self
            .bpf
            .read_bank(audit_state.live, audit_state.live_of_others);
        (live, of_state(&audit_state))
    }

    /// The inode number of each other namespace that is there and in which anything was counted.
    /// Forgets those that are gone.
    pub(super) fn live_namespaces(&self) -> Result<BTreeMap<NetnsId, u32>, BpfError> {
        let records = self.live_records()?.into_iter();
        Ok(records.map(|(id, record)| (id, record.inode)).collect())
    }

    /// What is known of each of them.
    pub(super) fn live_records(&self) -> Result<Vec<(NetnsId, NamespaceRecord)>, BpfError> {
        if !self.settings.all_namespaces {
            return Ok(Vec::new());
        }
        let mut records = self.bpf.namespaces()?;
        records.retain(|(id, _)| *id != OVERFLOW_NETNS);
        self.keep_living(&records.iter().map(|(id, one)| (*id, one.inode)).collect());
        Ok(records)
    }

    /// Forgets other namespaces than these.
    pub(super) fn keep_living(&self, live_namespaces: &BTreeMap<NetnsId, u32>) {
        self.audit_state_mut().forget_all_but(live_namespaces);
        let netns_entries = |netns| netns == OWN_NETNS || live_namespaces.contains_key(&netns);
        self.splits.retain(netns_entries);
        lock(&self.inside).retain(netns_entries);
        self.inodes
            .write()
            .expect(POISONED)
            .clone_from(live_namespaces);
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
    pub(super) fn has_unaudited_ports(&self) -> Result<bool, BpfError> {
        let (live, (unregistered, walked)) = self.live_bank_with(|audit_state| {
            (
                audit_state.unregistered,
                Arc::clone(&audit_state.walked_ports),
            )
        });
        // Those of other namespaces are confirmed with these.
        let only_own = self.bpf.lists_tables();
        let ports = live.port_keys()?;
        let mut ports = ports
            .iter()
            .filter(|(netns, _)| !only_own || *netns == OWN_NETNS);
        let unaudited = ports.any(|port| !walked.contains(port));
        Ok(unaudited || self.bpf.writers().unregistered != unregistered)
    }
}

/// What the audit state holds of the counts of a namespace.
struct Known {
    base: Gauges,
    accumulated: Arc<BankSum>,
    degraded: Option<String>,
}

impl Known {
    fn of(audit_state: &AuditState, netns: NetnsId) -> Self {
        let Some(netns_state) = audit_state.netns_state(netns) else {
            return Self::appeared();
        };
        Self {
            base: netns_state.base,
            accumulated: Arc::clone(&netns_state.accumulated),
            degraded: audit_state.degraded(netns_state),
        }
    }

    /// Of a namespace that no audit has seen.
    fn appeared() -> Self {
        Self {
            base: Gauges::default(),
            accumulated: Arc::default(),
            degraded: Some(APPEARED.into()),
        }
    }

    /// The counts, with what the banks hold.
    fn reading(self, banks: &BankSum) -> Reading {
        let flows = banks.plus_flows(&self.accumulated);
        Reading {
            gauges: Gauges::of(banks) + self.base,
            transitions: Transitions::from_flows(&gauge::flows(&flows)),
            events: gauge::events(&flows),
            degraded: self.degraded,
        }
    }
}

/// Attaches what is attached to functions, if that is due. Blocks for as long as the kernel takes.
pub(super) fn attach(bpf: &Bpf, hooks: &TimewaitHooks, accept: &AcceptMeter) {
    if hooks.are_pending() {
        hooks.attach(|| bpf.attach_timewait());
        accept.attach(hooks.refusal(), || bpf.attach_accept());
    }
}

/// How many sockets there may be to remember. Only a size to begin with: unknown is no error.
fn socket_count_estimate() -> u64 {
    let totals = procfs::invariants().unwrap_or_default();
    [totals.allocated, totals.timewait]
        .into_iter()
        .flatten()
        .sum()
}

/// Events that the first copy of the handler was skipped for and the second did not see: constant
/// unless the kernel kept something from both.
pub(super) fn copy_mismatch(bpf: &Bpf) -> Result<i64, BpfError> {
    /// How often it is read again because an event came in between.
    const ATTEMPTS: u32 = 10;
    let mut recovered = bpf.writers().recovered;
    let mut copy_mismatch = 0;
    for _ in 0..ATTEMPTS {
        let Ok(skipped) = bpf.skipped() else {
            return Ok(0);
        };
        copy_mismatch = skipped.cast_signed() - recovered.cast_signed();
        let before = std::mem::replace(&mut recovered, bpf.writers().recovered);
        if recovered == before {
            break;
        }
    }
    Ok(copy_mismatch)
}
