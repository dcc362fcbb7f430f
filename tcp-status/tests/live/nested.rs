//! State changes in softirqs that interrupt the same state change of a task: where the kernel has no
//! recursion guard, a program interrupts itself, in the midst of an addition too.
//!
//! An emulated processor takes interrupts between blocks of instructions only, and no addition is
//! in two blocks; `cargo xtask vm --fine-interrupts` lets them come anywhere.

use std::{
    env, fs,
    io::Read as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::Duration,
};

use socket2::SockRef;
use tcp_status_testkit::{raise_fd_limit, soon};

use crate::subject::{Subject, place, turn};

/// How many connections, unless [`NUMBER`] says another number.
const CONNECTIONS: usize = 4_000;

/// A variable with another number of connections, for a long run.
const NUMBER: &str = "TCP_STATUS_CHURN";

const WORKERS: usize = 2;

/// Connections that a worker opens and resets at a time.
const AT_A_TIME: usize = 50;

/// Opens connections to itself and resets them: ESTABLISHED to CLOSE in the task that closes, and
/// in the softirq that receives its reset.
fn resets(connections: usize) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..connections / AT_A_TIME {
        let pairs = (0..AT_A_TIME).map(|_| {
            let client = TcpStream::connect(address).unwrap();
            SockRef::from(&client)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            let server = listener.accept().unwrap_or_else(|error| {
                let listed = fs::read_to_string("/proc/thread-self/net/tcp");
                panic!("cannot accept from {listener:?}: {error:?}\n{listed:?}")
            });
            (client, server.0)
        });
        let (clients, servers): (Vec<_>, Vec<_>) = pairs.unzip();
        drop(clients);
        for mut server in servers {
            server.read(&mut [0]).unwrap_err();
        }
    }
}

/// Has every processor handle what the others send on loopback, so that one interrupts the other.
fn steer_packets() {
    let steer = "mount -t sysfs sys /sys && echo 3 >/sys/class/net/lo/queues/rx-0/rps_cpus";
    let steered = Command::new("unshare")
        .args(["--mount", "sh", "-c", steer])
        .status();
    if !steered.is_ok_and(|status| status.success()) {
        println!("packets are not steered to other processors");
    }
}

#[test]
fn an_interrupted_addition_loses_nothing() {
    let Some(netns) = place() else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    let connections = env::var(NUMBER).map_or(CONNECTIONS, |number| number.parse().unwrap());
    netns
        .run(|| {
            steer_packets();
            let mut guarded = false;
            let subject = Subject::start_with(
                |plan| {
                    guarded = plan.layout.recursion_guard == 1;
                    plan
                },
                0.05,
            );
            thread::scope(|scope| {
                for _ in 0..WORKERS {
                    scope.spawn(|| resets(connections / WORKERS));
                }
            });
            subject.assert_exact_within(2 * soon());
            let snapshot = subject.exact_snapshot_within(2 * soon());
            let (events, drift) = (snapshot.events, snapshot.drift);
            println!("{connections} connections, {events:?}, {drift:?}");
            // Where programs are skipped instead, an audit corrects what both copies miss.
            assert!(guarded || drift.corrections == 0, "{drift:?}");
        })
        .unwrap();
}
