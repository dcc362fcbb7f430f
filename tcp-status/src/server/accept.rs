//! What every server here does with its listener and its connections, whatever they speak.

use std::{io, time::Duration};

use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

/// How long to wait after a failed accept, usually for want of file descriptors.
const BACK_OFF: Duration = Duration::from_millis(50);

/// How long answers that are under way may take after the shutdown.
const GRACE: Duration = Duration::from_millis(250);

/// The next connection; the ones that ended are cleared away in the meantime. While none can be
/// accepted, calls `make_room` now and then.
pub(crate) async fn accept<S>(
    mut next: impl AsyncFnMut() -> io::Result<S>,
    connections: &mut JoinSet<()>,
    make_room: impl Fn(),
) -> S {
    let mut failing = false;
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = next() => match accepted {
                Ok(stream) => return stream,
                Err(error) => {
                    if !failing {
                        log::warn!(error:%; "no connection can be accepted for now");
                    }
                    failing = true;
                    make_room();
                    sleep(BACK_OFF).await;
                }
            }
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
