//! What was between two polls, and within the last day.

pub(crate) mod conditions;
pub(crate) mod minutes;
pub(crate) mod onsets;
pub(crate) mod queue_counters;
pub(crate) mod sampler;
pub(crate) mod samples;
pub(crate) mod seconds;
pub(crate) mod window_extremes;
