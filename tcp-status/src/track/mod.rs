//! Keeps the counts: seeding, auditing, and what is put together for an answer.

mod api_error;
mod assemble;
mod audit;
mod audit_diff;
mod audit_state;
mod aux_counts;
mod budget;
mod cpu_time;
mod first_seed;
mod gauge;
mod history;
mod idle_ages;
mod invariants;
mod listed;
mod memory;
mod minutes;
mod namespaces;
mod netns_targets;
mod ports;
mod query;
mod queues;
mod reading;
mod recount;
mod sampler;
mod samples;
pub mod scan;
mod schedule;
mod seed;
mod split;
mod split_caches;
mod start;
mod start_error;
mod sync;
mod ticker;
mod timewait_hooks;
mod tracker;
mod window_extremes;

pub use audit::Auditor;
#[cfg(any(test, fuzzing))]
pub(crate) use queues::fuzz;
pub use sampler::Sampler;
pub use schedule::Pace;
pub use start::{Running, start};
pub use start_error::StartError;
pub use tracker::{Settings, Tracker};
