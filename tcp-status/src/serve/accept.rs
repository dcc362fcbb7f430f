//! The accept loop of every server here: a bounded number of connections, of which one is closed
//! when a new one arrives. What is spoken on a connection is its [`Handler`]'s.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    select,
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};

use super::connections::{Connection, ConnectionTable, Peer, Timeouts};

/// How long to wait after a failed accept, usually for want of file descriptors.
const BACK_OFF: Duration = Duration::from_millis(50);

/// How often the log says that connections cannot be accepted: a crowd may make that come and go.
const WARN_AGAIN: Duration = Duration::from_secs(60);

/// How long requests in flight may take after the shutdown.
const GRACE: Duration = Duration::from_millis(250);

/// How much of the tracker the clients of one server may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections. When one more arrives, one without a request in flight is closed.
    pub connections: usize,
    /// Calls of the [`Source`](super::Source) at the same time.
    pub calls: usize,
    /// How long a call may take, waiting for its turn included. Less than a Prometheus server
    /// waits by default.
    pub call: Duration,
    /// How long a connection may wait for its client.
    pub timeouts: Timeouts,
}

impl Limits {
    /// Of the Unix socket.
    pub const DEFAULT: Self = Self {
        connections: 256,
        calls: 8,
        call: Duration::from_secs(9),
        timeouts: Timeouts {
            first_request: Duration::from_secs(5),
            idle: Duration::from_secs(5),
        },
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Limits {
    /// With no more connections than this process may have open.
    pub(crate) fn within_files(self) -> Self {
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(files, _)| files);
        Self {
            connections: self.connections.min(connections_within(files)),
            ..self
        }
    }
}

/// How many connections each server may have open, where the process may have `files` open.
fn connections_within(files: u64) -> usize {
    /// Programs and maps have some forty; answers and audits a few each.
    const RESERVED: u64 = 96;
    /// The Unix socket, HTTP and passive checks.
    const SERVERS: u64 = 3;
    /// So many are tried in any case.
    const FEWEST: usize = 8;
    let each = files.saturating_sub(RESERVED) / SERVERS;
    usize::try_from(each).unwrap_or(usize::MAX).max(FEWEST)
}

/// A listening socket.
pub(crate) trait Listener {
    /// What an accepted connection is read from and written to.
    type Stream: Send + 'static;

    /// The next connection, and who is at its other end.
    async fn accept(&self) -> io::Result<(Self::Stream, Peer)>;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.accept().await?;
        let peer = Peer::User(stream.peer_cred()?.uid());
        Ok((stream, peer))
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, peer) = self.accept().await?;
        Ok((stream, peer.ip().into()))
    }
}

/// Speaks one protocol.
pub(crate) trait Handler<S>: Send + Sync + 'static {
    /// Serves one connection to its end.
    fn handle(&self, stream: S, connection: &Connection) -> impl Future<Output = ()> + Send;
}

/// Serves until `shutdown` completes. Clients that fail are no error.
pub(crate) async fn serve<L: Listener>(
    listener: L,
    limits: &Limits,
    handler: impl Handler<L::Stream>,
    shutdown: impl Future<Output = ()>,
) {
    let mut acceptor = Acceptor {
        handler: Arc::new(handler),
        table: Arc::new(ConnectionTable::new(limits.timeouts)),
        limit: limits.within_files().connections,
        tasks: JoinSet::new(),
        warned: None,
    };
    select! {
        () = acceptor.accept_all(&listener) => {}
        () = shutdown => {}
    }
    drop(listener);
    acceptor.finish().await;
}

struct Acceptor<H> {
    handler: Arc<H>,
    table: Arc<ConnectionTable>,
    limit: usize,
    tasks: JoinSet<()>,
    warned: Option<Instant>,
}

impl<H> Acceptor<H> {
    async fn accept_all<L: Listener>(&mut self, listener: &L)
    where
        H: Handler<L::Stream>,
    {
        for id in 0.. {
            let (stream, peer) = self.next(listener).await;
            while self.tasks.len() >= self.limit {
                self.make_room().await;
            }
            let connection = self.table.insert(id, peer);
            let handler = Arc::clone(&self.handler);
            let task = async move { handler.handle(stream, &connection).await };
            self.table.set_task(id, self.tasks.spawn(task));
        }
    }

    /// The next connection; tasks that ended are cleared away in the meantime.
    async fn next<L: Listener>(&mut self, listener: &L) -> (L::Stream, Peer) {
        loop {
            select! {
                biased;
                Some(_) = self.tasks.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => return accepted,
                    Err(error) => {
                        self.warn(&error);
                        if self.table.evict_one() {
                            self.tasks.join_next().await;
                        } else {
                            sleep(BACK_OFF).await;
                        }
                    }
                }
            }
        }
    }

    /// Closes a connection, or waits until one can be closed.
    async fn make_room(&mut self) {
        // First the runtime polls for requests that have arrived, then their tasks run.
        yield_now().await;
        yield_now().await;
        if self.table.evict_one() {
            self.tasks.join_next().await;
        } else {
            select! {
                _ = self.tasks.join_next() => {}
                () = self.table.evictable.notified() => {}
            }
        }
    }

    fn warn(&mut self, error: &io::Error) {
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_AGAIN) {
            log::warn!(error:%; "cannot accept connections");
            self.warned = Some(Instant::now());
        }
    }

    /// Closes what waits for a client, and waits for requests in flight, but not for long.
    async fn finish(mut self) {
        while self.table.evict_one() {}
        let rest = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(GRACE, rest).await.is_err() {
            log::debug!("dropped requests in flight");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::connections_within;

    #[test]
    fn connections_leave_files_for_answers() {
        assert_eq!([0, 64, 119].map(connections_within), [8; 3]);
        assert_eq!(connections_within(396), 100);
        assert!(connections_within(1024) >= 256);
    }
}
