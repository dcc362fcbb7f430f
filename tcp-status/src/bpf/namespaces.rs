//! Namespaces other than the tracker's own: which there are, and their banks, shared by all CPUs and
//! writers.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
};
use tcp_status_common::counters::{NAMESPACES_PER_CHECK, Namespace, NamespaceQuery, NetnsId};

use super::{
    BankSum, Bpf, BpfError,
    iterate::OnEagain,
    load::{CHECK_NAMESPACES, ignore_enoent, lock, map},
    pod::PodWrapper,
};

const NAMESPACES: &str = "NAMESPACES";
const QUERY: &str = "NAMESPACE_QUERY";

/// The maps of other namespaces.
pub(super) struct Namespaces {
    map: HashMap<MapData, NetnsId, PodWrapper<Namespace>>,
    query: Array<MapData, PodWrapper<NamespaceQuery>>,
}

impl Namespaces {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            map: map(ebpf, NAMESPACES)?,
            query: map(ebpf, QUERY)?,
        })
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
    /// The inode number of each namespace, beside the own one, that is there and in which anything
    /// was counted. Forgets those that are gone, with all that was counted there.
    ///
    /// # Errors
    /// If the kernel refuses the look.
    pub fn live_namespaces(&self) -> Result<BTreeMap<NetnsId, u32>, BpfError> {
        let mut namespaces = lock(&self.namespaces);
        let mut live = BTreeMap::new();
        for chunk in namespaces.ids()?.chunks(NAMESPACES_PER_CHECK) {
            self.check_liveness(&mut namespaces, chunk)?;
            for &id in chunk {
                match namespaces.get(id)? {
                    Some(found) if found.is_alive() => {
                        live.insert(id, found.inode);
                    }
                    Some(_) => {
                        ignore_enoent(namespaces.map.remove(&id)).map_err(error(NAMESPACES))?;
                    }
                    None => {}
                }
            }
        }
        Ok(live)
    }

    /// The inode number of a namespace; none if it is gone, or nothing was counted there.
    ///
    /// # Errors
    /// If the kernel refuses the look.
    pub fn live_namespace(&self, id: NetnsId) -> Result<Option<u32>, BpfError> {
        let mut namespaces = lock(&self.namespaces);
        self.check_liveness(&mut namespaces, &[id])?;
        let found = namespaces.get(id)?.filter(|found| found.is_alive());
        Ok(found.map(|found| found.inode))
    }

    fn check_liveness(&self, namespaces: &mut Namespaces, ids: &[NetnsId]) -> Result<(), BpfError> {
        let mut query = NamespaceQuery {
            ids: [0; NAMESPACES_PER_CHECK],
        };
        query.ids[..ids.len()].copy_from_slice(ids);
        let set = namespaces.query.set(0, PodWrapper(query), 0);
        set.map_err(error(QUERY))?;
        self.run(CHECK_NAMESPACES, OnEagain::Stop, &mut Vec::new())
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
