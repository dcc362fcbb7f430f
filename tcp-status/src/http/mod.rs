//! HTTP, where it is asked for by `--metrics`: `/metrics` for Prometheus and OpenMetrics, and two
//! probes. Every page is made from a reading of the [`Source`](crate::server::Source) at the moment
//! in which it is asked for: nothing is counted here but the scrapes themselves.

mod accept;
mod desk;
mod host;
mod page;
mod route;
mod serve;

#[cfg(any(test, fuzzing))]
pub(crate) use route::fuzz;
pub use serve::{BindError, Options, Server};
