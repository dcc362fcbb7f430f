//! The only module that calls aya: loads the programs, attaches them, reads and writes their
//! maps, runs their iterators. Knows nothing of what the counts mean.

mod closed;
mod counters;
mod iterate;
mod load;
mod namespaces;
mod ports;
mod record;
mod switch;
mod timewait;

pub use counters::{BankReader, Banks, WriterTotals};
pub use load::{Bpf, Limits, LoadError};
pub use ports::PortSum;
pub(crate) use switch::wait;

/// What a walk over listeners writes, and the text form of a program.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) -> Vec<tcp_status_common::counters::ListenerRecord> {
    load::fuzz(bytes);
    record::fuzz(bytes)
}
