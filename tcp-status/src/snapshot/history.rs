//! Peaks, rates and stale connections: what happened between two polls.

use serde::{Deserialize, Serialize};

use super::Counts;

/// The default window of [`Peaks`] and [`Rates`], in seconds.
pub const DEFAULT_WINDOW: u32 = 60;

/// The longest window, in seconds.
pub const MAX_WINDOW: u32 = 86_400;

/// The longest window that is kept by seconds; a longer one has whole minutes.
pub const FINE_WINDOW: u32 = 600;

/// Extremes of every gauge, sampled inside the tracker. In the reduced tier, those of FIN_WAIT2 and TIME_WAIT
/// are bounds: their split is unknown between two walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peaks {
    /// Time covered: the requested window, or the time since start.
    pub window_seconds: u32,
    /// Time between samples; shorter spikes may be missed.
    pub sample_milliseconds: u32,
    /// The smallest sample of each state.
    pub min: Counts,
    /// The largest sample of each state.
    pub max: Counts,
    /// Seconds since each largest sample was last reached.
    #[serde(default)]
    pub max_seconds_ago: Counts,
}

/// Averages per second over a window, with the names of [`super::Transitions`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// The window, in seconds.
    pub window_seconds: f64,
    /// Active opens.
    pub active_open: f64,
    /// Passive opens.
    pub passive_open: f64,
    /// Failed opens.
    pub failed_open: f64,
    /// Connections that this side closed first.
    pub active_close: f64,
    /// Connections that the peer closed first.
    pub passive_close: f64,
    /// Aborted connections.
    pub aborted: f64,
    /// State changes of any kind.
    pub events: f64,
}

/// Connections in CLOSE_WAIT or FIN_WAIT2 whose last segment from the peer is more than a minute ago. Counted
/// by the last walk and carried forward: at least those of the walk that still exist, at most all that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// How long, in seconds.
    pub older_than_seconds: u32,
    /// Closed by the peer only: the application does not close them.
    pub closewait: u64,
    /// Closed by this side only; full sockets.
    pub finwait2: u64,
    /// Seconds since that walk.
    pub walked_seconds_ago: u64,
}
