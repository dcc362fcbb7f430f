//! The Unix socket: one request, one answer, a closed connection. Where the socket lies is
//! [`super::place`]'s, what is answered the [`Source`]'s.

use std::{io, os::unix::net::UnixListener, path::Path, pin::pin, sync::Arc};

use tokio::{io::AsyncReadExt as _, net::UnixStream};

use super::{
    Source,
    accept::{self, Handler, Limits},
    calls::Calls,
    connections::Connection,
    place::{Access, Place, PlaceError, SocketFile},
    protocol::{Answer, MAX_ANSWER, MAX_REQUEST, Query, Refusal, Request, encode, garbage},
};

/// The server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no socket.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The socket cannot be watched.
    #[error("cannot listen on the socket: {0}; raise the limit of open files")]
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
        let handler = Protocol {
            calls: Calls::new(source, &limits),
            limits,
        };
        let shutdown = async {
            shutdown.await;
            // While it listens, no other tracker takes its place: so the place goes first.
            drop(place);
        };
        accept::serve(listener, &limits, handler, shutdown).await;
        Ok(())
    }
}

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
            Some(Ok(Input::TooLong)) => Err(garbage(&format!("longer than {MAX_REQUEST} bytes"))),
            Some(Ok(Input::CutShort)) => Err(garbage("ends without a newline")),
            None => {
                let limit = self.limits.timeouts.first_request;
                Err(garbage(&format!("incomplete after {limit:?}")))
            }
            // Nobody is there to read an answer.
            Some(Ok(Input::Nothing) | Err(_)) => return,
        };
        let line = line.or_else(|refusal| encode_bounded(&Answer::Error(refusal.printable())));
        if let Ok(line) = line {
            connection.respond(&mut stream, &line).await;
        }
    }
}

impl Protocol {
    /// The line of an answer. Large ones are encoded where they are put together, not in the event loop.
    async fn answer(&self, line: &[u8]) -> Result<Vec<u8>, Refusal> {
        let request = Request::decode(line)?;
        if let Query::Get(query) = &request.query
            && let Some(answer) = self.calls.source().get_at_once(query)
        {
            return encode_bounded(&answer.map(Answer::Value)?);
        }
        let line = self.calls.call(move |source| {
            encode_bounded(&match &request.query {
                Query::Get(query) => source.get(query).map(Answer::Value),
                Query::Show(query) => source.show(query).map(Answer::Snapshots),
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
fn encode_bounded(answer: &Answer) -> Result<Vec<u8>, Refusal> {
    let encode = |answer| {
        encode(answer)
            .map_err(|error| Refusal::unavailable(format!("cannot encode an answer: {error}")))
    };
    let line = encode(answer)?;
    if line.len() <= MAX_ANSWER {
        return Ok(line);
    }
    encode(&Answer::Error(Refusal::unavailable(format!(
        "cannot show all namespaces: more than {MAX_ANSWER} bytes; ask for one with --netns"
    ))))
}
