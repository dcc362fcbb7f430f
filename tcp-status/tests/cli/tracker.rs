//! Trackers to ask: the real one, and one in this process that says what a test wants.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tcp_status::serve::{
    Limits, Source,
    client::request,
    protocol::{Query, Show},
    unix::Server,
};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::tcp_status;

/// `tcp-status run` as a process; by scan unless said otherwise, which works for every user.
pub(crate) struct Tracker {
    pub(crate) directory: TempDir,
    child: Child,
}

impl Tracker {
    pub(crate) fn start() -> Self {
        Self::start_with(|command| command)
    }

    pub(crate) fn start_with(more: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), more)
    }

    pub(crate) fn start_in(
        directory: TempDir,
        more: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        Self::launch_in(directory, "scan", more).answering()
    }

    /// A tracker by events, where they can be had.
    pub(crate) fn start_by_events() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::launch_in(directory, "auto", |command| command).answering()
    }

    fn answering(self) -> Self {
        let query = Query::Show(Show::default());
        // An unoptimized build may read the kernel's types for longer than a client waits.
        wait("answer", || request(&self.socket(), &query).is_ok());
        self
    }

    /// A tracker that listens, but may not be ready yet.
    pub(crate) fn launch() -> Self {
        Self::launch_in(tempfile::tempdir().unwrap(), "scan", |command| command)
    }

    fn launch_in(
        directory: TempDir,
        backend: &str,
        more: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        let mut command = tcp_status();
        command.args(["run", "--backend", backend, "--socket"]);
        command
            .arg(socket_in(&directory))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = more(&mut command).spawn().unwrap();
        let tracker = Self { directory, child };
        wait("socket", || UnixStream::connect(tracker.socket()).is_ok());
        tracker
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket_in(&self.directory)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(pid(&self.child), signal).unwrap();
    }

    /// Sends a signal and waits for the end; says how long that took.
    pub(crate) fn end(mut self, signal: Signal) -> (ExitStatus, Duration, TempDir) {
        let started = Instant::now();
        self.signal(signal);
        let status = self.child.wait().unwrap();
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        (status, started.elapsed(), directory)
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

pub(crate) fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "no {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// In a directory that the tracker has to make.
fn socket_in(directory: &TempDir) -> PathBuf {
    directory.path().join("made/s")
}

/// Serves `source` from a thread that ends with the tests.
pub(crate) fn serve(path: &Path, mode: u32, source: impl Source) {
    std::mem::forget(Serving::start(path, mode, source));
}

/// A server that ends when it is dropped.
pub(crate) struct Serving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    pub(crate) fn start(path: &Path, mode: u32, source: impl Source) -> Self {
        let server = Server::bind(path, None, mode, Limits::default()).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let shutdown = async { drop(stopped.await) };
            runtime
                .block_on(server.run(Arc::new(source), shutdown))
                .unwrap();
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A panic of the thread has been printed.
        drop(self.thread.take().map(JoinHandle::join));
    }
}
