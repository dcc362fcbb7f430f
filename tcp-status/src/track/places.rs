//! The namespaces that a walk visits: the tracker's own, and with `--netns all` every other one
//! that anything leads to.

use std::collections::BTreeMap;

use super::cost;
use crate::{
    bpf::LoadError,
    kernel::netns::{
        self, Target,
        list::{self, Known},
    },
};

/// Namespaces to walk in. The others are held open for as long as this lives, and no longer: an
/// open file would keep a namespace alive that is to go.
#[derive(Debug)]
pub struct Places {
    own: u32,
    others: Vec<Target>,
}

impl Places {
    /// The tracker's own namespace alone.
    #[must_use]
    pub const fn own(own: u32) -> Self {
        Self {
            own,
            others: Vec::new(),
        }
    }

    /// Every namespace that can be found and opened, and their names.
    #[must_use]
    pub fn all(own: u32) -> (Self, BTreeMap<u32, Known>) {
        let known = list::all();
        let others = known
            .iter()
            .filter(|(inode, _)| **inode != own)
            .filter_map(|(&inode, known)| known.open(inode).ok().flatten())
            .collect();
        (Self { own, others }, known)
    }

    /// Walks in each, one after the other. What cannot be entered is left out.
    ///
    /// # Errors
    /// The first error of a walk.
    pub fn each<T: Send>(
        &self,
        walk: impl Fn() -> Result<T, LoadError> + Sync,
    ) -> Result<BTreeMap<u32, T>, LoadError> {
        let mut found = BTreeMap::from([(self.own, walk()?)]);
        for target in &self.others {
            // On a thread of its own, but at the cost of this one.
            match netns::within(target, || (walk(), cost::spent())) {
                Ok((walked, spent)) => {
                    cost::lent(spent);
                    found.insert(target.inode(), walked?);
                }
                Err(error) => log::debug!(error:%; "namespace is not walked"),
            }
        }
        Ok(found)
    }
}
