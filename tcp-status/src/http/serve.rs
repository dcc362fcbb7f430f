//! The HTTP server: owns the address, the accept loop and the connections. Who has to go is
//! decided by [`super::guests`], what is answered by [`super::desk`].

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, pin, select, task::JoinSet, time::sleep_until};

use super::{
    desk::Desk,
    guests::{Guests, Stay},
    page::Labels,
};
use crate::server::{
    Source,
    accept::{Door, finish},
};

/// The longest head of a request, in bytes: many times what Prometheus sends.
const MAX_HEAD: usize = 8192;

/// The most lines in the head of a request.
const MAX_HEADERS: usize = 64;

/// What clients may take of the tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections. When one more comes, one that waits for nothing is dropped.
    pub connections: usize,
    /// Readings at the same time.
    pub calls: usize,
    /// The time from a connection to the end of its first request.
    pub request: Duration,
    /// The time from an answer to the end of the next request, reading the answer included. More
    /// than the usual time between scrapes: a connection for each would leave one in TIME_WAIT.
    pub idle: Duration,
    /// The time that a reading may take, waiting for its turn included.
    pub reading: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32,
            calls: 2,
            request: Duration::from_secs(5),
            idle: Duration::from_secs(90),
            reading: Duration::from_secs(9),
        }
    }
}

/// What is served, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// What clients may take.
    pub limits: Limits,
    /// Whether series name their network namespace, however many there are.
    pub label_netns: bool,
    /// Whether `node_tcp_connection_states` is there as well, as from node_exporter.
    pub node_names: bool,
}

/// The address cannot be listened at.
#[derive(Debug, thiserror::Error)]
#[error("listen, on --metrics {address}: {why}; {cure}")]
pub struct BindError {
    address: SocketAddr,
    why: io::Error,
    cure: &'static str,
}

impl BindError {
    fn new(address: SocketAddr, why: io::Error) -> Self {
        let cure = match why.kind() {
            ErrorKind::AddrInUse => "stop what listens there, or choose another port",
            ErrorKind::AddrNotAvailable => "use an address of this host, such as 127.0.0.1",
            ErrorKind::PermissionDenied => "use a port from 1024 on, or grant CAP_NET_BIND_SERVICE",
            _ => "choose another address",
        };
        Self { address, why, cure }
    }

    /// Whether another address would do.
    #[must_use]
    pub fn is_argument(&self) -> bool {
        matches!(
            self.why.kind(),
            ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable
        )
    }
}

/// An address that is listened at and not served yet: clients wait.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    options: Options,
}

impl Server {
    /// Listens, and serves nothing yet.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(address: SocketAddr, options: Options) -> Result<Self, BindError> {
        let bind = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bind().map_err(|why| BindError::new(address, why))?;
        if !address.ip().to_canonical().is_loopback() {
            log::warn!(
                address:%;
                "metrics are open to everybody who reaches this address: there is no authentication"
            );
        }
        Ok(Self {
            listener,
            address,
            options,
        })
    }

    /// Where it listens; with a port, even if none was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` completes. Needs a runtime with timers and I/O.
    ///
    /// # Errors
    /// When the runtime cannot watch the listener. Failing clients are no error.
    pub async fn run(
        self,
        source: Arc<dyn Source>,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let Options {
            limits,
            label_netns,
            node_names,
        } = self.options;
        let labels = Labels {
            netns: label_netns,
            node: node_names,
        };
        let hall = Arc::new(Hall {
            desk: Desk::new(source, labels, limits.calls, limits.reading),
            guests: Guests::new(Stay {
                request: limits.request,
                idle: limits.idle,
            }),
            connections: limits.connections,
        });
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let mut connections = JoinSet::new();
        select! {
            () = hall.accept_all(&listener, &mut connections) => {}
            () = shutdown => {}
        }
        drop(listener);
        hall.guests.drop_idle();
        finish(connections).await;
        Ok(())
    }
}

/// What all connections share.
struct Hall {
    desk: Desk,
    guests: Guests,
    connections: usize,
}

impl Hall {
    async fn accept_all(
        self: &Arc<Self>,
        listener: &tokio::net::TcpListener,
        connections: &mut JoinSet<()>,
    ) {
        let mut door = Door::default();
        for number in 0.. {
            let accept = async || Ok(listener.accept().await?.0);
            let stream = door
                .next(accept, connections, || self.guests.drop_one())
                .await;
            while connections.len() >= self.connections {
                self.guests.drop_one();
                connections.join_next().await;
            }
            self.guests.come(number, || {
                Some(connections.spawn(Arc::clone(self).converse(number, stream)))
            });
        }
    }

    /// Answers one connection's requests, one after the other, until it leaves or has to go.
    async fn converse(self: Arc<Self>, number: u64, stream: TcpStream) {
        let service = service_fn(|request| self.answer(number, request));
        let connection = http1::Builder::new()
            // The guests' own deadlines are stricter: they count reading an answer as well.
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        pin!(connection);
        while let Some(deadline) = self.guests.may_stay_until(number) {
            select! {
                // A client that breaks off harms only itself.
                _ = &mut connection => break,
                () = sleep_until(deadline) => {}
            }
        }
        self.guests.leave(number);
    }

    async fn answer(
        &self,
        number: u64,
        request: Request<Incoming>,
    ) -> Result<hyper::Response<http_body_util::Full<hyper::body::Bytes>>, std::convert::Infallible>
    {
        self.guests.asked(number);
        let answer = self.desk.answer(&request).await;
        self.guests.answered(number);
        answer
    }
}
