//! `tcp-status run` as a process in the calling thread's network namespace, and what it says.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tcp_status::{
    serve::{
        client::{ClientError, request},
        protocol::{Query, Response, Show},
    },
    snapshot::{Snapshot, Tier},
};
use tcp_status_testkit::{oracle::Counts, soon};
use tempfile::TempDir;

use crate::{kernel::Objects, listed};

/// An unoptimised build may read the kernel's types for long, and more so under another program.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The binary, with nothing of the tests' own environment that could matter.
pub(crate) fn clean(command: &mut Command) -> &mut Command {
    for name in [
        "TCP_STATUS_SOCKET",
        "RUST_LOG",
        "RUST_LOG_STYLE",
        "NOTIFY_SOCKET",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null())
}

/// How long it may say of itself that a number may be wrong, once nothing moves any more.
const DOUBT: Duration = Duration::from_secs(30);

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tcp-status");

pub(crate) struct Tracker {
    pub(crate) child: Child,
    pub(crate) directory: TempDir,
}

impl Tracker {
    /// Whether eBPF can be had here, and if not why.
    pub(crate) fn possible() -> Result<(), String> {
        let tracker = Self::launch(&["--backend", "ebpf"]);
        match tracker.settled() {
            None => Ok(()),
            Some(status) => Err(format!("{status}: {}", tracker.log())),
        }
    }

    /// By eBPF or not at all.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments)
    }

    pub(crate) fn start_in(directory: TempDir, arguments: &[&str]) -> Self {
        let tracker = Self::launch_in(directory, arguments);
        assert_eq!(tracker.settled(), None, "{}", tracker.log());
        tracker
    }

    /// One that may not be ready yet.
    pub(crate) fn launch(arguments: &[&str]) -> Self {
        Self::launch_in(tempfile::tempdir().unwrap(), arguments)
    }

    pub(crate) fn launch_in(directory: TempDir, arguments: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.arg("run");
        Self::spawn(directory, command, arguments)
    }

    /// `command` ends where the options of `run` begin.
    pub(crate) fn spawn(directory: TempDir, mut command: Command, arguments: &[&str]) -> Self {
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let socket = directory.path().join("s");
        clean(&mut command)
            .args(arguments)
            .arg("--socket")
            .arg(socket)
            .stderr(log);
        let child = command.spawn().unwrap();
        Self { child, directory }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Everything that it said so far.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.directory.path().join("log")).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it has ended, or says `text`: then none.
    pub(crate) fn said(&self, text: &str) -> Option<ExitStatus> {
        let began = Instant::now();
        loop {
            if self.log().contains(text) {
                return None;
            }
            if let Some(status) = self.ended() {
                return Some(status);
            }
            assert!(began.elapsed() < PATIENCE, "no {text}: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it has ended, or is ready: then none.
    pub(crate) fn settled(&self) -> Option<ExitStatus> {
        self.said("] ready")
    }

    /// How it ended, if it has; it can still be waited for.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.pid()), flags).unwrap() {
            WaitStatus::Exited(_, code) => Some(ExitStatus::from_raw(code << 8)),
            WaitStatus::Signaled(_, signal, _) => Some(ExitStatus::from_raw(signal as i32)),
            _ => None,
        }
    }

    pub(crate) fn objects(&self) -> Objects {
        Objects::of(self.child.id())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Kills it as it stands, looks what it had in the kernel, and waits until all of it is gone.
    pub(crate) fn kill(&mut self, when: &str) -> Objects {
        self.signal(Signal::SIGSTOP);
        let objects = self.objects();
        self.signal(Signal::SIGKILL);
        self.child.wait().unwrap();
        objects.assert_gone(when);
        objects
    }

    /// Ends it as a service manager does.
    pub(crate) fn end(mut self) -> String {
        let objects = self.objects();
        self.signal(Signal::SIGTERM);
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        assert!(!self.socket().exists());
        objects.assert_gone("ended");
        self.log()
    }

    pub(crate) fn asked(&self, show: &Show) -> Result<Response, ClientError> {
        request(&self.socket(), &Query::Show(show.clone()))
    }

    pub(crate) fn all(&self) -> Vec<Snapshot> {
        let show = Show {
            all_netns: true,
            ..Show::default()
        };
        match self.asked(&show).unwrap() {
            Response::Snapshots(all) => all,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        match self.asked(&Show::default()).unwrap() {
            Response::Snapshots(mut all) => all.remove(0),
            other => panic!("{other:?}: {}", self.log()),
        }
    }

    /// Why it cannot answer, or why its answer is degraded.
    pub(crate) fn doubt(&self) -> Option<String> {
        match self.asked(&Show::default()).unwrap() {
            Response::Snapshots(mut all) => all.remove(0).degraded,
            Response::Error(refusal) => Some(refusal.message),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until it has what the kernel lists here, and is not degraded. While it is degraded, it may be wrong,
    /// but not for long.
    pub(crate) fn assert_exact(&self, when: &str) {
        let mut at_rest_since = None;
        let began = Instant::now();
        loop {
            let before = listed();
            let snapshot = self.snapshot();
            let differences = differences(&snapshot, &before);
            if listed() != before {
                at_rest_since = None;
            } else if differences.is_empty() && snapshot.degraded.is_none() {
                return;
            } else {
                let since = *at_rest_since.get_or_insert_with(Instant::now);
                let limit = match (&snapshot.degraded, snapshot.tier) {
                    (Some(_), _) => DOUBT,
                    // A scan may serve an answer that is a second old.
                    (None, Tier::Scan) => 2 * soon(),
                    (None, _) => soon(),
                };
                assert!(since.elapsed() < limit, "{when}: {differences}{snapshot:?}");
            }
            assert!(began.elapsed() < PATIENCE, "{when}: never at rest");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn differences(snapshot: &Snapshot, listed: &Counts) -> String {
    let mut text = String::new();
    for (state, count) in snapshot.states.iter() {
        let wanted = listed.both(usize::from(state.number()));
        if count != wanted {
            text += &format!("{state} {count}, listed {wanted}; ");
        }
    }
    text
}

impl Drop for Tracker {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A run that failed, with the one line that it has to say beside its log.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: i32,
    pub(crate) line: String,
}

impl Refused {
    /// The binary with these arguments, which has to fail.
    pub(crate) fn of(arguments: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        let output = clean(&mut command).args(arguments).output().unwrap();
        Self::from(output.status, &String::from_utf8_lossy(&output.stderr))
    }

    /// What remains of a log without its lines of information and warnings is one line.
    pub(crate) fn from(status: ExitStatus, log: &str) -> Self {
        let mut lines = log.lines().filter(|line| !line.starts_with('['));
        let line = lines.next().unwrap_or_default().to_owned();
        assert_eq!(lines.next(), None, "more than one line: {log}");
        assert!(line.starts_with("tcp-status: "), "{status}: {log:?}");
        let status = status.code().unwrap_or_else(|| panic!("{status}: {log}"));
        Self { status, line }
    }
}
