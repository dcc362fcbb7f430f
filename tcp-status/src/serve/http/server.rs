//! The HTTP server: owns the address and speaks HTTP/1.1. [`super::handler`] responds.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{allowed_hosts::AllowedHosts, handler::MetricsHandler, metrics::Labels};
use crate::serve::{
    Limits, Source, Timeouts,
    accept::{self, Handler},
    bind::{BindError, bind},
    calls::Calls,
    connections::Connection,
};

/// The longest head of a request, in bytes: many times what Prometheus sends.
const MAX_HEAD: usize = 8192;

/// The most lines in the head of a request.
const MAX_HEADERS: usize = 64;

/// Connections stay open between scrapes: a new one for each would leave one in TIME_WAIT.
const LIMITS: Limits = Limits {
    calls: 2,
    timeouts: Timeouts {
        idle: Duration::from_secs(90),
        ..Limits::DEFAULT.timeouts
    },
    ..Limits::DEFAULT
};

/// Options of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Limits for clients.
    pub limits: Limits,
    /// Further host names that requests may carry.
    pub hosts: Vec<String>,
    /// Whether series have a `netns` label even if there is one namespace only.
    pub label_netns: bool,
    /// Whether to add `node_tcp_connection_states` of node_exporter.
    pub node_names: bool,
    /// Maximum number of other namespaces with series of their own.
    pub max_namespaces: usize,
    /// Maximum number of ports of a namespace with series of their own.
    pub max_ports: usize,
    /// Maximum number of cgroups with series of their own.
    pub max_cgroups: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: LIMITS,
            hosts: Vec::new(),
            label_netns: false,
            node_names: false,
            max_namespaces: 256,
            max_ports: 256,
            max_cgroups: 256,
        }
    }
}

/// A bound address that is not served yet: clients wait.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    options: Options,
}

impl Server {
    /// Binds the address; serves nothing yet.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(address: SocketAddr, options: Options) -> Result<Self, BindError> {
        let hints = [
            "stop what listens there, or choose another port",
            "use a port from 1024 on, or grant CAP_NET_BIND_SERVICE",
        ];
        let (listener, address) = bind("--metrics", address, hints)?;
        if !address.ip().to_canonical().is_loopback() {
            log::warn!(
                address:%;
                "metrics are served without authentication on an address beyond loopback"
            );
        }
        Ok(Self {
            listener,
            address,
            options,
        })
    }

    /// The bound address, with the port that the kernel chose for port 0.
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
            hosts,
            label_netns,
            node_names,
            max_namespaces,
            max_ports,
            max_cgroups,
        } = self.options;
        let labels = Labels {
            netns: label_netns,
            node: node_names,
            namespaces: max_namespaces,
            ports: max_ports,
            cgroups: max_cgroups,
        };
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let calls = Calls::new(source, &limits);
        let handler = Pages {
            handler: MetricsHandler::new(calls, AllowedHosts::new(self.address, &hosts), labels),
        };
        accept::serve(listener, &limits, handler, shutdown).await;
        Ok(())
    }
}

/// The connection handler.
struct Pages {
    handler: MetricsHandler,
}

impl Handler<TcpStream> for Pages {
    /// Responds to requests one after the other until the client leaves or times out.
    async fn handle(&self, stream: TcpStream, connection: &Connection) {
        let service = service_fn(async |request: Request<Incoming>| {
            connection.request_started();
            let answer = self.handler.answer(&request, connection.peer()).await;
            connection.response_ready();
            answer
        });
        let conversation = http1::Builder::new()
            // The table's own deadlines are stricter: they count reading an answer as well.
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        // A client that breaks off harms only itself.
        let _: Option<hyper::Result<()>> = connection.in_time(conversation).await;
    }
}
