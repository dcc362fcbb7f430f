//! How often a question asks the allocator for memory: the same on every machine, and so kept from
//! growing unnoticed, as the figures of `cost` are.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener},
    os::unix::net::UnixListener,
    thread,
    time::Duration,
};

use allocation_counter::measure;
use tcp_status::{
    bpf::MapLimits,
    kernel::plan::Backend,
    serve::{
        client::request,
        protocol::{Get, Query, Request, Response, Show, encode},
    },
    track::{Pace, Settings, start},
};
use tcp_status_testkit::{netns::Netns, skip_unprepared};

/// What is asked, and how often the client, the tracker for one state, and the tracker for all may
/// allocate for it.
const CLIENT: u64 = 4;
const GET: u64 = 5;
const SHOW: u64 = 70;

fn get() -> Query {
    Query::Get(Get {
        state: "established".to_owned(),
        port: None,
        family: None,
        netns: None,
        cgroup: None,
    })
}

/// Also when it is much less: then the bound is to be lowered.
fn check(what: &str, count: u64, bound: u64) {
    println!("{what}: {count} allocations, at most {bound}");
    assert!(count <= bound, "{what} allocates {count} times");
    assert!(count > bound / 2, "{what}: {count}; lower its bound");
}

#[test]
fn a_client_asks_the_allocator_seldom() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(b"{\"value\":7}\n").unwrap();
        }
    });
    let query = get();
    let count =
        measure(|| assert_eq!(request(&socket, &query).unwrap(), Response::Value(7))).count_total;
    check("a client's get", count, CLIENT);
}

#[test]
fn the_tracker_asks_the_allocator_seldom() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    netns
        .run(|| {
            let settings = Settings {
                pace: Pace {
                    interval: Duration::from_secs(1),
                    share: 0.005,
                },
                split_interval: Duration::from_millis(500),
                sample_interval: Duration::from_millis(100),
                all_namespaces: false,
                limits: MapLimits {
                    ports: 256,
                    namespaces: 64,
                    cgroups: 256,
                },
                attach_later: false,
                accept_latency: false,
            };
            let running = match start(Backend::Ebpf, settings) {
                Ok(running) => running,
                Err(why) => return skip_unprepared(&format!("no tracker by eBPF here: {why}")),
            };
            let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let line = encode(&Request::new(get())).unwrap();
            // As the server does it, on the thread that reads the request.
            let count = measure(|| {
                let request = Request::decode(line.trim_ascii_end()).unwrap();
                let Query::Get(query) = request.query else {
                    panic!("{request:?}");
                };
                let value = running.source.try_get(&query).unwrap().unwrap();
                encode(&Response::Value(value)).unwrap();
            })
            .count_total;
            check("the tracker's get", count, GET);
            // The first one reads the names of all cgroups of the host.
            running.source.show(&Show::default()).unwrap();
            let count = measure(|| {
                let snapshots = running.source.show(&Show::default()).unwrap();
                encode(&Response::Snapshots(snapshots)).unwrap();
            })
            .count_total;
            check("the tracker's show", count, SHOW);
        })
        .unwrap();
}
