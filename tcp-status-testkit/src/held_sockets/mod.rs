//! Holds sockets of every state at once, in planned numbers. What it believes to hold is
//! only a check of itself: the oracle decides.

mod build;
mod plan;

pub use plan::{SocketKind, SocketPlan};

use std::{io, time::Duration};

use crate::{
    endpoints::{Endpoint, Listener},
    oracle::{Counts, NAMES, Table},
};

/// Sockets at rest. Minisockets last for 60 s (`tcp_fin_timeout` and the length of TIME_WAIT),
/// half-open ones for at least 63 s, SYN_SENT for `tcp_syn_retries`; all else until drop.
///
/// Dropping it resets every connection, so that minisockets of TIME_WAIT are all that stays.
#[derive(Debug)]
pub struct HeldSockets {
    // In this order: a listener that goes before its half-open clients leaves request sockets.
    ends: Vec<Endpoint>,
    listeners: Vec<Listener>,
    expected: Counts,
}

impl HeldSockets {
    /// Brings the planned sockets into their states, in the calling thread's namespace. The
    /// last steps may still be on their way: see [`HeldSockets::wait`].
    ///
    /// # Errors
    /// What a system call says, with kind and family; among others when files run out: see
    /// [`crate::raise_fd_limit`].
    pub fn new(plan: &SocketPlan) -> io::Result<Self> {
        build::build(plan)
    }

    /// Everything that should be listed now because of this value: planned states, their peers,
    /// and listeners.
    #[must_use]
    pub const fn expected(&self) -> Counts {
        self.expected
    }

    /// Waits until the listing has at least what is expected, in every state; gives it.
    ///
    /// # Errors
    /// What the oracle says, and `TimedOut` with the states that are missing.
    pub fn wait(&self, limit: Duration) -> io::Result<Counts> {
        let enough = |counts: &Counts| self.missing(counts).is_empty();
        Counts::wait_for(limit, enough)?.map_err(|last| {
            let missing = self.missing(&last).join("; ");
            let why = format!("hold, for {limit:?}: {missing}");
            io::Error::new(io::ErrorKind::TimedOut, why)
        })
    }

    fn missing(&self, counts: &Counts) -> Vec<String> {
        let mut missing = Vec::new();
        for table in Table::ALL {
            for (st, name) in NAMES.iter().enumerate() {
                let (is, want) = (counts.get(table, st), self.expected.get(table, st));
                if is < want {
                    missing.push(format!(
                        "{} of {want} {name} missing in {table:?}",
                        want - is
                    ));
                }
            }
        }
        missing
    }
}

impl Drop for HeldSockets {
    fn drop(&mut self) {
        for end in &self.ends {
            // Fails on a socket that is no longer connected: then there is nothing to reset.
            let _ = end.reset_on_close();
        }
    }
}
