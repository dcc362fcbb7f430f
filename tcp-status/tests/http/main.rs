//! The HTTP server and its page: in this process against clients of every kind, and as a real
//! process against the kernel's listing and against Prometheus' own programs.

mod client;
mod conversation;
mod fake;
mod hostile;
mod otlp;
mod page;
mod page_size;
mod process;
mod programs;
mod prometheus;
mod rules;
mod templates;
mod text;
mod tracker;
mod triggers;

use std::{
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tcp_status::serve::{
    Limits, Source, Timeouts,
    http::{Options, Server},
};
use tokio::sync::oneshot;

/// A server in a thread of its own; ends with it.
struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(source: impl Source) -> Self {
        Self::with(
            source,
            Options {
                limits: limits(),
                ..Options::default()
            },
        )
    }

    /// With clients that never have to go for being late.
    fn patient(source: impl Source) -> Self {
        let for_ever = Duration::from_secs(3600);
        let limits = Limits {
            timeouts: Timeouts {
                first_request: for_ever,
                idle: for_ever,
            },
            ..limits()
        };
        Self::with(
            source,
            Options {
                limits,
                ..Options::default()
            },
        )
    }

    fn with(source: impl Source, options: Options) -> Self {
        let server = Server::bind(([127, 0, 0, 1], 0).into(), options).unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let shutdown = async { drop(stopped.await) };
            runtime
                .block_on(server.run(Arc::new(source), shutdown))
                .unwrap();
            runtime.shutdown_background();
        });
        Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Asks it to end, and waits for that.
    fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            stop.send(()).unwrap();
            thread.join().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.end();
        }
    }
}

/// Those of a real server, but impatient; still enough for a machine that does much else.
fn limits() -> Limits {
    Limits {
        connections: 8,
        call: Duration::from_millis(1500),
        timeouts: Timeouts {
            first_request: Duration::from_millis(1000),
            idle: Duration::from_millis(2000),
        },
        ..Options::default().limits
    }
}
