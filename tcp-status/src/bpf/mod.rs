//! The only module that calls aya: loads the programs, attaches them, reads and writes their
//! maps, runs their iterators. Knows nothing of what the counts mean.

mod accept;
mod batch;
mod cgroup_slots;
mod cgroups;
mod closed_listeners;
mod control;
mod counters;
mod error;
mod iterate;
mod load;
mod memory;
mod namespaces;
mod no_local_port;
mod object;
mod own_counters;
mod pod;
mod port_slots;
mod ports;
mod reads;
mod slots;
mod table;
mod timewait;

pub use cgroup_slots::{CgroupSum, CgroupsOfNetns};
pub use cgroups::CgroupSums;
pub(crate) use control::wait;
pub use counters::{BankSum, WriterTotals};
pub use error::BpfError;
pub use load::{Bpf, MapLimits, Scope};
pub use port_slots::PortSum;
pub use ports::{PortEnds, PortSums};
pub use reads::BankReader;
pub use slots::Refusals;
pub use table::{ListenerListing, Listing};

/// What a walk over listeners writes, and the text form of a program.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) -> Vec<tcp_status_common::counters::ListenerRecord> {
    load::fuzz(bytes);
    pod::fuzz(bytes)
}
