//! No tracker, no permission, no room: statuses 3 and 4.

use std::{
    fs::{self, File, Permissions},
    io::{Read as _, Write as _},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::UnixListener,
        process::CommandExt as _,
    },
    path::Path,
    process::Command,
};

use nix::unistd::geteuid;

use crate::{complaint, output, tcp_status};

fn commands(socket: &Path) -> [Vec<String>; 8] {
    let with = |words: &[&str]| {
        let words = words.iter().map(ToString::to_string);
        words
            .chain(["--socket".into(), socket.to_str().unwrap().into()])
            .collect()
    };
    [
        with(&["get", "established"]),
        with(&["show"]),
        with(&["show", "--json", "--all-netns"]),
        with(&["verify"]),
        with(&["listeners"]),
        with(&["ports"]),
        with(&["history"]),
        with(&["discover"]),
    ]
}

#[test]
fn without_a_tracker_the_cure_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let stale = directory.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    for (socket, why) in [(&missing, "no such file"), (&stale, "connection refused")] {
        for arguments in commands(socket) {
            let line = complaint(&output(&arguments), 3);
            for part in [
                socket.to_str().unwrap(),
                why,
                "; start the tracker: tcp-status run",
            ] {
                assert!(line.contains(part), "{line}");
            }
        }
    }
}

#[test]
fn something_else_on_the_socket_is_no_tracker() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
            stream
                .write_all(b"220 mail.example ESMTP\x1b[31m\r\n")
                .unwrap();
        }
    });
    for arguments in commands(&socket) {
        let line = complaint(&output(&arguments), 3);
        assert!(line.contains("the answer cannot be understood"), "{line}");
    }
}

#[test]
fn without_permission_the_group_is_named() {
    // The directory of a temporary file is private, and so may be the one of the binary.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let binary = directory.path().join("tcp-status");
    fs::copy(env!("CARGO_BIN_EXE_tcp-status"), &binary).unwrap();
    let socket = directory.path().join("s");
    let _listener = UnixListener::bind(&socket).unwrap();
    let mut command = Command::new(&binary);
    command.args(["get", "listen", "--socket"]).arg(&socket);
    if geteuid().is_root() {
        chown(&socket, None, Some(1)).unwrap();
        fs::set_permissions(&socket, Permissions::from_mode(0o060)).unwrap();
        command.uid(65534).gid(65534);
        let line = complaint(&command.output().unwrap(), 4);
        let group = nix::unistd::Group::from_gid(1.into()).unwrap();
        let name = group.map_or("1".into(), |group| group.name);
        assert!(
            line.contains(&format!(
                "permission denied; join its group with: usermod --append --groups {name} "
            )),
            "{line}"
        );
        fs::set_permissions(&socket, Permissions::from_mode(0o600)).unwrap();
        let line = complaint(&command.output().unwrap(), 4);
        assert!(line.contains("--socket-group"), "{line}");
    } else {
        fs::set_permissions(&socket, Permissions::from_mode(0o000)).unwrap();
        let line = complaint(&command.output().unwrap(), 4);
        assert!(line.contains("permission denied; "), "{line}");
    }
}

#[test]
fn a_full_device_is_an_error() {
    for arguments in [
        &["man"] as &[_],
        &["completions", "bash"],
        &["--help"],
        &["--version"],
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = tcp_status().args(arguments).stdout(full).output().unwrap();
        let line = complaint(&output, 4);
        assert!(line.contains("cannot print to standard output: "), "{line}");
    }
}

#[test]
fn a_scan_does_not_pretend_to_count_all_namespaces() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let arguments = ["run", "--netns", "all", "--backend", "scan", "--socket"];
    let arguments = arguments.map(std::ffi::OsStr::new).into_iter();
    let arguments: Vec<_> = arguments.chain([socket.as_os_str()]).collect();
    let line = complaint(&output(&arguments), 2);
    assert!(line.contains("--netns all"), "{line}");
    assert!(!socket.exists());
}
