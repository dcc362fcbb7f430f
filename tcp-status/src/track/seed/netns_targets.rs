//! The namespaces that a walk visits: the tracker's own, and with `--netns all` every other one
//! that anything leads to.

use std::collections::{BTreeMap, BTreeSet};

use tcp_status_common::counters::{NetnsId, OWN_NETNS};

use crate::{
    bpf::{Bpf, BpfError, Scope},
    kernel::netns::{
        self, Target,
        list::{self, NetnsEntry},
    },
    track::resources::cpu_time,
};

/// Namespaces to walk in. The others are held open for as long as this lives, and no longer: an
/// open file would keep a namespace alive that is to go.
#[derive(Debug)]
pub struct NetnsTargets {
    own: u32,
    others: Vec<(Target, NetnsEntry)>,
    scope: Scope,
}

/// What is counted again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Area<'a> {
    /// The tracker's own namespace.
    Own,
    /// All that are counted.
    All,
    /// The tracker's own and these. All others are counted on, in another bank.
    Busy(&'a BTreeSet<NetnsId>),
}

impl Area<'_> {
    /// All that a scope includes.
    pub(crate) const fn of(scope: Scope) -> Self {
        match scope {
            Scope::Own => Self::Own,
            Scope::All => Self::All,
        }
    }

    /// Whose bank changes.
    pub(crate) const fn scope(&self) -> Scope {
        match self {
            Self::Own => Scope::Own,
            Self::All | Self::Busy(_) => Scope::All,
        }
    }
}

impl NetnsTargets {
    /// Leaves out all others but those with these inode numbers.
    #[must_use]
    pub fn only(mut self, inodes: &BTreeSet<u32>) -> Self {
        self.others
            .retain(|(target, _)| inodes.contains(&target.inode()));
        self
    }

    /// The tracker's own namespace alone.
    #[must_use]
    pub const fn own(own: u32) -> Self {
        Self {
            own,
            others: Vec::new(),
            scope: Scope::Own,
        }
    }

    /// Every namespace that can be found and opened.
    #[must_use]
    pub fn all(own: u32) -> Self {
        let others = list::all()
            .into_iter()
            .filter(|(inode, _)| *inode != own)
            .filter_map(|(inode, entry)| Some((entry.open(inode).ok()??, entry)))
            .collect();
        Self {
            own,
            others,
            scope: Scope::All,
        }
    }

    /// Which namespaces these are.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        self.scope
    }

    /// What identifies each of them, by inode number; without those in which nothing was counted.
    ///
    /// # Errors
    /// If the kernel refuses the look.
    pub fn ids(&self, bpf: &Bpf) -> Result<BTreeMap<u32, NetnsId>, BpfError> {
        let mut ids = BTreeMap::from([(self.own, OWN_NETNS)]);
        if !self.others.is_empty() {
            // They are held open, so that no other namespace has their numbers.
            let live_namespaces = bpf.live_namespaces()?.into_iter();
            ids.extend(live_namespaces.map(|(id, inode)| (inode, id)));
        }
        Ok(ids)
    }

    /// The ways to the others, by what identifies them.
    #[must_use]
    pub fn entries(&self, ids: &BTreeMap<u32, NetnsId>) -> BTreeMap<NetnsId, NetnsEntry> {
        let id = |inode| ids.get(&inode).copied();
        self.others
            .iter()
            .filter_map(|(target, entry)| Some((id(target.inode())?, entry.clone())))
            .collect()
    }

    /// Walks in each, one after the other. What cannot be entered is left out. Gives what was found
    /// by inode number, which no other namespace has for as long as this lives.
    ///
    /// # Errors
    /// The first error of a walk.
    pub fn walk_each<T: Send>(
        &self,
        walk: impl Fn() -> Result<T, BpfError> + Sync,
    ) -> Result<BTreeMap<u32, T>, BpfError> {
        let mut found = BTreeMap::from([(self.own, walk()?)]);
        for (target, _) in &self.others {
            // On a thread of its own, but at the cost of this one.
            match netns::within(target, || (walk(), cpu_time::spent())) {
                Ok((walked, spent)) => {
                    cpu_time::charge(spent);
                    found.insert(target.inode(), walked?);
                }
                Err(error) => log::debug!(error:%; "namespace skipped"),
            }
        }
        Ok(found)
    }
}

/// What was found by inode number, by what identifies the namespaces.
pub fn by_id<T>(found: BTreeMap<u32, T>, ids: &BTreeMap<u32, NetnsId>) -> BTreeMap<NetnsId, T> {
    let found = found.into_iter();
    found
        .filter_map(|(inode, found)| Some((*ids.get(&inode)?, found)))
        .collect()
}
