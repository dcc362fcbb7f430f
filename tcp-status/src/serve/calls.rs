//! Calls of the [`Source`] from a server's handler: in blocking threads, a bounded number at the
//! same time, each within a time limit, peers in turn.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::{Source, accept::Limits, connections::Peer, protocol::ApiError};

/// The source, as the connections of one server share it.
pub(crate) struct Calls {
    source: Arc<dyn Source>,
    permits: Arc<Semaphore>,
    /// As many permits as there are in all, for each peer with calls in flight: however many another
    /// has waiting, a call waits for as many of its as may be going on.
    turns: Mutex<BTreeMap<Peer, Weak<Semaphore>>>,
    limits: Limits,
}

impl Calls {
    pub(crate) fn new(source: Arc<dyn Source>, limits: &Limits) -> Self {
        Self {
            source,
            permits: Arc::new(Semaphore::new(limits.calls)),
            turns: Mutex::default(),
            limits: *limits,
        }
    }

    /// For what does not wait.
    pub(crate) fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// The permits of `peer`.
    fn turns(&self, peer: Peer) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, permits| permits.strong_count() > 0);
        turns.get(&peer).and_then(Weak::upgrade).unwrap_or_else(|| {
            let permits = Arc::new(Semaphore::new(self.limits.calls));
            turns.insert(peer, Arc::downgrade(&permits));
            permits
        })
    }

    /// What `call` makes of the source, for `peer`. Dropped before its turn, it makes no call.
    ///
    /// # Errors
    /// A [`ApiError`] if it panics, or is not done in time. It goes on then, and keeps its permits.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        peer: Peer,
        call: impl FnOnce(&dyn Source) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let turns = self.turns(peer);
        let work = async {
            // Never closed.
            let turn = turns.acquire_owned().await.ok()?;
            let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
            let source = Arc::clone(&self.source);
            spawn_blocking(move || {
                // With the call, not with the connection, which may end before it.
                let _permits = (turn, permit);
                call(&*source)
            })
            .await
            .ok()
        };
        match timeout(self.limits.call, work).await {
            Ok(Some(output)) => Ok(output),
            Ok(None) => Err(ApiError::unavailable(
                "cannot query the tracker: internal error; see its log".into(),
            )),
            Err(_) => Err(ApiError::unavailable(format!(
                "cannot query the tracker: no answer within {:?}; the host is overloaded or this client \
                 sends too many requests at once; try again later",
                self.limits.call
            ))),
        }
    }
}
