//! Keeps the counts: seeding, auditing, and what is put together for an answer.

mod ages;
mod answer;
mod assemble;
mod audit;
mod beside;
mod budget;
mod confirm;
mod cost;
mod gauge;
mod history;
mod hooks;
mod invariants;
mod ledger;
mod memory;
mod places;
mod ports;
mod queues;
mod reading;
mod recount;
mod sample;
pub mod scan;
mod schedule;
mod seed;
mod split;
mod splits;
mod start;
mod ticker;
mod tracker;

pub use audit::Auditor;
#[cfg(any(test, fuzzing))]
pub(crate) use queues::fuzz;
pub use sample::Sampler;
pub use schedule::Pace;
pub use start::{Running, StartError, start};
pub use tracker::{Settings, Tracker};
