//! The server and its socket, in this process, against clients of every kind.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, symlink},
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Barrier, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{RngExt as _, seq::IndexedRandom as _};
use tcp_status::{
    server::{
        Source,
        client::{ClientError, ask},
        place::{MAX_PATH, PlaceError},
        protocol::{Answer, Get, MAX_REQUEST, Query, Refusal, RefusalKind, Show},
        serve::{Limits, Server},
    },
    snapshot::{Counts, Drift, Events, SCHEMA, Snapshot, Tier, Transitions},
};
use tcp_status_common::state::State;
use tokio::sync::oneshot;

/// Answers with the state's number plus the port; `closing` takes a while, `lastack` panics.
struct Fake;

impl Source for Fake {
    fn get(&self, query: &Get) -> Result<u64, Refusal> {
        let state = query.state()?;
        match state {
            State::Closing => thread::sleep(Duration::from_millis(100)),
            State::LastAck => panic!("a bug in the source, on purpose"),
            _ => {}
        }
        Ok(u64::from(state.number()) + u64::from(query.port.unwrap_or(0)))
    }

    fn show(&self, query: &Show) -> Result<Vec<Snapshot>, Refusal> {
        let one = Snapshot {
            schema: SCHEMA,
            version: "0.0.0".into(),
            tier: Tier::Full,
            tier_reason: None,
            degraded: None,
            netns: 1,
            port: query.port,
            states: Counts::default(),
            ipv4: Counts::default(),
            ipv6: Counts::default(),
            transitions: Transitions::default(),
            events: Events::default(),
            drift: Drift::default(),
        };
        // Enough to fill every buffer between server and client.
        Ok(vec![one; if query.all_netns { 4000 } else { 1 }])
    }
}

/// A server in a thread of its own.
struct Running {
    path: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(path: &Path) -> Self {
        Self::serve(path, bind(path).unwrap())
    }

    fn serve(path: &Path, server: Server) -> Self {
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let shutdown = async { drop(stopped.await) };
            runtime
                .unwrap()
                .block_on(server.run(Arc::new(Fake), shutdown))
                .unwrap();
        });
        Self {
            path: path.into(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn established(&self) -> Answer {
        ask(&self.path, &get("established", None)).unwrap()
    }

    fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn limits() -> Limits {
    Limits {
        request: Duration::from_millis(300),
        answer: Duration::from_millis(300),
        ..Limits::default()
    }
}

fn bind(path: &Path) -> Result<Server, PlaceError> {
    Server::bind(path, None, 0o660, limits())
}

fn get(state: &str, port: Option<u16>) -> Query {
    Query::Get(Get {
        state: state.into(),
        port,
        family: None,
        netns: None,
    })
}

/// Sends bytes as they are and returns all that comes back.
fn raw(path: &Path, bytes: &[u8], end: bool) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    // The server may have left already.
    let _: io::Result<()> = stream.write_all(bytes);
    if end {
        let _: io::Result<()> = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    // A reset after the answer is part of being refused in the middle of a sentence.
    let _: io::Result<usize> = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn refusal(line: &str) -> Refusal {
    match serde_json::from_str(line) {
        Ok(Answer::Error(refusal)) => refusal,
        other => panic!("{line:?}: {other:?}"),
    }
}

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
    assert_eq!(server.established(), Answer::Value(1));
    assert_eq!(
        ask(&path, &get("timewait", Some(80))).unwrap(),
        Answer::Value(86)
    );
    let Answer::Snapshots(all) = ask(&path, &Query::Show(Show::default())).unwrap() else {
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
    assert!(matches!(unknown, PlaceError::UnknownGroup(_)), "{unknown}");
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
            matches!(error, PlaceError::BadPath { .. }),
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
    assert_eq!(server.established(), Answer::Value(1));
    assert!(matches!(bind(&path), Err(PlaceError::InUse(_))));
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
        ask(&path, &get("listen", None)),
        Err(ClientError::NoTracker { .. })
    ));
    let server = Running::start(&path);
    assert_eq!(server.established(), Answer::Value(1));
    server.stop();
    assert_eq!(entries(base.path()), [""; 0]);
}

#[test]
fn a_live_socket_is_left_alone() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("s");
    let server = Running::start(&path);
    let error = bind(&path).unwrap_err();
    assert!(matches!(error, PlaceError::InUse(_)), "{error}");
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    assert_eq!(server.established(), Answer::Value(1));
    assert_eq!(entries(base.path()), ["s"]);
    server.stop();
    let other = base.path().join("datagram");
    let _datagram = UnixDatagram::bind(&other).unwrap();
    assert!(matches!(bind(&other), Err(PlaceError::InUse(_))));
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
            matches!(error, PlaceError::NotASocket(_)),
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
            Err(error) => assert!(matches!(error, PlaceError::InUse(_)), "{error}"),
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
        assert_eq!(server.established(), Answer::Value(1));
        server.stop();
        if let Some(directory) = parent {
            fs::remove_dir(directory).unwrap();
        }
        assert_eq!(entries(base.path()), [""; 0], "round {round}");
    }
}

#[test]
fn bad_requests_get_one_line_and_harm_nobody() {
    let base = tempfile::tempdir().unwrap();
    let server = Running::start(&base.path().join("s"));
    let long = vec![b'x'; MAX_REQUEST + 1];
    let huge = vec![b'x'; 4 << 20];
    let deep = [b"[".repeat(1000), b"\n".to_vec()].concat();
    let cases: [(&[u8], &str); 10] = [
        (b"GET / HTTP/1.1\r\n\r\n", "send one line of JSON"),
        (b"\n", "send one line of JSON"),
        (b"\xff\xfe\0\n", "send one line of JSON"),
        (b"{\"v\":1,\"do\":\"show\"}", "without a newline"),
        (
            b"{\"v\":1,\"do\":\"get\",\"state\":\"\\u001b[2J\"}\n",
            "not a tcp state",
        ),
        (
            b"{\"v\":2,\"do\":\"get\",\"state\":\"listen\"}\n",
            "version 2",
        ),
        (
            b"{\"v\":1,\"do\":\"get\",\"state\":\"listen\",\"port\":70000}\n",
            "port",
        ),
        (&long, "longer than 1024 bytes"),
        (&huge, "longer than 1024 bytes"),
        (&deep, "send one line of JSON"),
    ];
    for (bytes, part) in cases {
        let answer = raw(&server.path, bytes, true);
        assert_eq!(answer.matches('\n').count(), 1, "{answer:?}");
        if part != "port" {
            assert!(refusal(&answer).message.contains(part), "{answer}");
        }
        assert_eq!(server.established(), Answer::Value(1));
    }
    assert_eq!(
        raw(&server.path, b"", true),
        "",
        "a client that asks nothing"
    );
    server.stop();
}

#[test]
fn slow_clients_are_sent_away() {
    let base = tempfile::tempdir().unwrap();
    let server = Running::start(&base.path().join("s"));
    let started = Instant::now();
    let answer = raw(&server.path, b"{\"v\":1", false);
    assert!(
        refusal(&answer).message.contains("incomplete after 300ms"),
        "{answer}"
    );
    // One that asks for much and reads nothing.
    let mut deaf = UnixStream::connect(&server.path).unwrap();
    deaf.write_all(b"{\"v\":1,\"do\":\"show\",\"all_netns\":true}\n")
        .unwrap();
    thread::sleep(Duration::from_millis(800));
    let mut part = Vec::new();
    deaf.read_to_end(&mut part).unwrap();
    assert!(
        !part.is_empty() && !part.ends_with(b"\n"),
        "the answer was cut: {}",
        part.len()
    );
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(server.established(), Answer::Value(1));
    server.stop();
}

#[test]
fn large_answers_arrive_whole() {
    let base = tempfile::tempdir().unwrap();
    let server = Running::start(&base.path().join("s"));
    let all = Query::Show(Show {
        all_netns: true,
        ..Show::default()
    });
    let Answer::Snapshots(all) = ask(&server.path, &all).unwrap() else {
        panic!("no snapshots");
    };
    assert_eq!(all.len(), 4000);
    server.stop();
}

#[test]
fn clients_that_leave_harm_nobody() {
    let base = tempfile::tempdir().unwrap();
    let server = Running::start(&base.path().join("s"));
    for _ in 0..200 {
        let mut stream = UnixStream::connect(&server.path).unwrap();
        stream
            .write_all(b"{\"v\":1,\"do\":\"get\",\"state\":\"closing\"}\n")
            .unwrap();
        drop(stream);
    }
    assert_eq!(server.established(), Answer::Value(1));
    server.stop();
}

#[test]
fn idle_clients_do_not_shut_others_out() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("s");
    let patient = Limits {
        request: Duration::from_secs(600),
        ..Limits::default()
    };
    let server = Running::serve(&path, Server::bind(&path, None, 0o660, patient).unwrap());
    let mut idle: Vec<_> = (0..600)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    for _ in 0..20 {
        let started = Instant::now();
        assert_eq!(server.established(), Answer::Value(1));
        assert!(started.elapsed() < Duration::from_secs(1));
    }
    // The last to come are still there, the first are gone.
    let mut byte = [0];
    idle[0]
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    assert_eq!(idle[0].read(&mut byte).unwrap(), 0);
    idle[599]
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    assert!(idle[599].read(&mut byte).is_err());
    let started = Instant::now();
    server.stop();
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn a_source_that_fails_is_an_answer() {
    let base = tempfile::tempdir().unwrap();
    let server = Running::start(&base.path().join("s"));
    for _ in 0..20 {
        let Answer::Error(refusal) = ask(&server.path, &get("lastack", None)).unwrap() else {
            panic!("no refusal");
        };
        assert_eq!(refusal.kind, RefusalKind::Unavailable);
    }
    assert_eq!(server.established(), Answer::Value(1));
    server.stop();
}

#[test]
fn concurrent_clients_get_their_own_answers() {
    let base = tempfile::tempdir().unwrap();
    let server = Running::start(&base.path().join("s"));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let path = server.path.clone();
            thread::spawn(move || {
                let mut rng = rand::rng();
                for _ in 0..100 {
                    let state = *State::ALL.choose(&mut rng).unwrap();
                    let port = rng.random::<u16>();
                    let expected = u64::from(state.number()) + u64::from(port);
                    if matches!(state, State::LastAck | State::Closing) {
                        raw(&path, &rng.random::<[u8; 32]>(), true);
                        continue;
                    }
                    let answer = ask(&path, &get(state.name(), Some(port))).unwrap();
                    assert_eq!(answer, Answer::Value(expected));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    server.stop();
}

#[test]
fn answers_of_something_else_are_told_apart() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let (say, said) = mpsc::channel::<Vec<u8>>();
    let other = thread::spawn(move || {
        for answer in said {
            let (mut stream, _) = listener.accept().unwrap();
            // Unread, it would turn the end of the answer into a reset.
            assert!(stream.read(&mut [0; MAX_REQUEST]).unwrap() > 0);
            drop(stream.write_all(&answer));
        }
    });
    for (answer, part) in [
        (b"hello\n".to_vec(), "cannot be understood"),
        (b"{\"value\":-1}\n".to_vec(), "cannot be understood"),
        (b"{\"value\":1".to_vec(), "cannot be understood"),
        (b"{\"surprise\":1}\n".to_vec(), "cannot be understood"),
        (vec![b'x'; 17 << 20], "longer than"),
        (Vec::new(), "the connection was closed"),
    ] {
        say.send(answer).unwrap();
        let error = ask(&path, &get("listen", None)).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    drop(say);
    other.join().unwrap();
}
