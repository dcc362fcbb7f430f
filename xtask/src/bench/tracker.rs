//! The tracker that is measured: the release binary, started in the bench's own namespace, and
//! its socket. Ends with this value.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use super::Bench;

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a tracker may take to answer; a million sockets have to be seeded within it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests, as they go over the wire.
pub(crate) const GET: &str = r#"{"v":1,"do":"get","state":"established"}"#;
pub(crate) const SHOW: &str = r#"{"v":1,"do":"show"}"#;

/// A running tracker.
#[derive(Debug)]
pub(crate) struct Tracker {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    /// From its start to its first answer.
    pub(crate) start: Duration,
}

impl Tracker {
    /// Starts it and waits until it answers.
    pub(crate) fn start(bench: &Bench<'_>, args: &[&str]) -> Result<Self> {
        let binary = bench.binary;
        let (socket, log) = (bench.folder.join("s"), bench.folder.join("tracker.log"));
        let start = Instant::now();
        let child = Command::new(binary)
            .args(["run", "--backend", "ebpf", "--socket"])
            .arg(&socket)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).with_context(|| format!("cannot write {log:?}"))?)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut tracker = Self {
            child,
            socket,
            log,
            start: Duration::ZERO,
        };
        tracker.await_answer(start)?;
        tracker.start = start.elapsed();
        Ok(tracker)
    }

    fn await_answer(&mut self, start: Instant) -> Result<()> {
        loop {
            if self.query(GET).is_ok_and(|answer| answer.contains("value")) {
                return Ok(());
            }
            if self.child.try_wait()?.is_some() || start.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!("the tracker does not answer; its log ends: {}", tail(&log));
            }
            sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// One request, one answer, one connection.
    pub(crate) fn query(&self, request: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("cannot connect to {}", self.socket.display()))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        if let Ok(pid) = self.child.id().try_into() {
            // Fails only when it has ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// The last line of a log.
fn tail(log: &str) -> &str {
    log.lines().last().unwrap_or("(empty)")
}
