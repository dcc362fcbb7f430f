//! HTTP, where it is asked for by `--metrics`: `/metrics` for Prometheus and OpenMetrics, and two
//! probes. Every page is made from a reading of the [`Source`](crate::serve::Source) at the moment
//! in which it is asked for: nothing is counted here but the scrapes themselves.

mod allowed_hosts;
mod handler;
mod metrics;
mod negotiation;
mod route;
mod server;

#[cfg(any(test, fuzzing))]
pub(crate) use route::fuzz;
pub use server::{Options, Server};
