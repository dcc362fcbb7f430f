//! `wait`, with real connections.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

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
