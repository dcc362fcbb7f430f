//! `run` as a process: its end, its service manager, its neighbours.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixDatagram,
    },
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{complaint, output, printed, tracker::Tracker};

#[test]
fn signals_end_it_and_leave_nothing() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let tracker = Tracker::start();
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
    for part in [socket, "another tracker answers there", "stop it"] {
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
