//! `who`, of sockets that the test holds, against `/proc/net/tcp`.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process,
};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::printed;

/// Sockets at one local port, which nobody else uses.
struct Held {
    port: u16,
    _listener: TcpListener,
    _connections: Vec<(TcpStream, TcpStream)>,
}

const MANY: Ipv4Addr = Ipv4Addr::new(127, 98, 76, 54);
const FEW: Ipv4Addr = Ipv4Addr::new(127, 98, 76, 5);

impl Held {
    /// Five clients at one address, of which two have shut down, and three at another.
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = |from: Ipv4Addr| {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.bind(&SocketAddr::from((from, 0)).into()).unwrap();
            client.connect(&address.into()).unwrap();
            (TcpStream::from(client), listener.accept().unwrap().0)
        };
        let connections: Vec<_> = [MANY, MANY, MANY, MANY, MANY, FEW, FEW, FEW]
            .into_iter()
            .map(connect)
            .collect();
        for (client, _) in &connections[..2] {
            client.shutdown(std::net::Shutdown::Write).unwrap();
        }
        Self {
            port: address.port(),
            _listener: listener,
            _connections: connections,
        }
    }

    fn who(&self, arguments: &[&str]) -> Value {
        let port = self.port.to_string();
        let text = printed(&[&["who", "--json", "--port", &port], arguments].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// What the kernel lists at the port: all sockets, and those with this peer.
    fn listed(&self, peer: Ipv4Addr) -> (u64, u64) {
        let local = format!(":{:04X}", self.port);
        let peer = format!("{:08X}:", u32::from(peer).swap_bytes());
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let rows = table.lines().skip(1).map(str::split_whitespace);
        let rows: Vec<Vec<_>> = rows.map(Iterator::collect).collect();
        let at_port = |row: &&Vec<&str>| row[1].ends_with(&local);
        let all = rows.iter().filter(at_port).count();
        let of_peer = rows.iter().filter(at_port);
        let of_peer = of_peer.filter(|row| row[2].starts_with(&peer)).count();
        (all as u64, of_peer as u64)
    }
}

#[test]
fn remotes_are_those_that_the_kernel_lists() {
    let held = Held::new();
    let who = held.who(&[]);
    let (all, many) = held.listed(MANY);
    assert_eq!(many, 5);
    assert_eq!(who["groups"][0]["key"], MANY.to_string());
    assert_eq!(who["groups"][0]["sockets"], many);
    assert_eq!(who["groups"][0]["states"]["closewait"], 2);
    assert_eq!(who["groups"][1]["key"], FEW.to_string());
    // The listener has no peer.
    assert_eq!(
        (&who["total"], &who["walked"]),
        (&(all - 1).into(), &all.into())
    );

    let wide = held.who(&["--prefix4", "16"]);
    assert_eq!(wide["groups"][0]["key"], "127.98.0.0/16");
    assert_eq!(wide["groups"][0]["sockets"], 8);
    let first = held.who(&["--limit", "1"]);
    assert_eq!(
        (&first["rest"], &first["rest_groups"]),
        (&3.into(), &1.into())
    );
    let leaking = held.who(&["--state", "CLOSE_WAIT,finwait2"]);
    assert_eq!(
        (&leaking["total"], &leaking["walked"]),
        (&2.into(), &2.into())
    );
}

#[test]
fn destinations_are_of_outgoing_connections() {
    let held = Held::new();
    // At the listener's port there are none.
    assert_eq!(held.who(&["--by", "destination"])["total"], 0);
    let text = printed(&["who", "--json", "--by", "destination", "--limit", "1000000"]);
    let all: Value = serde_json::from_str(&text).unwrap();
    let key = format!("{MANY} -> 127.0.0.1:{}", held.port);
    let groups = all["groups"].as_array().unwrap();
    let group = groups.iter().find(|group| group["key"] == key).unwrap();
    assert_eq!(group["sockets"], 5);
    assert_eq!(group["states"]["finwait2"], 2);
    let range = group["ephemeral_range"].as_f64().unwrap();
    let used = group["used_percent"].as_f64().unwrap();
    assert!((used - 500.0 / range).abs() < 0.1, "{group}");
}

#[test]
fn processes_and_cgroups_are_those_of_the_test() {
    let held = Held::new();
    let (all, _) = held.listed(MANY);
    let process = held.who(&["--by", "process"]);
    assert_eq!(process["groups"][0]["pid"], process::id());
    assert_eq!(
        (&process["groups"][0]["sockets"], &process["total"]),
        (&all.into(), &all.into())
    );
    let port = held.who(&["--by", "port"]);
    assert_eq!(port["groups"][0]["key"], held.port.to_string());
    assert_eq!(port["groups"][0]["states"]["listen"], 1);
    let table = printed(&["who", "--by", "port", "--port", &held.port.to_string()]);
    assert!(table.contains("\nlocal port"), "{table}");

    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    match own.filter(|_| mounts.contains(" cgroup2 ")) {
        Some(own) => {
            let cgroup = held.who(&["--by", "cgroup"]);
            assert_eq!(cgroup["groups"][0]["key"], own);
            assert_eq!(cgroup["groups"][0]["sockets"], all);
        }
        None => tcp_status_testkit::skip("no cgroup2 hierarchy is mounted"),
    }
}
