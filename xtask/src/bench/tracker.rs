//! The tracker that is measured: the release binary, started in the bench's own namespace, and
//! its socket. Ends with this value.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use crate::{process::Process, step::step};

/// How long a tracker may take to answer; a million sockets have to be seeded within it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests, as they go over the wire.
pub(crate) const GET: &str = r#"{"v":1,"do":"get","state":"established"}"#;
pub(crate) const SHOW: &str = r#"{"v":1,"do":"show"}"#;

/// A running tracker.
#[derive(Debug)]
pub(crate) struct Tracker {
    process: Process,
    socket: PathBuf,
    /// From its start to its first answer.
    pub(crate) start: Duration,
}

impl Tracker {
    /// Starts it and waits until it answers.
    pub(crate) fn start(bench: &Bench<'_>, args: &[&str]) -> Result<Self> {
        let (socket, log) = (bench.folder.join("s"), bench.folder.join("tracker.log"));
        let stderr = File::create(&log).with_context(|| format!("cannot write {log:?}"))?;
        let step = step!(
            bench.binary,
            "run --backend ebpf --socket",
            &socket,
            args.to_vec()
        );
        let start = Instant::now();
        let mut tracker = Self {
            process: Process::start(step.command().stdout(Stdio::null()).stderr(stderr))?,
            socket,
            start: Duration::ZERO,
        };
        while !tracker
            .query(GET)
            .is_ok_and(|answer| answer.contains("value"))
        {
            let is_running = tracker.process.child.try_wait()?.is_none();
            ensure!(
                is_running && start.elapsed() < PATIENCE,
                "the tracker does not answer; its log: {}",
                std::fs::read_to_string(&log).unwrap_or_default()
            );
            sleep(Duration::from_millis(1));
        }
        tracker.start = start.elapsed();
        Ok(tracker)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
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
