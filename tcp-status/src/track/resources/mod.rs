//! Processor time, memory, threads and locks of the tracker itself.

pub(crate) mod budget;
pub(crate) mod cpu_time;
pub(crate) mod limiter;
pub(crate) mod memory;
pub(crate) mod sync;
pub(crate) mod ticker;
