//! Whether the counts may be off, counting them again, and what of it is a correction.

pub(crate) mod auditor;
mod contradiction;
mod corrections;
pub(crate) mod diff;
pub(crate) mod invariants;
pub(crate) mod recount;
pub(crate) mod schedule;
pub(crate) mod state;
