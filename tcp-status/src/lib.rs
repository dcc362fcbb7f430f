//! Exact TCP state counts of a host: kept by eBPF, answered in O(1).
//!
//! `ARCHITECTURE.md` in the repository is the map of this crate.

pub mod bpf;
pub mod cli;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod kernel;
pub mod printable;
pub mod privilege;
pub mod serve;
pub mod snapshot;
pub mod track;
pub mod view;
pub mod zabbix_agent;

// Test data of the integration tests serves unit tests as well.
#[cfg(test)]
extern crate self as tcp_status;
