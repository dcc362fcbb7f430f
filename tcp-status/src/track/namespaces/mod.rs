//! Network namespaces other than the tracker's own, which are counted without entering them.

pub(crate) mod cgroup_passes;
pub(crate) mod inside;
pub(crate) mod listed;
pub(crate) mod outside;
mod pass_schedule;
pub(crate) mod passes;
pub(crate) mod table_counts;
pub(crate) mod watched;
