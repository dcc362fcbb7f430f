//! The tracker as a process, with every namespace and the page for Prometheus.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tcp_status::{
    serve::{
        client::request,
        protocol::{Query, Response, Show},
    },
    snapshot::Snapshot,
};
use tempfile::TempDir;

use crate::samples::Sample;

/// In a namespace of its own, every port is free.
const METRICS: &str = "127.0.0.1:9889";

/// An unoptimised build may read the kernel's types for long.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Tracker {
    child: Child,
    directory: TempDir,
}

impl Tracker {
    /// Starts one, and waits until it answers. Where there is no eBPF, it says so and scans.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tcp-status"));
        command
            .args(["run", "--netns", "all", "--metrics", METRICS, "--socket"])
            .arg(directory.path().join("s"))
            .env_remove("RUST_LOG")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().unwrap();
        let tracker = Self { child, directory };
        let began = Instant::now();
        while !tracker.log().iter().any(|line| line.contains("] ready")) {
            assert!(began.elapsed() < PATIENCE, "{:?}", tracker.log());
            thread::sleep(Duration::from_millis(20));
        }
        println!("{}", tracker.log().join("\n"));
        tracker
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join("log")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn show(&self, show: &Show) -> Snapshot {
        match request(&self.socket(), &Query::Show(show.clone())).unwrap() {
            Response::Snapshots(mut all) => all.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// Reads the page, as Prometheus would; whether there was one. On a machine that others keep
    /// busy a reading may take too long, and the page says so.
    pub(crate) fn page(&self) -> bool {
        let mut stream = TcpStream::connect(METRICS).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let refused = page.starts_with("HTTP/1.1 503 ") && page.contains("overloaded");
        assert!(refused || page.starts_with("HTTP/1.1 200 "), "{page}");
        !refused
    }

    /// Asks for every namespace as well, so that answers of all sizes are made.
    pub(crate) fn sample(&self, at: Duration) -> Sample {
        let all = Show {
            all_netns: true,
            ..Show::default()
        };
        self.show(&all);
        let snapshot = self.show(&Show::default());
        let process = PathBuf::from("/proc").join(self.child.id().to_string());
        let status = fs::read_to_string(process.join("status")).unwrap();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).unwrap()
        };
        Sample {
            at,
            rss: number("VmRSS:"),
            files: fs::read_dir(process.join("fd")).unwrap().count() as u64,
            threads: number("Threads:"),
            corrections: snapshot.drift.corrections,
            audits: snapshot.drift.audits,
            events: snapshot.events.unwrap().counted,
            missed: snapshot.events.unwrap().missed,
        }
    }

    /// As a user would.
    pub(crate) fn verify(&self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tcp-status"));
        command.arg("verify").arg("--socket").arg(self.socket());
        let output = command.output().unwrap();
        println!("{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }

    /// Ends it; what it warned of.
    pub(crate) fn end(mut self) -> Vec<String> {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let mut log = self.log();
        log.retain(|line| !line.contains(" INFO "));
        log
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
