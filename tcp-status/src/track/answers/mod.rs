//! What a query is answered with: readings of the counters, put together with what the kernel tells.

pub(crate) mod accept_latency;
pub(crate) mod api_error;
pub(crate) mod assemble;
pub(crate) mod aux_counts;
pub(crate) mod cgroup_names;
pub(crate) mod cgroups;
pub(crate) mod ports;
pub(crate) mod query;
pub(crate) mod queues;
pub(crate) mod reading;
pub(crate) mod source;
