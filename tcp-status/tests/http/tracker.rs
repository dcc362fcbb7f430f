//! `tcp-status run --metrics` as a process, in the calling thread's network namespace.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// An unoptimized build may read the kernel's types for long.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Tracker {
    address: Option<SocketAddr>,
    pub(crate) socket: PathBuf,
    /// What it logged before it was ready.
    pub(crate) log: Vec<String>,
    _directory: TempDir,
    child: Child,
}

/// The binary, with nothing of the tests' own environment that could matter.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcp-status"));
    for name in [
        "TCP_STATUS_SOCKET",
        "RUST_LOG",
        "RUST_LOG_STYLE",
        "NOTIFY_SOCKET",
    ] {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A run that has to fail at once.
pub(crate) fn refused(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let mut command = command(&["run", "--backend", "scan"]);
    command
        .args(arguments)
        .arg("--socket")
        .arg(directory.path().join("s"));
    command.output().unwrap()
}

/// Another command of the binary, and what it prints.
pub(crate) fn printed(arguments: &[&str]) -> String {
    let output = command(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

impl Tracker {
    /// Starts one, and waits until it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let mut command = command(&["run"]);
        command.args(arguments).arg("--socket").arg(&socket);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines(&mut child);
        let mut log = Vec::new();
        loop {
            let line = lines
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("not ready: {log:?}"));
            let ready = line.contains("] ready");
            log.push(line);
            if ready {
                break;
            }
        }
        let address = log
            .iter()
            .find_map(|line| line.split("] serving metrics address=").nth(1));
        Self {
            address: address.map(|text| text.parse().unwrap()),
            socket,
            log,
            _directory: directory,
            child,
        }
    }

    /// One that scans, with a page at an address of its own.
    pub(crate) fn scanning() -> Self {
        Self::start(&["--backend", "scan", "--metrics", "127.0.0.1:0"])
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
            .unwrap_or_else(|| panic!("no page: {:?}", self.log))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn end(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        self.child.wait().unwrap()
    }
}

/// What it says on standard error, read until it ends.
fn lines(child: &mut Child) -> Receiver<String> {
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            // Nobody reads what comes after the start.
            let _: Result<_, _> = sender.send(line);
        }
    });
    receiver
}

impl Drop for Tracker {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
