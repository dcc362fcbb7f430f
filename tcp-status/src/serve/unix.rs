//! The Unix socket: one request, one answer, a closed connection. Where the socket lies is
//! [`super::socket_path`]'s, what is answered the [`Source`]'s.

use std::{
    future::pending,
    io,
    num::NonZero,
    os::{fd::AsFd as _, unix::net::UnixListener},
    path::Path,
    pin::pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread::available_parallelism,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::UnixStream,
    select,
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Source,
    accept::{self, Handler, Limits},
    calls::Calls,
    connections::{Connection, Peer},
    protocol::{
        ApiError, Get, MAX_REQUEST, MAX_RESPONSE, Query, Request, Response, Wait, encode, malformed,
    },
    socket_path::{Access, SocketFile, SocketPath, SocketPathError},
};

/// The server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no socket.
    #[error(transparent)]
    SocketPath(#[from] SocketPathError),
    /// The socket cannot be watched.
    #[error("cannot listen on the socket: {0}; raise the limit of open files")]
    Listen(#[from] io::Error),
}

/// A socket that listens and is not served yet: clients wait. Dropping it removes the socket.
#[derive(Debug)]
pub struct Server {
    socket_path: SocketPath,
    listener: UnixListener,
    limits: Limits,
}

impl Server {
    /// Puts the socket into its place, with permission bits `mode` and, if given, its `group`.
    ///
    /// # Errors
    /// [`SocketPathError`]; nothing is left behind then.
    pub fn bind(
        path: &Path,
        group: Option<&str>,
        mode: u32,
        limits: Limits,
    ) -> Result<Self, SocketPathError> {
        let (socket_path, listener) = SocketPath::bind(path, Access { group, mode })?;
        Ok(Self {
            socket_path,
            listener,
            limits,
        })
    }

    /// What dropping it removes.
    #[must_use]
    pub const fn socket_file(&self) -> &SocketFile {
        self.socket_path.file()
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
            socket_path,
            listener,
            limits,
        } = self;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let limits = limits.within_files();
        let handler = Protocol {
            dumps: Calls::new(Arc::clone(&source), &dump_limits(limits)),
            calls: Calls::new(source, &limits),
            waiters: Semaphore::new(limits.connections / 2),
            looks: Looks::new(),
            limits,
        };
        let shutdown = async {
            shutdown.await;
            // While it listens, no other tracker takes its place: so the place goes first.
            drop(socket_path);
        };
        accept::serve(listener, &limits, handler, shutdown).await;
        Ok(())
    }
}

/// An answer of more bytes lies in pages of its own.
const LONG: usize = 256 << 10;

/// However many clients want dumps, a processor is left to the event loop.
fn dump_limits(limits: Limits) -> Limits {
    let processors = available_parallelism().map_or(1, NonZero::get);
    Limits {
        calls: limits.calls.min(processors - 1).max(1),
        ..limits
    }
}

/// The handler of the protocol.
struct Protocol {
    calls: Calls,
    /// For what may be large.
    dumps: Calls,
    /// Clients that wait keep their connections: some are left to others.
    waiters: Semaphore,
    looks: Looks,
    limits: Limits,
}

/// Clients of one user that wait for the same number look at it at the same moments: one of them reads it for all.
struct Looks {
    /// When the first of these moments was.
    since: Instant,
    by_query: Mutex<Vec<(Peer, Get, Weak<Look>)>>,
}

/// The last number, and when its reading began.
type Look = tokio::sync::Mutex<Option<(Instant, u64)>>;

impl Looks {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            by_query: Mutex::default(),
        }
    }

    /// What all share that wait for this.
    fn shared(&self, peer: Peer, query: &Get) -> Arc<Look> {
        let mut all = self.by_query.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, _, look)| look.strong_count() > 0);
        let found = all.iter().find(|(by, of, _)| *by == peer && of == query);
        found
            .and_then(|(_, _, look)| look.upgrade())
            .unwrap_or_else(|| {
                let look = Arc::default();
                all.push((peer, query.clone(), Arc::downgrade(&look)));
                look
            })
    }

    /// The next moment of those that are so far apart.
    fn next(&self, now: Instant, pause: Duration) -> Instant {
        let past = now.duration_since(self.since).as_nanos() % pause.as_nanos();
        now + pause - Duration::from_nanos(u64::try_from(past).unwrap_or(0))
    }
}

impl Handler<UnixStream> for Protocol {
    async fn handle(&self, mut stream: UnixStream, connection: &Connection) {
        let input = connection.in_time(read_line(&mut stream)).await;
        connection.request_started();
        // Those in flight are not closed: some connections are left to other users.
        let most = self.limits.connections / 4 * 3;
        let line = match input {
            Some(Ok(Input::Line(_))) if connection.in_flight() > most => {
                Err(ApiError::unavailable(format!(
                    "cannot query the tracker: {most} requests of this user are not answered yet; \
                     try again later"
                )))
            }
            Some(Ok(Input::Line(line))) => match Request::decode(&line) {
                Ok(Request {
                    query: Query::Wait(wait),
                    ..
                }) => match self.wait(&wait, &mut stream, connection.peer()).await {
                    Some(answer) => answer.and_then(|answer| encode_bounded(&answer)),
                    // The client has left.
                    None => return,
                },
                request => select! {
                    answer = self.answer(request, connection.peer()) => answer,
                    () = left(&stream) => return,
                },
            },
            Some(Ok(Input::TooLong)) => Err(malformed(&format!("longer than {MAX_REQUEST} bytes"))),
            Some(Ok(Input::CutShort)) => Err(malformed("ends without a newline")),
            None => {
                let limit = self.limits.timeouts.first_request;
                Err(malformed(&format!("incomplete after {limit:?}")))
            }
            // Nobody is there to read an answer.
            Some(Ok(Input::Nothing) | Err(_)) => return,
        };
        let line = line.or_else(|refusal| encode_bounded(&Response::Error(refusal.printable())));
        if let Ok(line) = line {
            connection.respond(&mut stream, &line).await;
            if line.len() > LONG {
                // Unmapping megabytes takes milliseconds, for which the event loop must not wait.
                drop(spawn_blocking(move || drop(line)));
            }
        }
    }
}

impl Protocol {
    /// The line of an answer. Large ones are encoded where they are put together, not in the event loop.
    async fn answer(
        &self,
        request: Result<Request, ApiError>,
        peer: Peer,
    ) -> Result<Vec<u8>, ApiError> {
        let request = request?;
        if let Query::Get(query) = &request.query
            && let Some(answer) = self.calls.source().try_get(query)
        {
            return encode_bounded(&answer.map(Response::Value)?);
        }
        let calls = match request.query {
            Query::Get(_) => &self.calls,
            _ => &self.dumps,
        };
        let line = calls.call(peer, move |source| {
            encode_bounded(&match &request.query {
                Query::Get(query) => source.get(query).map(Response::Value),
                Query::Show(query) => source.show(query).map(Response::Snapshots),
                Query::History(query) => source.history(query).map(Response::History),
                Query::Wait(_) => Err(malformed("wait is answered elsewhere")),
            }?)
        });
        line.await.flatten()
    }

    /// Waits until the number is what the client waits for, or the time is up; none if the client
    /// leaves before.
    async fn wait(
        &self,
        wait: &Wait,
        stream: &mut UnixStream,
        peer: Peer,
    ) -> Option<Result<Response, ApiError>> {
        let Ok(_waiter) = self.waiters.try_acquire() else {
            let why = "cannot wait: too many clients wait already; try again later";
            return Some(Err(ApiError::unavailable(why.into())));
        };
        let mut changes = self.calls.source().changes(&wait.of);
        let deadline = wait.limit().map(|limit| Instant::now() + limit);
        let mut met_since = None;
        let shared = self.looks.shared(peer, &wait.of);
        let mut look = Instant::now();
        loop {
            let read = self.number_since(look, &shared, &wait.of, peer);
            let read = select! {
                read = read => read,
                _ = stream.read_u8() => return None,
            };
            let value = match read {
                Ok(value) => value,
                Err(error) => return Some(Err(error)),
            };
            let now = Instant::now();
            let met = wait.is_met(value);
            let since = *met_since.get_or_insert(now);
            let held = since + Duration::from_millis(wait.hold);
            if !met {
                met_since = None;
            }
            if met && now >= held {
                return Some(Ok(Response::Waited { met: true, value }));
            }
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Some(Ok(Response::Waited { met: false, value }));
            }
            // A port without counters of its own is counted by a walk, which may be an earlier one.
            let counted = self.calls.source().try_get(&wait.of).is_some();
            let pause = wait.of.pause(counted && changes.is_some());
            let next = self.looks.next(now, pause);
            let others = [deadline, met.then_some(held)];
            let next = others.into_iter().flatten().fold(next, Instant::min);
            let changed = async {
                match &mut changes {
                    // The source outlives its clients.
                    Some(changes) => drop(changes.changed().await),
                    None => pending().await,
                }
            };
            look = select! {
                () = sleep_until(next) => next,
                () = changed => Instant::now(),
                // Nothing more is expected of the client.
                _ = stream.read_u8() => return None,
            };
        }
    }

    /// A number that was read at this moment or later.
    async fn number_since(
        &self,
        moment: Instant,
        shared: &Look,
        query: &Get,
        peer: Peer,
    ) -> Result<u64, ApiError> {
        // Not for longer than its own reading might take.
        let Ok(mut last) = timeout(self.limits.call, shared.lock()).await else {
            let why = "cannot query the tracker: the host is overloaded; try again later";
            return Err(ApiError::unavailable(why.into()));
        };
        if let Some((at, value)) = *last
            && at >= moment
        {
            return Ok(value);
        }
        let at = Instant::now();
        let value = self.number(query, peer).await?;
        *last = Some((at, value));
        Ok(value)
    }

    async fn number(&self, query: &Get, peer: Peer) -> Result<u64, ApiError> {
        match self.calls.source().try_get(query) {
            Some(value) => value,
            None => {
                let query = query.clone();
                let value = self.calls.call(peer, move |source| source.get(&query));
                value.await.flatten()
            }
        }
    }
}

/// Completes once the client has closed the socket. Never completes if the client has sent more, or has
/// shut down only its sending side.
async fn left(stream: &UnixStream) {
    // Without an event that is asked for, `poll()` reports that both directions are closed.
    let mut closed = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let ready = stream.ready(Interest::READABLE).await;
    let polled = ready.is_ok() && poll(&mut closed, PollTimeout::ZERO) == Ok(1);
    if !polled {
        pending::<()>().await;
    }
}

/// What a client has sent.
enum Input {
    /// A request, without its newline.
    Line(Vec<u8>),
    /// The client left.
    Nothing,
    /// No newline within [`MAX_REQUEST`].
    TooLong,
    /// The client stopped in the middle.
    CutShort,
}

async fn read_line(stream: &mut UnixStream) -> io::Result<Input> {
    let mut stream = pin!(stream.take(MAX_REQUEST as u64));
    let mut input = Vec::with_capacity(MAX_REQUEST);
    loop {
        let before = input.len();
        let count = stream.read_buf(&mut input).await?;
        if let Some(end) = input[before..].iter().position(|byte| *byte == b'\n') {
            input.truncate(before + end);
            return Ok(Input::Line(input));
        }
        if input.len() >= MAX_REQUEST {
            return Ok(Input::TooLong);
        }
        if count == 0 {
            return Ok(if input.is_empty() {
                Input::Nothing
            } else {
                Input::CutShort
            });
        }
    }
}

/// The answer as a line that the client accepts.
///
/// # Errors
/// If it cannot be written as JSON.
fn encode_bounded(answer: &Response) -> Result<Vec<u8>, ApiError> {
    let encode = |answer| {
        encode(answer)
            .map_err(|error| ApiError::unavailable(format!("cannot encode an answer: {error}")))
    };
    let line = encode(answer)?;
    if line.len() <= MAX_RESPONSE {
        return Ok(line);
    }
    encode(&Response::Error(ApiError::unavailable(format!(
        "cannot show all namespaces: more than {MAX_RESPONSE} bytes; ask for one with --netns"
    ))))
}
