//! `run` as a process: its end, its service manager, its neighbours.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixDatagram,
        process::CommandExt as _,
    },
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::{SigHandler, Signal, signal};

use crate::{complaint, output, printed, tracker::Tracker};

#[test]
fn signals_end_it_and_leave_nothing() {
    let ends = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ];
    for signal in ends {
        let tracker = Tracker::start_with(with_default_signals);
        let socket = tracker.socket();
        printed(&["get", "listen", "--socket", socket.to_str().unwrap()]);
        let (status, time, directory) = tracker.end(signal);
        assert_eq!(status.code(), Some(0), "{signal}");
        assert!(time < Duration::from_secs(1), "{signal}: {time:?}");
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            0,
            "{signal}"
        );
    }
}

/// The command, with the signals that end a process by default, whatever the tests were started by.
fn with_default_signals(command: &mut Command) -> &mut Command {
    let by_default = || {
        for ends in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
            // SAFETY: no handler is installed.
            unsafe { signal(ends, SigHandler::SigDfl)? };
        }
        Ok(())
    };
    // SAFETY: system calls only; nothing else is done between fork and exec.
    unsafe { command.pre_exec(by_default) }
}

#[test]
fn a_reader_that_leaves_does_not_end_it() {
    let tracker = Tracker::start();
    tracker.signal(Signal::SIGPIPE);
    let socket = tracker.socket();
    printed(&["get", "listen", "--socket", socket.to_str().unwrap()]);
    tracker.end(Signal::SIGTERM);
}

#[test]
fn under_nohup_a_closed_terminal_does_not_end_it() {
    let tracker = Tracker::start_with(|command| {
        // SAFETY: one system call between fork and exec; no handler is installed.
        unsafe { command.pre_exec(|| Ok(signal(Signal::SIGHUP, SigHandler::SigIgn).map(drop)?)) }
    });
    tracker.signal(Signal::SIGHUP);
    let socket = tracker.socket();
    printed(&["get", "listen", "--socket", socket.to_str().unwrap()]);
    let (status, ..) = tracker.end(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_socket_that_cannot_be_made_is_refused_at_once() {
    let gone = tempfile::tempdir().unwrap();
    let enter = format!("cd {0} && rmdir {0} && exec \"$@\"", gone.path().display());
    for (path, script) in [("/proc/x.sock", "exec \"$@\""), ("x.sock", enter.as_str())] {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_tcp-status")]);
        command.args(["run", "--backend", "scan", "--socket", path]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("--socket {path}: still starting after 20 s");
            }
            thread::sleep(Duration::from_millis(20));
        }
        let line = complaint(&child.wait_with_output().unwrap(), 4);
        assert!(line.contains(path) && line.contains("; "), "{line}");
    }
}

#[test]
fn a_signal_at_any_moment_leaves_nothing() {
    for milliseconds in 0..20 {
        let tracker = Tracker::launch();
        thread::sleep(Duration::from_millis(milliseconds));
        let (status, _, directory) = tracker.end(Signal::SIGTERM);
        assert_eq!(status.code(), Some(0));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

#[test]
fn the_log_names_no_module() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = fs::File::create(&path).unwrap();
    let tracker = Tracker::start_with(|command| command.stderr(log));
    tracker.end(Signal::SIGTERM);
    let log = fs::read_to_string(&path).unwrap();
    assert!(log.contains(" INFO "), "{log}");
    assert!(!log.contains("tcp_status"), "{log}");
}

#[test]
fn a_killed_tracker_is_replaced() {
    let tracker = Tracker::start();
    let socket = tracker.socket();
    let (status, _, directory) = tracker.end(Signal::SIGKILL);
    assert_eq!(status.code(), None);
    assert!(socket.exists());
    let second = Tracker::start_in(directory, |command| command);
    printed(&[
        "get",
        "listen",
        "--socket",
        second.socket().to_str().unwrap(),
    ]);
    let (_, _, directory) = second.end(Signal::SIGTERM);
    assert!(!socket.exists());
    // Made by the first one, which had no time to remove it.
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn the_second_on_a_socket_is_refused() {
    let tracker = Tracker::start();
    let socket = tracker.socket();
    let socket = socket.to_str().unwrap();
    let line = complaint(
        &output(&["run", "--backend", "scan", "--socket", socket]),
        2,
    );
    for part in [socket, "in use by another tracker", "stop it"] {
        assert!(line.contains(part), "{line}");
    }
    printed(&["get", "listen", "--socket", socket]);
}

#[test]
fn a_file_in_the_way_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("precious");
    fs::write(&file, "data").unwrap();
    let path = file.to_str().unwrap();
    let line = complaint(&output(&["run", "--backend", "scan", "--socket", path]), 2);
    assert!(line.contains("no socket is in the way"), "{line}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "data");
}

#[test]
fn mode_and_directory_are_as_asked() {
    let tracker = Tracker::start_with(|command| command.args(["--socket-mode", "0666"]));
    let socket = tracker.socket();
    assert_eq!(socket.metadata().unwrap().mode() & 0o777, 0o666);
    let directory = socket.parent().unwrap();
    assert_eq!(
        directory.metadata().unwrap().permissions().mode() & 0o777,
        0o755
    );
}

#[test]
fn the_service_manager_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let manager = directory.path().join("notify");
    let socket = UnixDatagram::bind(&manager).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let told = || {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let tracker = Tracker::start_with(|command| command.env("NOTIFY_SOCKET", &manager));
    assert_eq!(told(), "READY=1\n");
    let path = tracker.socket();
    printed(&["get", "listen", "--socket", path.to_str().unwrap()]);
    tracker.end(Signal::SIGTERM);
    assert_eq!(told(), "STOPPING=1\n");
}
