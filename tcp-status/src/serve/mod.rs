//! What serves queries: one accept loop, one connection table and one set of deadlines for the Unix
//! socket, HTTP and passive checks; of the Unix socket also both ends of the protocol.

pub(crate) mod accept;
pub(crate) mod bind;
pub(crate) mod calls;
pub mod client;
pub(crate) mod connections;
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod otlp;
pub mod protocol;
#[doc(hidden)]
pub mod socket_path;
#[doc(hidden)]
pub mod unix;
#[doc(hidden)]
pub mod zabbix;

#[doc(hidden)]
pub use accept::Limits;
#[doc(hidden)]
pub use connections::Timeouts;

use tokio::sync::watch;

use crate::snapshot::{Snapshot, minutes};
use protocol::{ApiError, Get, History, Show};

/// Where the socket is, if nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tcp-status/tcp-status.sock";

/// What answers queries: the tracker, or the scan. Called from several threads at once;
/// may block for the time of a walk.
pub trait Source: Send + Sync + 'static {
    /// One number. Costs no more than that number needs.
    ///
    /// # Errors
    /// A [`ApiError`] that the client prints as it is.
    fn get(&self, query: &Get) -> Result<u64, ApiError>;

    /// The same, if it can be had without waiting for anything: who asks for it may do so where
    /// others must not be held up.
    fn try_get(&self, _query: &Get) -> Option<Result<u64, ApiError>> {
        None
    }

    /// Tells when this number may have changed; none if nothing does.
    fn changes(&self, _query: &Get) -> Option<watch::Receiver<()>> {
        None
    }

    /// Whole readings: one, or one per namespace that is tracked.
    ///
    /// # Errors
    /// As [`Source::get`].
    fn show(&self, query: &Show) -> Result<Vec<Snapshot>, ApiError>;

    /// What was sampled of the tracker's namespace.
    ///
    /// # Errors
    /// A [`ApiError`] where nothing is sampled.
    fn history(&self, _query: &History) -> Result<minutes::History, ApiError> {
        Err(ApiError::unavailable(
            "cannot read the history: the scan tier keeps none; tcp-status check reports what eBPF needs".into(),
        ))
    }

    /// Why a count may be off; none when all are exact. Costs no more than one count where that is known
    /// without a reading.
    ///
    /// # Errors
    /// As [`Source::get`].
    fn degraded(&self) -> Result<Option<String>, ApiError> {
        let all = self.show(&Show {
            all_netns: true,
            ..Show::default()
        })?;
        Ok(all.into_iter().find_map(|one| one.degraded))
    }
}
