//! What is said over the socket, by clients of good and of bad will.

use std::{
    collections::VecDeque,
    fs::{self, Permissions},
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt as _, seq::IndexedRandom as _};
use tcp_status::{
    serve::{
        Limits, Source, Timeouts,
        client::request,
        protocol::{ApiError, ApiErrorKind, Get, MAX_REQUEST, Query, Response, Show},
        unix::Server,
    },
    snapshot::{Snapshot, Tier},
};
use tcp_status_common::state::State;
use tcp_status_testkit::skip_unprepared;

use crate::{Running, bind, get, limits};

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

fn refusal(line: &str) -> ApiError {
    match serde_json::from_str(line) {
        Ok(Response::Error(refusal)) => refusal,
        other => panic!("{line:?}: {other:?}"),
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
        assert_eq!(server.established(), Response::Value(1));
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
    // Long enough to make the answer and to lose patience, on a busy machine as well.
    thread::sleep(Duration::from_secs(3));
    let mut part = Vec::new();
    deaf.read_to_end(&mut part).unwrap();
    assert!(
        !part.is_empty() && !part.ends_with(b"\n"),
        "the answer was cut: {}",
        part.len()
    );
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(server.established(), Response::Value(1));
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
    let Response::Snapshots(all) = request(&server.path, &all).unwrap() else {
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
    assert_eq!(server.established(), Response::Value(1));
    server.stop();
}

#[test]
fn idle_clients_do_not_shut_others_out() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("s");
    let patient = Limits {
        timeouts: Timeouts {
            first_request: Duration::from_secs(600),
            ..Limits::default().timeouts
        },
        ..Limits::default()
    };
    let server = Running::serve(&path, Server::bind(&path, None, 0o660, patient).unwrap());
    let mut idle: Vec<_> = (0..600)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    for _ in 0..20 {
        let started = Instant::now();
        assert_eq!(server.established(), Response::Value(1));
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

/// A client whose request is there before the server looks is not displaced by the silent ones
/// that came after it.
#[test]
fn a_request_that_is_there_is_answered_whoever_comes_after_it() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("s");
    let few = Limits {
        connections: 8,
        ..limits()
    };
    for _ in 0..20 {
        let server = Server::bind(&path, None, 0o660, few).unwrap();
        let mut clients: Vec<_> = (0..4)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        for client in &mut clients {
            let request = b"{\"v\":1,\"do\":\"get\",\"state\":\"established\"}\n";
            client.write_all(request).unwrap();
        }
        let _silent: Vec<_> = (0..40)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        let server = Running::serve(&path, server);
        for mut client in clients {
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "{\"value\":1}\n");
        }
        server.stop();
    }
}

/// Gives the calling thread another user: the one at the other end of what it connects.
fn become_user(uid: libc::uid_t) -> io::Result<()> {
    // SAFETY: the system call has no memory effects; it changes the calling thread only.
    match unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[test]
fn a_crowd_of_another_user_displaces_nobody_else() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("s");
    fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
    let few = Limits {
        connections: 8,
        ..limits()
    };
    let server = Server::bind(&path, None, 0o666, few).unwrap();
    let server = Running::serve(&path, server);
    let over = Arc::new(AtomicBool::new(false));
    let (started, start) = mpsc::channel();
    let crowd: Vec<_> = (0..3)
        .map(|_| {
            let (path, over, started) = (path.clone(), Arc::clone(&over), started.clone());
            thread::spawn(move || {
                started.send(become_user(65_534)).unwrap();
                let mut silent = VecDeque::new();
                while !over.load(Ordering::Relaxed) {
                    silent.extend(UnixStream::connect(&path));
                    if silent.len() > 150 {
                        silent.pop_front();
                    }
                }
            })
        })
        .collect();
    let another_user = start.iter().take(3).all(|became| became.is_ok());
    let failed: Vec<_> = (0..200)
        .filter(|_| another_user)
        .filter_map(|_| request(&server.path, &get("established", None)).err())
        .map(|error| error.to_string())
        .collect();
    over.store(true, Ordering::Relaxed);
    for one in crowd {
        one.join().unwrap();
    }
    server.stop();
    if !another_user {
        skip_unprepared("only root can connect as another user");
    }
    assert_eq!(failed, [""; 0]);
}

/// Counts dumps, each of which takes a while.
#[derive(Default)]
struct Slow(AtomicUsize);

impl Source for Slow {
    fn get(&self, query: &Get) -> Result<u64, ApiError> {
        query.state().map(|state| state.number().into())
    }

    fn show(&self, _query: &Show) -> Result<Vec<Snapshot>, ApiError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(200));
        Ok(vec![Snapshot::of(Tier::Full, 1, <_>::default())])
    }
}

/// Sends as many requests for a dump as one user may have in flight, and reads no answer.
fn dumps(path: &Path, number: usize) -> Vec<UnixStream> {
    let dump = |_| {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(b"{\"v\":1,\"do\":\"show\"}\n").unwrap();
        stream
    };
    (0..number).map(dump).collect()
}

#[test]
fn a_dump_that_nobody_waits_for_any_more_is_not_made() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("s");
    let source = Arc::new(Slow::default());
    let server = Running::serve_source(&path, bind(&path).unwrap(), Arc::<Slow>::clone(&source));
    drop(dumps(&path, 60));
    let began = Instant::now();
    request(&path, &Query::Show(Show::default())).unwrap();
    // Those that were going on when their clients left.
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    let made = source.0.load(Ordering::Relaxed);
    assert!(made < 30, "{made} dumps");
    server.stop();
}

#[test]
fn a_user_with_many_dumps_in_flight_delays_no_other_user() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("s");
    fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
    let server = Server::bind(&path, None, 0o666, limits()).unwrap();
    let server = Running::serve_source(&path, server, Arc::new(Slow::default()));
    let greedy = {
        let path = path.clone();
        thread::spawn(move || {
            become_user(65_534).ok()?;
            let waiting = dumps(&path, 300);
            let refused = request(&path, &Query::Show(Show::default()));
            Some((waiting, refused))
        })
    };
    let Some((waiting, refused)) = greedy.join().unwrap() else {
        server.stop();
        return skip_unprepared("only root can connect as another user");
    };
    assert!(
        matches!(&refused, Ok(Response::Error(error)) if error.message.contains("192 requests")),
        "{refused:?}"
    );
    let began = Instant::now();
    let answer = request(&path, &Query::Show(Show::default())).unwrap();
    assert!(matches!(answer, Response::Snapshots(_)), "{answer:?}");
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    drop(waiting);
    server.stop();
}

/// Whoever sends a byte too many reads the answer to its end, without a reset.
#[test]
fn a_request_that_is_too_long_gets_an_answer_and_no_reset() {
    let base = tempfile::tempdir().unwrap();
    let server = Running::start(&base.path().join("s"));
    for length in [MAX_REQUEST + 1, 5 * MAX_REQUEST] {
        let mut stream = UnixStream::connect(&server.path).unwrap();
        stream.write_all(&vec![b'x'; length]).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let message = refusal(&answer).message;
        assert!(message.contains("longer than 1024 bytes"), "{message}");
    }
    server.stop();
}

#[test]
fn no_control_character_comes_back() {
    let base = tempfile::tempdir().unwrap();
    let server = Running::start(&base.path().join("s"));
    // Escape sequences of terminals, a line of its own, and an order of writing.
    let odd = r"\u001b[2J\u009b1m\r\n\u0007\u202e\u2028";
    for request in [
        format!(r#"{{"v":1,"do":"{odd}"}}"#),
        format!(r#"{{"v":"{odd}","do":"get"}}"#),
        format!(r#"{{"v":1,"do":"get","state":"{odd}"}}"#),
        format!(r#"{{"v":1,"do":"get","state":"listen","port":"{odd}"}}"#),
        format!(r#"{{"v":1,"do":"get","{odd}":"listen"}}"#),
        format!(r#"{{"v":1,"do":"get","state":{{"{odd}":1}}}}"#),
    ] {
        let answer = raw(&server.path, format!("{request}\n").as_bytes(), false);
        let message = refusal(&answer).message;
        let odd = |c: char| c.is_control() || ['\u{202e}', '\u{2028}'].contains(&c);
        assert!(!message.contains(odd), "{request}: {message:?}");
        assert!(message.len() < 2 * MAX_REQUEST, "{message}");
    }
    server.stop();
}

#[test]
fn a_source_that_fails_is_an_answer() {
    let base = tempfile::tempdir().unwrap();
    let server = Running::start(&base.path().join("s"));
    for _ in 0..20 {
        let Response::Error(refusal) = request(&server.path, &get("lastack", None)).unwrap() else {
            panic!("no refusal");
        };
        assert_eq!(refusal.kind, ApiErrorKind::Unavailable);
    }
    assert_eq!(server.established(), Response::Value(1));
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
                    let port = rng.random_range(1..=u16::MAX);
                    let expected = u64::from(state.number()) + u64::from(port);
                    if matches!(state, State::LastAck | State::Closing) {
                        raw(&path, &rng.random::<[u8; 32]>(), true);
                        continue;
                    }
                    let answer = request(&path, &get(state.name(), Some(port))).unwrap();
                    assert_eq!(answer, Response::Value(expected));
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
        let error = request(&path, &get("listen", None)).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    drop(say);
    other.join().unwrap();
}
