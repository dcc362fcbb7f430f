//! `wait`, with real connections.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tcp_status_testkit::{cgroup::Cgroup, netns::Netns, soon};

use crate::{
    place,
    tracker::{BINARY, Tracker, clean},
};

#[test]
fn a_drained_port_ends_the_wait() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    netns
        .run(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            let tracker = Tracker::start(&["--backend", "ebpf"]);
            let mut open: Vec<_> = (0..3)
                .map(|_| {
                    let client = TcpStream::connect(address).unwrap();
                    (client, listener.accept().unwrap())
                })
                .collect();
            let wait = |timeout: &str| {
                let mut command = Command::new(BINARY);
                clean(&mut command)
                    .args(["wait", "established", "--below", "1", "--timeout", timeout])
                    .args(["--port", &address.port().to_string(), "--socket"])
                    .arg(tracker.socket())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped());
                command
            };
            let late = wait("1").output().unwrap();
            assert_eq!(late.status.code(), Some(1), "{late:?}");
            let line = String::from_utf8(late.stderr).unwrap();
            assert_eq!(
                line,
                "tcp-status: established is 3 and was not below 1 for long enough\n"
            );
            let mut waiting = wait("30").spawn().unwrap();
            while open.len() > 1 {
                open.pop();
                thread::sleep(Duration::from_millis(300));
                assert_eq!(waiting.try_wait().unwrap(), None, "{} left", open.len());
            }
            let closed = Instant::now();
            drop(open);
            assert_eq!(waiting.wait().unwrap().code(), Some(0));
            println!("returned {:?} after the last close", closed.elapsed());
            // A sample comes within 100 ms of an event; the rest is for a busy machine.
            assert!(closed.elapsed() < Duration::from_millis(900));
            tracker.end();
        })
        .unwrap();
}

/// No sample of the tracker's own namespace tells of it.
#[test]
fn a_cgroup_of_another_namespace_ends_the_wait_as_soon() {
    let (Some((netns, _turn)), Some(cgroup)) = (place(), Cgroup::for_test(None, "drained.service"))
    else {
        return;
    };
    let other = Netns::new().unwrap();
    netns
        .run(|| {
            let mut traffic = other.run(|| cgroup.spawn(&["bulk", "5"])).unwrap();
            traffic.hold();
            let tracker = Tracker::start(&["--backend", "ebpf", "--netns", "all"]);
            let mut command = Command::new(BINARY);
            let mut waiting = clean(&mut command)
                .args(["wait", "established", "--below", "1", "--timeout", "30"])
                .args(["--cgroup", &format!("/{}", cgroup.name()), "--socket"])
                .arg(tracker.socket())
                .spawn()
                .unwrap();
            thread::sleep(Duration::from_secs(1));
            assert_eq!(waiting.try_wait().unwrap(), None, "it has connections");
            traffic.end();
            let closed = Instant::now();
            assert_eq!(waiting.wait().unwrap().code(), Some(0));
            println!("returned {:?} after the last close", closed.elapsed());
            assert!(closed.elapsed() < soon());
            tracker.end();
        })
        .unwrap();
}

/// The text between two markers of `docs/reference.md`.
fn documented(after: &str, until: &str) -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once(after).expect(after);
    rest.split_once(until).unwrap().0.to_owned()
}

/// The commands of the manual, as written, but for the path of the binary and the time limit; that of a pod in a
/// namespace of its own.
#[test]
fn the_documented_drains_wait_for_the_last_connection() {
    let Some((netns, _turn)) = place() else {
        return;
    };
    let unit = documented("\nExecStop=-/usr/bin/tcp-status ", "\n");
    let unit = format!("tcp-status {unit}");
    let pod = documented("command: [/bin/sh, -c, '", "']");
    let other = Netns::new().unwrap();
    let tracker = netns
        .run(|| Tracker::start(&["--backend", "ebpf", "--netns", "all"]))
        .unwrap();
    for (place, command) in [(&netns, &unit), (&other, &pod)] {
        place.run(|| drain(&tracker, command)).unwrap();
    }
    tracker.end();
}

/// A connection of port 8080 of the calling thread's namespace is drained by a command.
fn drain(tracker: &Tracker, command: &str) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 8080)).unwrap();
    let folder = std::path::Path::new(BINARY).parent().unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.display());
    let run = |command: &str| {
        let mut shell = Command::new("/bin/sh");
        clean(&mut shell)
            .args(["-c", command])
            .env("PATH", &path)
            .env("TCP_STATUS_SOCKET", tracker.socket())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        shell
    };
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap();
    let limit = command.split_whitespace().find(|word| word.ends_with("0s"));
    let short = command.replace(limit.unwrap(), "1s");
    let late = run(&short).output().unwrap();
    let line = String::from_utf8_lossy(&late.stderr);
    assert!(line.contains("was not below 1 for long enough"), "{late:?}");
    // The pod goes on in any case.
    let expected = i32::from(!command.ends_with("|| true"));
    assert_eq!(late.status.code(), Some(expected), "{command}");

    let mut waiting = run(command).spawn().unwrap();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(waiting.try_wait().unwrap(), None, "{command}");
    let closed = Instant::now();
    drop((client, server));
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.len()),
        (Some(0), 0),
        "{output:?}"
    );
    let late = closed.elapsed();
    assert!(late < Duration::from_secs(2), "{late:?}: {command}");
}

/// Time on a processor of all threads of a process, as the scheduler counts it.
fn cpu_time(process: nix::unistd::Pid) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let of_thread = |entry: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(entry.unwrap().path().join("schedstat"));
        // A thread may have ended.
        let nanoseconds = text.unwrap_or_default();
        let nanoseconds = nanoseconds.split(' ').next().unwrap().parse().unwrap_or(0);
        Duration::from_nanos(nanoseconds)
    };
    threads.map(of_thread).sum()
}

#[test]
fn a_hundred_waiters_at_rest_cost_next_to_nothing() {
    waiters(false, 0.005);
}

/// No event tells of what they wait for: it is read ten times a second, for all of them together.
#[test]
fn a_hundred_waiters_for_another_namespace_cost_little() {
    waiters(true, 0.05);
}

/// A hundred clients wait at rest for a connection of the tracker's own namespace, or another one, and cost at most
/// this share of one core.
fn waiters(elsewhere: bool, share: f64) {
    const WINDOW: Duration = Duration::from_secs(5);
    let Some((netns, _turn)) = place() else {
        return;
    };
    let other = elsewhere.then(|| Netns::new().unwrap());
    // A namespace is found by its number where a process is in it.
    let mut dweller = other.as_ref().map(|other| {
        let sleep = || Command::new("sleep").arg("60").spawn().unwrap();
        other.run(sleep).unwrap()
    });
    let number = other.as_ref().map(|other| {
        let link = other.run(|| std::fs::metadata("/proc/thread-self/ns/net"));
        link.unwrap().unwrap().ino().to_string()
    });
    let line = serde_json::json!({
        "v": 1, "do": "wait", "below": 1,
        "of": {"state": "established", "port": 8080, "netns": number},
    });
    let connected = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 8080)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener, client)
    };
    netns
        .run(|| {
            let held = match &other {
                Some(other) => other.run(connected).unwrap(),
                None => connected(),
            };
            let scope = if elsewhere { "all" } else { "self" };
            let tracker = Tracker::start(&["--backend", "ebpf", "--netns", scope]);
            let spent = || {
                // The sampler comes to rest first.
                thread::sleep(Duration::from_secs(4));
                let before = cpu_time(tracker.pid());
                thread::sleep(WINDOW);
                cpu_time(tracker.pid()).saturating_sub(before)
            };
            let alone = spent();
            let mut waiters: Vec<_> = (0..100)
                .map(|_| {
                    let mut stream = UnixStream::connect(tracker.socket()).unwrap();
                    writeln!(stream, "{line}").unwrap();
                    stream
                })
                .collect();
            let waiting = spent();
            let more = waiting.saturating_sub(alone).as_secs_f64() / WINDOW.as_secs_f64();
            println!(
                "in {WINDOW:?} at rest: {alone:?} without waiters, {waiting:?} with 100: \
                 {:.3} % of a core more",
                more * 100.0
            );
            assert!(more < share, "{more}");
            // They do wait: all of them return when the connection has gone.
            drop(held);
            let closed = Instant::now();
            for stream in &mut waiters {
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert_eq!(answer, "{\"waited\":{\"met\":true,\"value\":0}}\n");
            }
            println!("all returned {:?} after the last close", closed.elapsed());
            assert!(closed.elapsed() < Duration::from_secs(2));
            tracker.end();
        })
        .unwrap();
    if let Some(dweller) = &mut dweller {
        dweller.kill().unwrap();
        dweller.wait().unwrap();
    }
}
