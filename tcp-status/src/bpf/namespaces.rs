//! Namespaces other than the tracker's own: which there are, and their banks, shared by all CPUs and
//! writers.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
};
use tcp_status_common::counters::{
    NAMESPACES_PER_CHECK, Namespace, NamespaceQuery, NamespaceRecord, NetnsId, OVERFLOW_NETNS,
};

use super::{
    BankSum, Bpf, BpfError,
    iterate::OnEagain,
    load::{CHECK_NAMESPACES, ignore_enoent, lock, map},
    pod::PodWrapper,
};

pub(super) const NAMESPACES: &str = "NAMESPACES";
const QUERY: &str = "NAMESPACE_QUERY";

/// `BPF_NOEXIST`: an update that fails where there is an entry already.
const ONLY_NEW: u64 = 1;

/// Whether a namespace has ceased to exist.
const fn is_gone(id: NetnsId, record: &NamespaceRecord) -> bool {
    record.alive == 0 && record.net != 0 && id != OVERFLOW_NETNS
}

/// The maps of other namespaces.
pub(super) struct Namespaces {
    map: HashMap<MapData, NetnsId, PodWrapper<Namespace>>,
    query: Array<MapData, PodWrapper<NamespaceQuery>>,
}

impl Namespaces {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        let mut namespaces = Self {
            map: map(ebpf, NAMESPACES)?,
            query: map(ebpf, QUERY)?,
        };
        let empty = Box::new(PodWrapper(Namespace::EMPTY));
        let entered = namespaces.map.insert(OVERFLOW_NETNS, *empty, 0);
        entered.map_err(error(NAMESPACES))?;
        Ok(namespaces)
    }

    fn ids(&self) -> Result<Vec<NetnsId>, BpfError> {
        let ids = self.map.keys().collect::<Result<_, _>>();
        ids.map_err(error(NAMESPACES))
    }

    /// None where nothing was ever counted.
    fn get(&self, id: NetnsId) -> Result<Option<Box<Namespace>>, BpfError> {
        match self.map.get(&id, 0) {
            Ok(PodWrapper(found)) => Ok(Some(Box::new(found))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(error(NAMESPACES)(source)),
        }
    }
}

impl Bpf {
    /// Every namespace, beside the own one, that exists and in which anything was counted, and what
    /// counts those together for which there is no room. Forgets those that are gone, with all that
    /// was counted there.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn namespaces(&self) -> Result<Vec<(NetnsId, NamespaceRecord)>, BpfError> {
        let mut namespaces = lock(&self.namespaces);
        let mut found = Vec::new();
        for chunk in namespaces.ids()?.chunks(NAMESPACES_PER_CHECK) {
            for (id, record) in self.check_liveness(&mut namespaces, chunk)? {
                if is_gone(id, &record) {
                    ignore_enoent(namespaces.map.remove(&id)).map_err(error(NAMESPACES))?;
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
        match lock(&self.namespaces).map.insert(id, *empty, ONLY_NEW) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(refused)) => match refused.io_error.raw_os_error() {
                Some(libc::EEXIST) => Ok(true),
                Some(libc::E2BIG) => Ok(false),
                _ => Err(error(NAMESPACES)(MapError::SyscallError(refused))),
            },
            Err(source) => Err(error(NAMESPACES)(source)),
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
        let mut namespaces = lock(&self.namespaces);
        let found = self.check_liveness(&mut namespaces, &[id])?.pop();
        Ok(found
            .map(|(_, record)| record)
            .filter(|record| record.net != 0))
    }

    fn check_liveness(
        &self,
        namespaces: &mut Namespaces,
        ids: &[NetnsId],
    ) -> Result<Vec<(NetnsId, NamespaceRecord)>, BpfError> {
        let mut query = Box::new(PodWrapper(NamespaceQuery::EMPTY));
        query.0.ids[..ids.len()].copy_from_slice(ids);
        let set = namespaces.query.set(0, *query, 0);
        set.map_err(error(QUERY))?;
        self.run(CHECK_NAMESPACES, OnEagain::Stop, &mut Vec::new())?;
        let PodWrapper(looked) = namespaces.query.get(&0, 0).map_err(error(QUERY))?;
        Ok(ids.iter().copied().zip(looked.found).collect())
    }

    /// What `bank` has ever counted of another namespace; nothing if nothing was counted there.
    pub(super) fn raw_counters_in(&self, id: NetnsId, bank: u32) -> Result<BankSum, BpfError> {
        let mut sum = BankSum::default();
        if let Some(found) = lock(&self.namespaces).get(id)? {
            sum.add(&found.banks[bank as usize]);
        }
        Ok(sum)
    }

    /// What `bank` has ever counted of every other namespace.
    pub(super) fn raw_counters_by_netns(
        &self,
        bank: u32,
    ) -> Result<BTreeMap<NetnsId, BankSum>, BpfError> {
        let ids = lock(&self.namespaces).ids()?;
        let of = |id| Ok((id, self.raw_counters_in(id, bank)?));
        ids.into_iter().map(of).collect()
    }
}

fn error(name: &'static str) -> impl Fn(MapError) -> BpfError {
    move |source| BpfError::Map { name, source }
}
