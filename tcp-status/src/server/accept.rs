//! What every server here does with its listener and its connections, whatever they speak.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

/// How long to wait after a failed accept, usually for want of file descriptors.
const BACK_OFF: Duration = Duration::from_millis(50);

/// How often the log says that connections cannot be accepted: a crowd may make that come and go.
const WARN_AGAIN: Duration = Duration::from_secs(60);

/// How long answers that are under way may take after the shutdown.
const GRACE: Duration = Duration::from_millis(250);

/// Accepts connections, and says when it cannot.
#[derive(Debug, Default)]
pub(crate) struct Door {
    warned: Option<Instant>,
}

impl Door {
    /// The next connection; the ones that ended are cleared away in the meantime. While none can
    /// be accepted, calls `make_room`, which tells whether it has dropped one.
    pub(crate) async fn next<S>(
        &mut self,
        mut accept: impl AsyncFnMut() -> io::Result<S>,
        connections: &mut JoinSet<()>,
        make_room: impl Fn() -> bool,
    ) -> S {
        loop {
            tokio::select! {
                biased;
                Some(_) = connections.join_next() => {}
                accepted = accept() => match accepted {
                    Ok(stream) => return stream,
                    Err(error) => {
                        self.warn(&error);
                        // A crowd that is silent makes room at once for who comes after it.
                        if make_room() {
                            connections.join_next().await;
                        } else {
                            sleep(BACK_OFF).await;
                        }
                    }
                }
            }
        }
    }

    fn warn(&mut self, error: &io::Error) {
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_AGAIN) {
            log::warn!(error:%; "no connection can be accepted for now");
            self.warned = Some(Instant::now());
        }
    }
}

/// Waits for the connections that are left, but not for long.
pub(crate) async fn finish(mut connections: JoinSet<()>) {
    let rest = async { while connections.join_next().await.is_some() {} };
    if timeout(GRACE, rest).await.is_err() {
        log::debug!("answers under way were dropped");
    }
}
