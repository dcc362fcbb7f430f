//! Reads what the programs counted: banks, closed listeners, other namespaces, socket tables.

use std::{collections::BTreeMap, sync::RwLockReadGuard};

use tcp_status_common::accept::AcceptTimes;
use tcp_status_common::counters::{
    CLOSED_PER_READ, ClosedListener, ClosedQuery, ClosedTotals, FailureTotals,
    NAMESPACES_PER_CHECK, Namespace, NamespaceQuery, NamespaceRecord, NetnsId, OVERFLOW_NETNS,
    OWN_NETNS,
};
use tcp_status_common::ends::EndCounts;

use super::{
    accept::AcceptProgram,
    closed_listeners,
    counters::{BankSum, EmptiedOthers, EmptiedOwn, FAILURES, WriterTotals},
    error::{BpfError, errno, ignore_enoent},
    iterate::OnEagain,
    load::{Bpf, Scope},
    namespaces::{self, NAMESPACES, Namespaces, ONLY_NEW},
    object::{CHECK_NAMESPACES, LIST_LISTENERS, LIST_TABLES, POISONED, READ_CLOSED, lock},
    pod::PodWrapper,
    table::{ListenerListing, Listing},
};

/// Reads one bank of the tracker's own namespace and one of the others, which are not emptied while
/// this exists.
pub struct BankReader<'a> {
    pub(super) bpf: &'a Bpf,
    own: u32,
    others: u32,
    baseline: RwLockReadGuard<'a, EmptiedOwn>,
    emptied_others: RwLockReadGuard<'a, EmptiedOthers>,
}

impl BankReader<'_> {
    /// What the bank holds of a namespace; nothing if nothing was counted in it.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn counters(&self, netns: NetnsId) -> Result<BankSum, BpfError> {
        if netns == OWN_NETNS {
            return Ok(self.bpf.own.bank(self.own).minus(&self.baseline));
        }
        let namespace = lock(&self.bpf.namespaces).get(netns)?;
        Ok(namespace.map_or_else(BankSum::default, |one| self.counters_of(netns, &one)))
    }

    /// What the bank holds of another namespace, which was read as this.
    pub(super) fn counters_of(&self, netns: NetnsId, namespace: &Namespace) -> BankSum {
        let mut counted = BankSum::default();
        counted.add(&namespace.banks[self.others as usize]);
        match self.emptied_others.get(&netns) {
            Some(baseline) => counted.minus(baseline),
            None => counted,
        }
    }

    /// Calls `visit` with what the bank, and `before` another one, hold of each other namespace.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn for_each_namespace(
        &self,
        before: Option<&Self>,
        mut visit: impl FnMut(NetnsId, BankSum, Option<BankSum>),
    ) -> Result<(), BpfError> {
        lock(&self.bpf.namespaces).for_each(|netns, namespace| {
            let counted = |bank: &Self| bank.counters_of(netns, namespace);
            visit(netns, counted(self), before.map(counted));
        })
    }

    /// The bank that is read of a namespace.
    pub(super) const fn bank_of(&self, netns: NetnsId) -> u32 {
        if netns == OWN_NETNS {
            self.own
        } else {
            self.others
        }
    }
}

impl Bpf {
    /// Reads bank `own` (0 or 1) of the tracker's own namespace, and `others` of the others. Blocks
    /// while these are being emptied, and emptying them blocks for as long as the reader exists.
    #[must_use]
    pub fn read_bank(&self, own: u32, others: u32) -> BankReader<'_> {
        BankReader {
            bpf: self,
            own,
            others,
            baseline: self.baseline[own as usize].read().expect(POISONED),
            emptied_others: self.emptied_others[others as usize].read().expect(POISONED),
        }
    }

    /// Empties `bank`, which no event in `scope` may be using, of all that it has of namespaces, ports
    /// and, in the scope `cgroups`, cgroups there, once nobody reads it any more. What could not be emptied is
    /// left to the next call.
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn clear(&self, bank: u32, scope: Scope, cgroups: Scope) -> Result<(), BpfError> {
        let mut baseline = self.baseline[bank as usize].write().expect(POISONED);
        // From here on it is counted anew.
        *baseline = self.own.bank(bank);
        if scope == Scope::All {
            let others = &self.emptied_others[bank as usize];
            *others.write().expect(POISONED) = self.raw_counters_by_netns(bank)?;
        }
        self.clear_cgroups(bank, cgroups)?;
        self.clear_ports(bank, scope)
    }

    /// What failed in the programs since they were loaded.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn failures(&self) -> Result<FailureTotals, BpfError> {
        let totals = self.failures.get(&0, 0);
        totals
            .map(|totals| totals.0)
            .map_err(|source| BpfError::Map {
                name: FAILURES,
                source,
            })
    }

    /// Sockets of the tracker's own namespace that were closed since the programs were loaded, by
    /// reason.
    #[must_use]
    pub fn ends(&self) -> EndCounts {
        self.own.ends()
    }

    /// What was accepted in the tracker's own namespace since [`Bpf::attach_accept`], by local port;
    /// [`OTHER_PORT`](tcp_status_common::accept::OTHER_PORT) is all that are not counted individually.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn accept_times(&self) -> Result<BTreeMap<u32, AcceptTimes>, BpfError> {
        let accept = self.accept.get();
        accept.map_or_else(|| Ok(BTreeMap::new()), AcceptProgram::times)
    }

    /// Forgets what was accepted at ports that are `gone`.
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn forget_accept_times(&self, gone: impl Fn(u32) -> bool) -> Result<(), BpfError> {
        self.accept
            .get()
            .map_or(Ok(()), |accept| accept.forget(gone))
    }

    /// What each writer counts of its own work, since the programs were loaded.
    #[must_use]
    pub fn writers(&self) -> WriterTotals {
        self.own.writers()
    }
}

impl Bpf {
    /// How many closed listeners with request sockets there were since the programs were loaded.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn closed_totals(&self) -> Result<ClosedTotals, BpfError> {
        lock(&self.closed).totals()
    }

    /// Closed listeners that still have request sockets, of all namespaces.
    ///
    /// # Errors
    /// If the kernel refuses the walk.
    pub fn closed_listeners(&self) -> Result<Vec<ClosedListener>, BpfError> {
        let mut closed = lock(&self.closed);
        let recorded = closed.totals()?.recorded;
        let mut found = Vec::new();
        if recorded == closed.gone {
            return Ok(found);
        }
        let socks: Vec<u64> = closed
            .listeners
            .keys()
            .collect::<Result<_, _>>()
            .map_err(closed_listeners::error(closed_listeners::LISTENERS))?;
        for chunk in socks.chunks(CLOSED_PER_READ) {
            let mut query = ClosedQuery {
                socks: [0; CLOSED_PER_READ],
            };
            query.socks[..chunk.len()].copy_from_slice(chunk);
            closed
                .query
                .set(0, PodWrapper(query), 0)
                .map_err(closed_listeners::error(closed_listeners::QUERY))?;
            self.run(READ_CLOSED, OnEagain::Stop, &mut Vec::new())?;
            for sock in chunk {
                let read = closed
                    .listeners
                    .get(sock, 0)
                    .map_err(closed_listeners::error(closed_listeners::LISTENERS))?
                    .0;
                if read.requests > 0 {
                    found.push(read);
                } else {
                    ignore_enoent(closed.listeners.remove(sock))
                        .map_err(closed_listeners::error(closed_listeners::LISTENERS))?;
                }
            }
        }
        if found.is_empty() {
            closed.gone = recorded;
        }
        Ok(found)
    }
}

impl Bpf {
    /// How many namespaces [`Bpf::namespaces`] has forgotten.
    pub fn namespaces_removed(&self) -> u64 {
        lock(&self.namespaces).removed
    }

    /// Every namespace, beside the own one, that exists and in which anything was counted, and what
    /// counts those together for which there is no room. Forgets those that are gone, with all that
    /// was counted there.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn namespaces(&self) -> Result<Vec<(NetnsId, NamespaceRecord)>, BpfError> {
        let mut maps = lock(&self.namespaces);
        let mut found = Vec::new();
        for chunk in maps.ids()?.chunks(NAMESPACES_PER_CHECK) {
            for (id, record) in self.check_liveness(&mut maps, chunk)? {
                if namespaces::is_gone(id, &record) {
                    maps.removed += 1;
                    ignore_enoent(maps.map.remove(&id)).map_err(namespaces::error(NAMESPACES))?;
                } else if record.alive == 1 || id == OVERFLOW_NETNS {
                    // One that a program is entering has no address yet.
                    found.push((id, record));
                }
            }
        }
        Ok(found)
    }

    /// The inode number of each of them.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn live_namespaces(&self) -> Result<BTreeMap<NetnsId, u32>, BpfError> {
        let found = self.namespaces()?.into_iter();
        let kept = found.filter(|(id, _)| *id != OVERFLOW_NETNS);
        Ok(kept.map(|(id, record)| (id, record.inode)).collect())
    }

    /// Counts a namespace from now on, of which no event has come yet. Whether there is room.
    ///
    /// # Errors
    /// If the kernel refuses the update for another reason.
    pub fn enter_namespace(&self, id: NetnsId, net: u64, inode: u32) -> Result<bool, BpfError> {
        let empty = Box::new(PodWrapper(Namespace {
            net,
            inode,
            ..Namespace::EMPTY
        }));
        let mut namespaces = lock(&self.namespaces);
        let Err(error) = namespaces.map.insert(id, *empty, ONLY_NEW) else {
            return Ok(true);
        };
        match errno(&error) {
            Some(libc::EEXIST) => Ok(true),
            Some(libc::E2BIG) => Ok(false),
            _ => Err(namespaces::error(NAMESPACES)(error)),
        }
    }

    /// The inode number of a namespace; none if it is gone, or nothing was counted there.
    ///
    /// # Errors
    /// If the kernel refuses the look.
    pub fn live_namespace(&self, id: NetnsId) -> Result<Option<u32>, BpfError> {
        let found = self.namespace(id)?;
        Ok(found.filter(|one| one.alive == 1).map(|one| one.inode))
    }

    /// What is known of a namespace; none if nothing was counted there.
    ///
    /// # Errors
    /// If the kernel refuses the look.
    pub fn namespace(&self, id: NetnsId) -> Result<Option<NamespaceRecord>, BpfError> {
        let mut maps = lock(&self.namespaces);
        let found = self.check_liveness(&mut maps, &[id])?.pop();
        Ok(found
            .map(|(_, record)| record)
            .filter(|record| record.net != 0))
    }

    fn check_liveness(
        &self,
        maps: &mut Namespaces,
        ids: &[NetnsId],
    ) -> Result<Vec<(NetnsId, NamespaceRecord)>, BpfError> {
        let mut query = Box::new(PodWrapper(NamespaceQuery::EMPTY));
        query.0.ids[..ids.len()].copy_from_slice(ids);
        let set = maps.query.set(0, *query, 0);
        set.map_err(namespaces::error(namespaces::QUERY))?;
        self.run(CHECK_NAMESPACES, OnEagain::Stop, &mut Vec::new())?;
        let PodWrapper(looked) = maps
            .query
            .get(&0, 0)
            .map_err(namespaces::error(namespaces::QUERY))?;
        Ok(ids.iter().copied().zip(looked.found).collect())
    }

    /// What `bank` has ever counted of every other namespace.
    pub(super) fn raw_counters_by_netns(
        &self,
        bank: u32,
    ) -> Result<BTreeMap<NetnsId, BankSum>, BpfError> {
        let mut sums = BTreeMap::<_, BankSum>::new();
        lock(&self.namespaces).for_each(|netns, namespace| {
            let sum = sums.entry(netns).or_default();
            sum.add(&namespace.banks[bank as usize]);
        })?;
        Ok(sums)
    }
}

impl Bpf {
    /// Whether the kernel's socket tables can be listed.
    #[must_use]
    pub fn lists_tables(&self) -> bool {
        self.lister.is_some()
    }

    /// Counts the sockets of all namespaces in one pass, and apart those at `ports`; `by_cgroup` as well, those
    /// of other namespaces. No lock is taken: what changes meanwhile may be counted twice, or not at all. `hashinfos` are the
    /// addresses of tables beside the tracker's own. Nothing where [`Bpf::lists_tables`] is false.
    ///
    /// # Errors
    /// If the kernel refuses the pass.
    pub fn list_tables(
        &self,
        hashinfos: &[u64],
        ports: &[(NetnsId, u16)],
        by_cgroup: bool,
    ) -> Result<Listing, BpfError> {
        let Some(lister) = &self.lister else {
            return Ok(Listing::default());
        };
        let run = || self.run(LIST_TABLES, OnEagain::Stop, &mut Vec::new());
        lock(lister).list(&run, hashinfos, ports, by_cgroup)
    }

    /// The listeners of all namespaces, in one pass over the kernel's table of them. No lock is
    /// taken: where one is opened or closed meanwhile, others may be missing. Nothing where
    /// [`Bpf::lists_tables`] is false.
    ///
    /// # Errors
    /// If the kernel refuses the pass.
    pub fn list_listeners(&self) -> Result<ListenerListing, BpfError> {
        let Some(lister) = &self.lister else {
            return Ok(ListenerListing::default());
        };
        let run = |written: &mut Vec<u8>| self.run(LIST_LISTENERS, OnEagain::Stop, written);
        lock(lister).list_listeners(&run)
    }
}
