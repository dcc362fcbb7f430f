//! The server: one request, one answer, a closed connection. Owns the accept loop and its limits;
//! where the socket lies is [`super::place`]'s, what is answered the [`Source`]'s.

use std::{
    collections::BTreeMap,
    io,
    os::unix::net::UnixListener,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::Semaphore,
    task::{self, AbortHandle, JoinSet},
    time::timeout,
};

use super::{
    Source,
    accept::{Door, finish},
    place::{Access, Place, PlaceError, SocketFile},
    protocol::{Answer, MAX_ANSWER, MAX_REQUEST, Query, Refusal, Request, encode},
};

/// What clients may take of the tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections. When one more comes, the one that has waited longest without asking
    /// anything is dropped.
    pub connections: usize,
    /// Calls of the [`Source`] at the same time.
    pub calls: usize,
    /// The time a client has to send its request.
    pub request: Duration,
    /// The time a client has to read its answer.
    pub answer: Duration,
}

impl Limits {
    /// With as many connections as leave file descriptors for answers and audits, where this
    /// process may have `files` of them.
    #[must_use]
    pub fn within(files: u64) -> Self {
        /// Programs and maps have some forty, the page for metrics up to 32, passive checks up to
        /// 64, answers and audits a few each.
        const RESERVED: u64 = 192;
        /// So many are tried in any case.
        const FEWEST: usize = 8;
        let all = Self::default();
        let room = usize::try_from(files.saturating_sub(RESERVED)).unwrap_or(usize::MAX);
        Self {
            connections: room.clamp(FEWEST, all.connections),
            ..all
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            calls: 8,
            request: Duration::from_secs(2),
            answer: Duration::from_secs(5),
        }
    }
}

/// The server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no socket.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The socket cannot be watched.
    #[error("listen, on the socket: {0}; raise the limit of open files")]
    Listen(#[from] io::Error),
}

/// A socket that listens and is not served yet: clients wait. Dropping it removes the socket.
#[derive(Debug)]
pub struct Server {
    place: Place,
    listener: UnixListener,
    limits: Limits,
}

impl Server {
    /// Puts the socket into its place, with permission bits `mode` and, if given, its `group`.
    ///
    /// # Errors
    /// [`PlaceError`]; nothing is left behind then.
    pub fn bind(
        path: &Path,
        group: Option<&str>,
        mode: u32,
        limits: Limits,
    ) -> Result<Self, PlaceError> {
        let (place, listener) = Place::take(path, Access { group, mode })?;
        Ok(Self {
            place,
            listener,
            limits,
        })
    }

    /// What dropping it removes.
    #[must_use]
    pub const fn socket_file(&self) -> &SocketFile {
        self.place.file()
    }

    /// Serves until `shutdown` completes, then removes the socket. Needs a runtime with timers
    /// and I/O.
    ///
    /// # Errors
    /// [`ServeError::Listen`]. Failing clients are no error.
    pub async fn run(
        self,
        source: Arc<dyn Source>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let Self {
            place,
            listener,
            limits,
        } = self;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let desk = Arc::new(Desk {
            source,
            limits,
            calls: Arc::new(Semaphore::new(limits.calls)),
            waiting: Mutex::default(),
        });
        let mut connections = JoinSet::new();
        tokio::select! {
            () = desk.accept_all(&listener, &mut connections) => {}
            () = shutdown => {}
        }
        // While it listens, no other tracker takes its place: so the place goes first.
        drop(place);
        drop(listener);
        finish(connections).await;
        Ok(())
    }
}

/// Connections that have not asked anything yet, the oldest first.
type Waiting = BTreeMap<u64, AbortHandle>;

/// What all connections share.
struct Desk {
    source: Arc<dyn Source>,
    limits: Limits,
    calls: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

impl Desk {
    async fn accept_all(
        self: &Arc<Self>,
        listener: &tokio::net::UnixListener,
        connections: &mut JoinSet<()>,
    ) {
        let mut door = Door::default();
        for number in 0.. {
            let accept = async || Ok(listener.accept().await?.0);
            let stream = door.next(accept, connections, || self.drop_idlest()).await;
            while connections.len() >= self.limits.connections {
                self.drop_idlest();
                connections.join_next().await;
            }
            // Held until the handle is in: the connection takes it out again.
            let mut waiting = self.waiting();
            let handle = connections.spawn(Arc::clone(self).converse(number, stream));
            waiting.insert(number, handle);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was one to drop.
    fn drop_idlest(&self) -> bool {
        let idlest = self.waiting().pop_first();
        if let Some((_, handle)) = &idlest {
            handle.abort();
        }
        idlest.is_some()
    }

    async fn converse(self: Arc<Self>, number: u64, mut stream: UnixStream) {
        let heard = timeout(self.limits.request, hear(&mut stream)).await;
        self.waiting().remove(&number);
        let answer = match heard {
            Ok(Ok(Heard::Line(line))) => self.answer(&line).await,
            Ok(Ok(Heard::TooLong)) => refuse(&format!("longer than {MAX_REQUEST} bytes")),
            Ok(Ok(Heard::CutShort)) => refuse("ends without a newline"),
            Err(_) => refuse(&format!("incomplete after {:?}", self.limits.request)),
            // Nobody is there to read an answer.
            Ok(Ok(Heard::Nothing) | Err(_)) => return,
        };
        if let Ok(line) = fitting(&answer) {
            // A client that leaves or does not read harms only itself.
            let _: Result<_, _> = timeout(self.limits.answer, stream.write_all(&line)).await;
        }
    }

    async fn answer(&self, line: &[u8]) -> Answer {
        let request = match Request::decode(line) {
            Ok(request) => request,
            Err(refusal) => return Answer::Error(refusal),
        };
        if let Query::Get(query) = &request.query
            && let Some(answer) = self.source.get_at_once(query)
        {
            return answer.map_or_else(Answer::Error, Answer::Value);
        }
        // Never closed.
        let Ok(permit) = Arc::clone(&self.calls).acquire_owned().await else {
            return failed();
        };
        let source = Arc::clone(&self.source);
        let call = task::spawn_blocking(move || {
            let answer = match &request.query {
                Query::Get(query) => source.get(query).map(Answer::Value),
                Query::Show(query) => source.show(query).map(Answer::Snapshots),
            };
            // With the call, not with the connection, which may end before it.
            drop(permit);
            answer.unwrap_or_else(Answer::Error)
        });
        call.await.unwrap_or_else(|_| failed())
    }
}

/// What came from a client.
enum Heard {
    /// A request, without its newline.
    Line(Vec<u8>),
    /// The client left.
    Nothing,
    /// No newline within [`MAX_REQUEST`].
    TooLong,
    /// The client stopped in the middle.
    CutShort,
}

async fn hear(stream: &mut UnixStream) -> io::Result<Heard> {
    let mut stream = pin!(stream.take(MAX_REQUEST as u64));
    let mut heard = Vec::with_capacity(MAX_REQUEST);
    loop {
        let before = heard.len();
        let count = stream.read_buf(&mut heard).await?;
        if let Some(end) = heard[before..].iter().position(|byte| *byte == b'\n') {
            heard.truncate(before + end);
            return Ok(Heard::Line(heard));
        }
        if heard.len() >= MAX_REQUEST {
            return Ok(Heard::TooLong);
        }
        if count == 0 {
            return Ok(if heard.is_empty() {
                Heard::Nothing
            } else {
                Heard::CutShort
            });
        }
    }
}

/// The answer as a line that the client accepts.
fn fitting(answer: &Answer) -> serde_json::Result<Vec<u8>> {
    let line = encode(answer)?;
    if line.len() <= MAX_ANSWER {
        return Ok(line);
    }
    encode(&Answer::Error(Refusal::unavailable(format!(
        "show, on all namespaces: more than {MAX_ANSWER} bytes; ask for one with --netns"
    ))))
}

fn refuse(why: &str) -> Answer {
    Answer::Error(Refusal::bad(format!(
        "query, on request: {why}; send one line of JSON, as tcp-status does"
    )))
}

fn failed() -> Answer {
    Answer::Error(Refusal::unavailable(
        "query, on the tracker: it failed inside; see its log".into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::Limits;

    #[test]
    fn connections_leave_files_for_answers() {
        let connections = |files| Limits::within(files).connections;
        assert_eq!([0, 64, 200].map(connections), [8, 8, 8]);
        assert_eq!(connections(264), 72);
        assert_eq!([1024, u64::MAX].map(connections), [256, 256]);
    }
}
