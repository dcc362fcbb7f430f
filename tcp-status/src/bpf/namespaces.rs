//! Namespaces other than the tracker's own: their banks, shared by all CPUs and writers.

use aya::maps::MapError;
use tcp_status_common::counters::NamespaceKey;

use super::{
    BankReader, Banks, Bpf, LoadError,
    load::{absent_is_fine, lock},
    record::Record,
};

impl BankReader<'_> {
    /// Inode numbers of the namespaces, beside the own one, of which the bank holds anything.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn other_namespaces(&self) -> Result<Vec<u32>, LoadError> {
        self.bpf.other_namespaces(self.bank)
    }
}

impl Bpf {
    /// Inode numbers of the namespaces, beside the own one, of which `bank` (0 or 1) holds
    /// anything.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub(super) fn other_namespaces(&self, bank: u32) -> Result<Vec<u32>, LoadError> {
        let namespaces = lock(&self.namespaces);
        let mut found = Vec::new();
        for key in namespaces.keys() {
            let Record(key) = key.map_err(namespaces_error)?;
            if key.bank == bank {
                found.push(key.netns);
            }
        }
        Ok(found)
    }

    /// What `bank` holds of another namespace; nothing if nothing was counted in it.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub(super) fn other_bank(&self, netns: u32, bank: u32) -> Result<Banks, LoadError> {
        let mut sum = Banks::default();
        match lock(&self.namespaces).get(&Record(NamespaceKey { netns, bank }), 0) {
            Ok(Record(bank)) => sum.add(&bank),
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(namespaces_error(error)),
        }
        Ok(sum)
    }

    /// Forgets what `bank` holds of a namespace: one that is no more, or all of a bank that no
    /// event may be using.
    ///
    /// # Errors
    /// If the kernel refuses the update; that there is nothing is none.
    pub(super) fn forget_namespace(&self, netns: u32, bank: u32) -> Result<(), LoadError> {
        let key = Record(NamespaceKey { netns, bank });
        absent_is_fine(lock(&self.namespaces).remove(&key)).map_err(namespaces_error)
    }
}

fn namespaces_error(source: MapError) -> LoadError {
    LoadError::Map {
        name: "NAMESPACES",
        source,
    }
}
