//! Keeps the counts: seeding, auditing, and what is put together for an answer.

mod answers;
mod audit;
mod destinations;
mod gauge;
mod history;
mod minisockets;
mod namespaces;
mod resources;
pub mod scan;
mod seed;
mod start;
mod start_error;
mod tracker;
pub mod who;

#[cfg(any(test, fuzzing))]
pub(crate) use answers::queues::fuzz;
pub use audit::{auditor::Auditor, schedule::Pace};
pub use history::sampler::Sampler;
pub use start::{Running, start};
pub use start_error::StartError;
pub use tracker::{Settings, Tracker};
