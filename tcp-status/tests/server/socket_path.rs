//! Where the socket lies: made safely, one tracker at a time, nothing left behind.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, symlink},
        net::{UnixDatagram, UnixListener},
    },
    path::Path,
    sync::{Arc, Barrier},
    thread,
};

use tcp_status::serve::{
    client::{ClientError, request},
    protocol::{Query, Response, Show},
    socket_path::{MAX_PATH, SocketPathError},
    unix::Server,
};

use crate::{Running, bind, get, limits};

fn entries(directory: &Path) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
    fs::read_dir(directory)
        .unwrap()
        .map(name)
        .map(Result::unwrap)
        .collect()
}

#[test]
fn answers_come_and_nothing_is_left_behind() {
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().join("made");
    let path = directory.join("s");
    let server = Running::start(&path);
    assert_eq!(entries(base.path()), ["made"]);
    assert_eq!(entries(&directory), ["s"]);
    assert_eq!(directory.metadata().unwrap().mode() & 0o777, 0o755);
    assert_eq!(server.established(), Response::Value(1));
    assert_eq!(
        request(&path, &get("timewait", Some(80))).unwrap(),
        Response::Value(86)
    );
    let Response::Snapshots(all) = request(&path, &Query::Show(Show::default())).unwrap() else {
        panic!("no snapshots");
    };
    assert_eq!(all.len(), 1);
    server.stop();
    assert_eq!(entries(base.path()), [""; 0]);
}

#[test]
fn a_directory_that_was_there_stays() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("s");
    let server = Running::start(&path);
    assert_eq!(entries(base.path()), ["s"]);
    server.stop();
    assert_eq!(entries(base.path()), [""; 0]);
}

#[test]
fn a_directory_that_others_use_stays() {
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().join("made");
    let server = Running::start(&directory.join("s"));
    fs::write(directory.join("other"), "").unwrap();
    server.stop();
    assert_eq!(entries(&directory), ["other"]);
}

#[test]
fn mode_and_group_are_as_asked() {
    let base = tempfile::tempdir().unwrap();
    for (mode, group) in [(0o660, None), (0o600, Some("0")), (0o666, Some("root"))] {
        let path = base.path().join(format!("{mode:o}"));
        let _server = Server::bind(&path, group, mode, limits()).unwrap();
        let metadata = path.symlink_metadata().unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (mode, 0));
    }
    let path = base.path().join("group");
    let unknown = Server::bind(&path, Some("no-such-group-here"), 0o660, limits()).unwrap_err();
    assert!(
        matches!(unknown, SocketPathError::UnknownGroup(_)),
        "{unknown}"
    );
    assert_eq!(entries(base.path()), [""; 0]);
}

#[test]
fn impossible_paths_are_refused() {
    let base = tempfile::tempdir().unwrap();
    let long = base.path().join("x".repeat(MAX_PATH));
    for (path, part) in [
        (Path::new(""), "empty"),
        (Path::new("/"), "a directory"),
        (long.as_path(), "at most 107"),
        (Path::new("a\0b"), "NUL"),
    ] {
        let error = bind(path).unwrap_err();
        assert!(
            matches!(error, SocketPathError::BadPath { .. }),
            "{path:?}: {error}"
        );
        assert!(error.to_string().contains(part), "{error}");
    }
    let deep = base.path().join("no/such/parent/s");
    assert!(
        bind(&deep)
            .unwrap_err()
            .to_string()
            .contains("create its parent")
    );
    assert_eq!(entries(base.path()), [""; 0]);
}

#[test]
fn the_longest_path_that_fits_works() {
    let base = tempfile::tempdir().unwrap();
    let room = MAX_PATH - base.path().as_os_str().len() - 1;
    let path = base.path().join("x".repeat(room));
    drop(UnixListener::bind(&path).unwrap());
    let server = Running::start(&path);
    assert_eq!(server.established(), Response::Value(1));
    assert!(matches!(bind(&path), Err(SocketPathError::InUse { .. })));
    server.stop();
    assert_eq!(entries(base.path()), [""; 0]);
}

#[test]
fn a_stale_socket_is_replaced() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(matches!(
        request(&path, &get("listen", None)),
        Err(ClientError::NoTracker { .. })
    ));
    let server = Running::start(&path);
    assert_eq!(server.established(), Response::Value(1));
    server.stop();
    assert_eq!(entries(base.path()), [""; 0]);
}

#[test]
fn a_live_socket_is_left_alone() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("s");
    let server = Running::start(&path);
    let error = bind(&path).unwrap_err();
    assert!(matches!(error, SocketPathError::InUse { .. }), "{error}");
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    assert_eq!(server.established(), Response::Value(1));
    assert_eq!(entries(base.path()), ["s"]);
    server.stop();
    let other = base.path().join("datagram");
    let _datagram = UnixDatagram::bind(&other).unwrap();
    assert!(matches!(bind(&other), Err(SocketPathError::InUse { .. })));
}

#[test]
fn files_and_symlinks_are_left_alone() {
    let base = tempfile::tempdir().unwrap();
    let file = base.path().join("file");
    fs::write(&file, "precious").unwrap();
    let link = base.path().join("link");
    let target = base.path().join("target");
    symlink(&target, &link).unwrap();
    let stale = base.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let to_stale = base.path().join("to-stale");
    symlink(&stale, &to_stale).unwrap();
    let folder = base.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for path in [&file, &link, &to_stale, &folder] {
        let error = bind(path).unwrap_err();
        assert!(
            matches!(error, SocketPathError::NotASocket(_)),
            "{path:?}: {error}"
        );
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert!(!target.exists() && stale.exists());
    assert_eq!(entries(base.path()).len(), 5);
}

#[test]
fn somebody_elses_socket_is_not_removed() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("s");
    let server = Running::start(&path);
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    server.stop();
    assert!(path.exists());
}

/// Binds from many threads at once; returns the winners.
fn race(path: &Path) -> Vec<Server> {
    const TRACKERS: usize = 8;
    let barrier = Arc::new(Barrier::new(TRACKERS));
    let threads: Vec<_> = (0..TRACKERS)
        .map(|_| {
            let (barrier, path) = (Arc::clone(&barrier), path.to_owned());
            thread::spawn(move || {
                barrier.wait();
                bind(&path)
            })
        })
        .collect();
    let mut winners = Vec::new();
    for thread in threads {
        match thread.join().unwrap() {
            Ok(server) => winners.push(server),
            Err(error) => assert!(matches!(error, SocketPathError::InUse { .. }), "{error}"),
        }
    }
    winners
}

#[test]
fn of_several_that_start_at_once_one_wins() {
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().join("made");
    for round in 0..60 {
        let path = directory.join("s");
        let parent = match round % 3 {
            0 => None,
            nothing_or_stale => {
                fs::create_dir(&directory).unwrap();
                if nothing_or_stale == 2 {
                    drop(UnixListener::bind(&path).unwrap());
                }
                Some(&directory)
            }
        };
        let mut winners = race(&path);
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(entries(&directory), ["s"], "round {round}");
        let server = Running::serve(&path, winners.remove(0));
        assert_eq!(server.established(), Response::Value(1));
        server.stop();
        if let Some(directory) = parent {
            fs::remove_dir(directory).unwrap();
        }
        assert_eq!(entries(base.path()), [""; 0], "round {round}");
    }
}
