//! What happened between two polls: peaks, rates, and connections that sit in a state.

use serde::{Deserialize, Serialize};

use super::Counts;

/// The window of [`Peaks`] and [`Rates`] for those who ask for none, in seconds.
pub const DEFAULT_WINDOW: u32 = 60;

/// The longest window, in seconds.
pub const MAX_WINDOW: u32 = 600;

/// The extremes of every gauge, sampled inside the tracker, of what was known at each sample: in the
/// reduced tier, FIN_WAIT2 and TIME_WAIT can have been further apart between two walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peaks {
    /// How far back the extremes reach: what was asked for, or the time since start.
    pub window_seconds: u32,
    /// Time between samples: what comes and goes within it may be missed.
    pub sample_milliseconds: u32,
    /// The smallest sample of each state.
    pub min: Counts,
    /// The largest sample of each state.
    pub max: Counts,
}

/// How often per second, on average over a window; by the names of [`super::Transitions`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// The window, in seconds.
    pub window_seconds: f64,
    /// Connections begun by this side.
    pub active_open: f64,
    /// Connections accepted by a listener.
    pub passive_open: f64,
    /// Connections begun that came to nothing.
    pub failed_open: f64,
    /// Connections that this side closed first.
    pub active_close: f64,
    /// Connections that the peer closed first.
    pub passive_close: f64,
    /// Connections that ended at once.
    pub aborted: f64,
    /// State changes of any kind.
    pub events: f64,
}

/// Connections that have sat in a state for longer than a minute: those whose last segment from
/// the peer is so long ago. As of the last walk, carried forward: never too few of those that
/// were there then, and not more than there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// How long, in seconds.
    pub older_than_seconds: u32,
    /// Closed by the peer, and not by us: the sign of an application that forgets to close.
    pub closewait: u64,
    /// Closed by us, and not by the peer; full sockets only.
    pub finwait2: u64,
    /// Seconds since the walk that looked.
    pub walked_seconds_ago: u64,
}
