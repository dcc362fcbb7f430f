//! Namespaces other than the tracker's own: which there are, and their banks, shared by all CPUs and
//! writers.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
};
use tcp_status_common::counters::{NAMESPACES_PER_LOOK, Namespace, NamespaceQuery, NetnsId};

use super::{
    Banks, Bpf, LoadError,
    iterate::OnInterruption,
    load::{LOOK_AT_NAMESPACES, absent_is_fine, lock, map},
    record::Record,
};

const NAMESPACES: &str = "NAMESPACES";
const QUERY: &str = "NAMESPACE_QUERY";

/// The maps of other namespaces.
pub(super) struct Namespaces {
    map: HashMap<MapData, NetnsId, Record<Namespace>>,
    query: Array<MapData, Record<NamespaceQuery>>,
}

impl Namespaces {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            map: map(ebpf, NAMESPACES)?,
            query: map(ebpf, QUERY)?,
        })
    }

    fn ids(&self) -> Result<Vec<NetnsId>, LoadError> {
        let ids = self.map.keys().collect::<Result<_, _>>();
        ids.map_err(error(NAMESPACES))
    }

    /// None where nothing was ever counted.
    fn get(&self, id: NetnsId) -> Result<Option<Box<Namespace>>, LoadError> {
        match self.map.get(&id, 0) {
            Ok(Record(found)) => Ok(Some(Box::new(found))),
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
    pub fn living_namespaces(&self) -> Result<BTreeMap<NetnsId, u32>, LoadError> {
        let mut namespaces = lock(&self.namespaces);
        let mut living = BTreeMap::new();
        for chunk in namespaces.ids()?.chunks(NAMESPACES_PER_LOOK) {
            self.look_at(&mut namespaces, chunk)?;
            for &id in chunk {
                match namespaces.get(id)? {
                    Some(found) if found.is_there() => {
                        living.insert(id, found.inode);
                    }
                    Some(_) => {
                        absent_is_fine(namespaces.map.remove(&id)).map_err(error(NAMESPACES))?;
                    }
                    None => {}
                }
            }
        }
        Ok(living)
    }

    /// The inode number of a namespace; none if it is gone, or nothing was counted there.
    ///
    /// # Errors
    /// If the kernel refuses the look.
    pub fn living_namespace(&self, id: NetnsId) -> Result<Option<u32>, LoadError> {
        let mut namespaces = lock(&self.namespaces);
        self.look_at(&mut namespaces, &[id])?;
        let found = namespaces.get(id)?.filter(|found| found.is_there());
        Ok(found.map(|found| found.inode))
    }

    fn look_at(&self, namespaces: &mut Namespaces, ids: &[NetnsId]) -> Result<(), LoadError> {
        let mut query = NamespaceQuery {
            ids: [0; NAMESPACES_PER_LOOK],
        };
        query.ids[..ids.len()].copy_from_slice(ids);
        let set = namespaces.query.set(0, Record(query), 0);
        set.map_err(error(QUERY))?;
        self.run(LOOK_AT_NAMESPACES, OnInterruption::End, &mut Vec::new())
    }

    /// What `bank` has ever counted of another namespace; nothing if nothing was counted there.
    pub(super) fn all_of_other(&self, id: NetnsId, bank: u32) -> Result<Banks, LoadError> {
        let mut sum = Banks::default();
        if let Some(found) = lock(&self.namespaces).get(id)? {
            sum.add(&found.banks[bank as usize]);
        }
        Ok(sum)
    }

    /// What `bank` has ever counted of every other namespace.
    pub(super) fn all_of_others(&self, bank: u32) -> Result<BTreeMap<NetnsId, Banks>, LoadError> {
        let ids = lock(&self.namespaces).ids()?;
        let of = |id| Ok((id, self.all_of_other(id, bank)?));
        ids.into_iter().map(of).collect()
    }
}

fn error(name: &'static str) -> impl Fn(MapError) -> LoadError {
    move |source| LoadError::Map { name, source }
}
