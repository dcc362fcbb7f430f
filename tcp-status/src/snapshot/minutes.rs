//! The history by minute: extremes and means of states, rates and accept queues.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The most minutes that are kept.
pub const MAX_MINUTES: u32 = 24 * 60;

/// Extremes of one number within a minute.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Extremes<T> {
    /// The smallest sample.
    pub min: T,
    /// The largest sample.
    pub max: T,
    /// The mean over the time covered.
    pub mean: f64,
    /// When the largest sample was first taken, in seconds of Unix time.
    pub max_at: f64,
}

/// An accept queue that was the fullest of all, in relation to its limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FullestQueue {
    /// Local port of the listener.
    pub port: u16,
    /// Connections that waited.
    pub length: u32,
    /// Limit of the queue.
    pub limit: u32,
    /// When, in seconds of Unix time.
    pub at: f64,
}

/// One minute, or the part of it that was sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Minute {
    /// When it began, in seconds of Unix time.
    pub start: u64,
    /// How much of it was sampled, in seconds.
    pub seconds: f64,
    /// Whether a count was marked as degraded at any time.
    pub degraded: bool,
    /// Sockets by state.
    pub states: BTreeMap<String, Extremes<u64>>,
    /// State changes per second, with the names of [`super::Rates`]. Empty in a minute too short for a rate.
    pub rates: BTreeMap<String, Extremes<f64>>,
    /// Connections in all accept queues together.
    pub accept_queues: Option<Extremes<u64>>,
    /// The fullest accept queue; none if all were empty.
    pub fullest_accept_queue: Option<FullestQueue>,
}

impl Minute {
    /// When it began, in seconds of Unix time.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "times are far below 2^53")]
    pub const fn begin(&self) -> f64 {
        self.start as f64
    }
}

/// The largest value of the whole time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// The value.
    pub max: u64,
    /// When it was first reached, in seconds of Unix time.
    pub at: f64,
}

/// What a tracker sampled of its namespace. Minutes in which it did not run, or could not sample, are absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// The time of the answer, in seconds of Unix time.
    pub now: f64,
    /// How far the history was asked to reach back, in seconds.
    pub since_seconds: u32,
    /// Time between samples; shorter spikes may be missed.
    pub sample_milliseconds: u32,
    /// The peak of each state within these minutes.
    pub peaks: BTreeMap<String, Peak>,
    /// From old to new; the last one goes on.
    pub minutes: Vec<Minute>,
}

impl History {
    /// How many seconds ago a time was.
    #[must_use]
    pub fn age(&self, time: f64) -> f64 {
        self.now - time
    }

    /// The last whole minute, if it has just ended.
    #[must_use]
    pub fn last_whole_minute(&self) -> Option<&Minute> {
        let age = |minute: &Minute| self.age(minute.begin());
        let mut whole = self.minutes.iter().rev().filter(|one| age(one) >= 60.0);
        whole.next().filter(|one| age(one) < 130.0)
    }

    /// Fills in [`History::peaks`].
    #[must_use]
    pub fn with_peaks(mut self) -> Self {
        for minute in &self.minutes {
            for (name, of) in &minute.states {
                let peak = Peak {
                    max: of.max,
                    at: of.max_at,
                };
                let known = self.peaks.entry(name.clone()).or_insert(peak);
                if known.max < of.max {
                    *known = peak;
                }
            }
        }
        self
    }
}
