//! The server and its socket, in this process, against clients of every kind.

mod conversation;
mod socket_path;
mod waiting;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tcp_status::{
    serve::{
        Limits, Source, Timeouts,
        client::request,
        protocol::{ApiError, Get, Query, Response, Show},
        socket_path::SocketPathError,
        unix::Server,
    },
    snapshot::{Snapshot, Tier},
};
use tcp_status_common::state::State;
use tokio::sync::oneshot;

/// Answers with the state's number plus the port; `closing` takes a while, `lastack` panics.
struct Fake;

impl Source for Fake {
    fn get(&self, query: &Get) -> Result<u64, ApiError> {
        let state = query.state()?;
        match state {
            State::Closing => thread::sleep(Duration::from_millis(100)),
            State::LastAck => panic!("a bug in the source, on purpose"),
            _ => {}
        }
        Ok(u64::from(state.number()) + u64::from(query.port.unwrap_or(0)))
    }

    fn show(&self, query: &Show) -> Result<Vec<Snapshot>, ApiError> {
        let one = Snapshot {
            port: query.port,
            ..Snapshot::of(Tier::Full, 1, <_>::default())
        };
        // Enough to fill every buffer between server and client.
        Ok(vec![one; if query.all_netns { 4000 } else { 1 }])
    }
}

/// A server in a thread of its own.
struct Running {
    path: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(path: &Path) -> Self {
        Self::serve(path, bind(path).unwrap())
    }

    fn serve(path: &Path, server: Server) -> Self {
        Self::serve_source(path, server, Arc::new(Fake))
    }

    fn serve_source(path: &Path, server: Server, source: Arc<dyn Source>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let shutdown = async { drop(stopped.await) };
            runtime
                .unwrap()
                .block_on(server.run(source, shutdown))
                .unwrap();
        });
        Self {
            path: path.into(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn established(&self) -> Response {
        request(&self.path, &get("established", None)).unwrap()
    }

    fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn limits() -> Limits {
    Limits {
        timeouts: Timeouts {
            first_request: Duration::from_millis(300),
            idle: Duration::from_millis(300),
        },
        ..Limits::default()
    }
}

fn bind(path: &Path) -> Result<Server, SocketPathError> {
    Server::bind(path, None, 0o660, limits())
}

fn get(state: &str, port: Option<u16>) -> Query {
    Query::Get(Get {
        state: state.into(),
        port,
        family: None,
        netns: None,
        cgroup: None,
    })
}
