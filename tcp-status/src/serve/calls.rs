//! Calls of the [`Source`] from a server's handler: in blocking threads, a bounded number at the
//! same time, each within a time limit.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::{Source, accept::Limits, protocol::ApiError};

/// The source, as the connections of one server share it.
pub(crate) struct Calls {
    source: Arc<dyn Source>,
    permits: Arc<Semaphore>,
    limit: Duration,
}

impl Calls {
    pub(crate) fn new(source: Arc<dyn Source>, limits: &Limits) -> Self {
        Self {
            source,
            permits: Arc::new(Semaphore::new(limits.calls)),
            limit: limits.call,
        }
    }

    /// For what does not wait.
    pub(crate) fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// What `call` makes of the source.
    ///
    /// # Errors
    /// A [`ApiError`] if it panics, or is not done in time. It goes on then, and keeps its permit.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Source) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let work = async {
            // Never closed.
            let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
            let source = Arc::clone(&self.source);
            spawn_blocking(move || {
                // With the call, not with the connection, which may end before it.
                let _permit = permit;
                call(&*source)
            })
            .await
            .ok()
        };
        match timeout(self.limit, work).await {
            Ok(Some(output)) => Ok(output),
            Ok(None) => Err(ApiError::unavailable(
                "cannot query the tracker: internal error; see its log".into(),
            )),
            Err(_) => Err(ApiError::unavailable(format!(
                "cannot query the tracker: no answer within {:?}; the host is overloaded",
                self.limit
            ))),
        }
    }
}
