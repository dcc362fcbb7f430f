//! The Unix socket: one request, one answer, a closed connection. Where the socket lies is
//! [`super::socket_path`]'s, what is answered the [`Source`]'s.

use std::{io, os::unix::net::UnixListener, path::Path, pin::pin, sync::Arc};

use tokio::{io::AsyncReadExt as _, net::UnixStream, task::spawn_blocking};

use super::{
    Source,
    accept::{self, Handler, Limits},
    calls::Calls,
    connections::Connection,
    protocol::{ApiError, MAX_REQUEST, MAX_RESPONSE, Query, Request, Response, encode, malformed},
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
        let handler = Protocol {
            calls: Calls::new(source, &limits),
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

/// The handler of the protocol.
struct Protocol {
    calls: Calls,
    limits: Limits,
}

impl Handler<UnixStream> for Protocol {
    async fn handle(&self, mut stream: UnixStream, connection: &Connection) {
        let input = connection.in_time(read_line(&mut stream)).await;
        connection.request_started();
        let line = match input {
            Some(Ok(Input::Line(line))) => self.answer(&line).await,
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
    async fn answer(&self, line: &[u8]) -> Result<Vec<u8>, ApiError> {
        let request = Request::decode(line)?;
        if let Query::Get(query) = &request.query
            && let Some(answer) = self.calls.source().try_get(query)
        {
            return encode_bounded(&answer.map(Response::Value)?);
        }
        let line = self.calls.call(move |source| {
            encode_bounded(&match &request.query {
                Query::Get(query) => source.get(query).map(Response::Value),
                Query::Show(query) => source.show(query).map(Response::Snapshots),
            }?)
        });
        line.await.flatten()
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
