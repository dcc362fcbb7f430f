//! Exact TCP state counts of a host: kept by eBPF, answered in O(1).
//!
//! As a library, this crate is a client of a running tracker: [`serve::client`]. Everything that is
//! not in this documentation is the program's own, and changes from one version to the next.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use tcp_status::serve::{
//!     DEFAULT_SOCKET, client,
//!     protocol::{Query, Response, Show},
//! };
//!
//! let query = Query::Show(Show::default());
//! match client::request(Path::new(DEFAULT_SOCKET), &query)? {
//!     Response::Snapshots(all) => println!("{:?}", all[0].states),
//!     Response::Error(refusal) => eprintln!("{refusal}"),
//!     other => eprintln!("not an answer to this query: {other:?}"),
//! }
//! # Ok::<(), client::ClientError>(())
//! ```
//!
//! `ARCHITECTURE.md` in the repository is the map of this crate.

#[doc(hidden)]
pub mod bpf;
#[doc(hidden)]
pub mod cli;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
pub mod kernel;
#[doc(hidden)]
pub mod printable;
#[doc(hidden)]
pub mod privilege;
pub mod serve;
pub mod snapshot;
#[doc(hidden)]
pub mod track;
#[doc(hidden)]
pub mod view;
#[doc(hidden)]
pub mod zabbix_agent;

// Test data of the integration tests serves unit tests as well.
#[cfg(test)]
extern crate self as tcp_status;
