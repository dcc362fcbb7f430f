//! Namespaces other than the tracker's own: which there are, and their banks, shared by all CPUs and
//! writers.

use std::os::fd::OwnedFd;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
};
use tcp_status_common::counters::{
    Namespace, NamespaceQuery, NamespaceRecord, NetnsId, OVERFLOW_NETNS,
};

use super::{
    BpfError, batch,
    object::{descriptor, map},
    pod::PodWrapper,
};

pub(super) const NAMESPACES: &str = "NAMESPACES";
pub(super) const QUERY: &str = "NAMESPACE_QUERY";

/// `BPF_NOEXIST`: an update that fails where there is an entry already.
pub(super) const ONLY_NEW: u64 = 1;

/// Whether a namespace has ceased to exist.
pub(super) const fn is_gone(id: NetnsId, record: &NamespaceRecord) -> bool {
    record.alive == 0 && record.net != 0 && id != OVERFLOW_NETNS
}

/// The maps of other namespaces.
pub(super) struct Namespaces {
    pub(super) map: HashMap<MapData, NetnsId, PodWrapper<Namespace>>,
    /// The same map, to list.
    listed: OwnedFd,
    pub(super) query: Array<MapData, PodWrapper<NamespaceQuery>>,
    /// How many were removed because they are gone.
    pub(super) removed: u64,
}

impl Namespaces {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        let mut namespaces = Self {
            listed: descriptor(ebpf, NAMESPACES)?,
            map: map(ebpf, NAMESPACES)?,
            query: map(ebpf, QUERY)?,
            removed: 0,
        };
        let empty = Box::new(PodWrapper(Namespace::EMPTY));
        let entered = namespaces.map.insert(OVERFLOW_NETNS, *empty, 0);
        entered.map_err(error(NAMESPACES))?;
        Ok(namespaces)
    }

    pub(super) fn ids(&self) -> Result<Vec<NetnsId>, BpfError> {
        let ids = self.map.keys().collect::<Result<_, _>>();
        ids.map_err(error(NAMESPACES))
    }

    /// Calls `visit` with each, in few system calls.
    pub(super) fn for_each(
        &self,
        mut visit: impl FnMut(NetnsId, &Namespace),
    ) -> Result<(), BpfError> {
        let none = (0, PodWrapper(Namespace::EMPTY));
        let listed = batch::for_each(&self.listed, none, |&id, namespace| visit(id, &namespace.0));
        listed.map_err(|source| error(NAMESPACES)(MapError::IoError(source)))
    }

    /// None where nothing was ever counted.
    pub(super) fn get(&self, id: NetnsId) -> Result<Option<Box<Namespace>>, BpfError> {
        match self.map.get(&id, 0) {
            Ok(PodWrapper(found)) => Ok(Some(Box::new(found))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(error(NAMESPACES)(source)),
        }
    }
}

pub(super) fn error(name: &'static str) -> impl Fn(MapError) -> BpfError {
    move |source| BpfError::Map { name, source }
}
