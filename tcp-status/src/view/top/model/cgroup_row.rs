//! One row of the cgroups panel.

use crate::snapshot::Counts;

/// Which cgroups a row is of, in the order of rows that have as much.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CgroupGroup {
    /// One, by its shortest name.
    Cgroup(String),
    /// All beyond the limit.
    Other,
    /// Sockets that have none.
    Unattributed,
}

impl CgroupGroup {
    /// As it is shown.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Cgroup(name) => name,
            Self::Other => "other",
            Self::Unattributed => "unattributed",
        }
    }
}

/// The sockets of one cgroup, or of several together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRow {
    /// Which cgroups.
    pub cgroup: CgroupGroup,
    /// Their sockets.
    pub states: Counts,
}
