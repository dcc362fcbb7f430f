//! Passive checks over real sockets: every form of a request, and peers that mean no good.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tcp_status::{
    serve::{
        Limits, Source, Timeouts,
        protocol::{ApiError, Get, Show},
        zabbix::passive::{self, AllowedNetworks, PassiveServer},
    },
    snapshot::{Counts, Listener, Snapshot, Tier},
};
use tcp_status_common::state::State;

const LIMITS: Limits = Limits {
    connections: 8,
    calls: 2,
    call: Duration::from_secs(9),
    timeouts: Timeouts {
        first_request: Duration::from_millis(300),
        idle: Duration::from_millis(300),
    },
};

/// Five open connections, one listener.
pub(crate) struct Fake;

impl Source for Fake {
    fn get(&self, query: &Get) -> Result<u64, ApiError> {
        Ok(match (query.state()?, query.port) {
            (State::Established, None) => 5,
            (State::Established, Some(443)) => 2,
            _ => 0,
        })
    }

    fn show(&self, _: &Show) -> Result<Vec<Snapshot>, ApiError> {
        let mut ipv4 = Counts::default();
        ipv4[State::Established] = 5;
        let mut snapshot = Snapshot::of(Tier::Full, 7, [ipv4, Counts::default()]);
        snapshot.listeners.push(Listener {
            accept_queue: 1,
            accept_queue_peak: Some(3),
            ..Listener::new(Ipv4Addr::UNSPECIFIED.into(), 443, 128)
        });
        Ok(vec![snapshot])
    }
}

/// Serves until the tests end.
pub(crate) fn serve(allowed: AllowedNetworks) -> SocketAddr {
    serve_within(LIMITS, allowed)
}

fn serve_within(limits: Limits, allowed: AllowedNetworks) -> SocketAddr {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let passive = PassiveServer::bind(address, allowed, limits).unwrap();
    let address = passive.address();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let served = passive.run(Arc::new(Fake), std::future::pending());
        runtime.block_on(served).unwrap();
    });
    address
}

fn framed(payload: &str) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [b"ZBXD\x01", &length[..], &[0; 4], payload.as_bytes()].concat()
}

/// Sends bytes and reads to the end; none when the connection was reset.
fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    // Who is turned away may not be able to send any more.
    drop(stream.write_all(bytes));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => answer,
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            Vec::new()
        }
    }
}

fn ask(address: SocketAddr, payload: &str) -> String {
    let answer = exchange(address, &framed(payload));
    assert_eq!(&answer[..5], b"ZBXD\x01", "{answer:?}");
    let length = u32::from_le_bytes(answer[5..9].try_into().unwrap());
    assert_eq!(answer.len(), 13 + usize::try_from(length).unwrap());
    String::from_utf8(answer[13..].to_vec()).unwrap()
}

#[test]
fn every_key_in_the_form_of_6_0() {
    let address = serve(AllowedNetworks::default());
    assert_eq!(ask(address, "tcp.status[established]"), "5");
    assert_eq!(ask(address, "tcp.status[established,443]"), "2");
    let all: serde_json::Value = serde_json::from_str(&ask(address, "tcp.status.all")).unwrap();
    assert_eq!(all["states"]["established"], 5);
    let listeners = ask(address, "tcp.status.listeners");
    let listeners: serde_json::Value = serde_json::from_str(&listeners).unwrap();
    assert_eq!(listeners["listeners"][0]["accept_queue_peak"], 3);
    let ports = ask(address, "tcp.status.discovery");
    assert!(ports.contains(r##""{#PORT}":"443""##), "{ports}");
    let refused = ask(address, "tcp.status[open]");
    assert!(refused.starts_with("ZBX_NOTSUPPORTED\0tcp-status: cannot get state"));
}

#[test]
fn the_form_of_7_0_and_that_of_old() {
    let address = serve(AllowedNetworks::default());
    let request =
        r#"{"request":"passive checks","data":[{"key":"tcp.status[established]","timeout":3}]}"#;
    assert_eq!(
        ask(address, request),
        r#"{"version":"7.0.0","variant":2,"data":[{"value":"5"}]}"#
    );
    let unknown = ask(address, &request.replace("established", "open"));
    assert!(
        unknown.contains(r#""data":[{"error":"tcp-status: "#),
        "{unknown}"
    );
    let answer = exchange(address, b"tcp.status[established]\n");
    assert_eq!(answer, framed("5"));
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"tcp.status[established]").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, framed("5"));
}

#[test]
fn who_is_not_allowed_gets_nothing() {
    let address = serve(AllowedNetworks::new(vec!["192.0.2.0/24".parse().unwrap()]));
    for _ in 0..3 {
        assert_eq!(exchange(address, &framed("tcp.status.all")), b"");
    }
}

#[test]
fn garbage_gets_nothing_and_harms_nobody() {
    let address = serve(AllowedNetworks::default());
    let long = vec![b'a'; 100_000];
    for garbage in [
        b"ZBXD\x03\x01\0\0\0\x01\0\0\0x".as_slice(),
        b"ZBXD\x01\xff\xff\xff\xff\0\0\0\0",
        &framed("{\"request\":\"active checks\",\"host\":\"x\"}"),
        b"\xff\xfe\n",
        &long,
    ] {
        assert_eq!(exchange(address, garbage), b"");
        assert_eq!(ask(address, "tcp.status[established]"), "5");
    }
}

#[test]
fn the_silent_do_not_keep_the_others_out() {
    let address = serve_within(passive::LIMITS, AllowedNetworks::default());
    let _silent: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    // As a server does: it gives up after 3 s.
    let late: Vec<_> = (0..20)
        .map(|_| {
            let start = Instant::now();
            assert_eq!(ask(address, "tcp.status[established]"), "5");
            start.elapsed()
        })
        .filter(|took| *took > Duration::from_secs(1))
        .collect();
    assert_eq!(late, [Duration::ZERO; 0]);
}
