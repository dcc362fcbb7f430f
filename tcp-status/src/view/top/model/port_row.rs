//! One row of the ports panel.

use std::fmt;

use crate::snapshot::Counts;

/// Which local ports a row is of, in the order of rows that have as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortGroup {
    /// One that has or had a listener.
    Port(u16),
    /// All that have none.
    Outgoing,
    /// All beyond the limit.
    Other,
}

impl fmt::Display for PortGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => port.fmt(f),
            Self::Outgoing => f.pad("outgoing"),
            Self::Other => f.pad("other"),
        }
    }
}

/// The connections of one port, or of several together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRow {
    /// Which ports.
    pub local: PortGroup,
    /// Their connections.
    pub states: Counts,
    /// Connections that were there before the first listener of a port are in the row of outgoing
    /// ones.
    pub unaudited: bool,
}
