//! Keeps the counts: seeding, auditing, and what is put together for an answer.

mod assemble;
mod audit;
mod confirm;
mod cost;
mod gauge;
mod invariants;
mod ledger;
pub mod scan;
mod schedule;
mod seed;
mod split;
mod start;
mod tracker;

pub use audit::Auditor;
pub use schedule::Pace;
pub use start::{Running, StartError, start};
pub use tracker::{Settings, Tracker};
