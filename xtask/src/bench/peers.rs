//! The ways to query TCP states: the tracker's own, and what users would pick instead.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Bench,
    cost::{self, Cost},
    dump,
    tracker::{GET, SHOW, Tracker},
};
use crate::{
    process::{Process, listens},
    step::{Step, run, step},
    toolchain::exists,
};

/// Where the tracker serves metrics; in the bench's own namespace, every port is free.
pub(super) const METRICS: &str = "127.0.0.1:9889";
const NODE_EXPORTER: &str = "127.0.0.1:9100";
const ZABBIX_AGENT: &str = "127.0.0.1:10050";

const ZABBIX_KEY: &str = "net.tcp.socket.count[,,,,established]";

/// What all else is compared with: all states, without the start of a process.
pub(super) const SHOW_ROUND_TRIP: &str = "`show`, round trip on the socket";

/// One way to query.
pub(super) struct Method<'a> {
    pub(super) name: String,
    run: Box<dyn FnMut(u32) -> Result<Cost> + 'a>,
}

impl<'a> Method<'a> {
    fn new(name: impl Into<String>, run: impl FnMut(u32) -> Result<Cost> + 'a) -> Self {
        let (name, run) = (name.into(), Box::new(run));
        Self { name, run }
    }

    /// A command, that processes `others` work for.
    fn process(name: &str, step: &Step, others: Vec<u32>) -> Self {
        let mut command = step.command();
        Self::new(name, move |turns| {
            let mut sum = Cost::default();
            for _ in 0..turns {
                let one = cost::process(&mut command, &others)?;
                sum.wall += one.wall / turns;
                sum.cpu += one.cpu / turns;
                sum.peak = sum.peak.max(one.peak);
            }
            Ok(sum)
        })
    }

    /// Queries so many times; the cost of one answer.
    pub(super) fn run(&mut self, turns: u32) -> Result<Cost> {
        (self.run)(turns).with_context(|| format!("cannot measure {}", self.name))
    }
}

/// All ways that this host has; `skipped` gets what it lacks.
pub(super) fn all<'a>(
    bench: &Bench<'a>,
    tracker: &'a Tracker,
    mut skipped: impl FnMut(&str, &str),
) -> Result<Vec<Method<'a>>> {
    let mut methods = own(bench, tracker);
    match static_true(bench.folder) {
        Ok(path) => {
            let name = "`/bin/true`, statically linked";
            methods.insert(0, Method::process(name, &step!(path), Vec::new()));
        }
        Err(error) => skipped("a static /bin/true", &format!("{error:#}")),
    }
    let sum = |column| format!("awk '{{ n[${column}]++ }} END {{ for (s in n) print s, n[s] }}'");
    for (program, name, text) in [
        (
            "netstat",
            "`netstat -ant | awk`",
            format!("netstat -ant | {}", sum(6)),
        ),
        ("ss", "`ss -Htan | awk`", format!("ss -Htan | {}", sum(1))),
        ("ss", "`ss -s` (no states)", "exec ss -s".to_owned()),
    ] {
        if exists(program) {
            methods.push(Method::process(name, &step!("sh -c", text), Vec::new()));
        } else {
            skipped(name, &format!("there is no {program}"));
        }
    }
    methods.push(Method::new("read of /proc/net/tcp and tcp6", |turns| {
        cost::turns(turns, &[], read_procfs)
    }));
    methods.push(Method::new("sock_diag dump", |turns| {
        cost::turns(turns, &[], || dump::states().map(drop))
    }));
    let mut add_peer =
        |name, peer: Result<Process>, address, request: Vec<u8>, is_answer: fn(&str) -> bool| {
            match peer {
                Ok(peer) => methods.push(Method::new(name, move |turns| {
                    cost::turns(turns, &pids(&peer)?, || {
                        let answer = exchange(address, &request)?;
                        ensure!(is_answer(&answer), "no count in the answer: {answer:?}");
                        Ok(())
                    })
                })),
                Err(error) => skipped(name, &format!("{error:#}")),
            }
        };
    let name = "Zabbix agent, `net.tcp.socket.count`, one state";
    let request = zabbix_request(ZABBIX_KEY);
    add_peer(
        name,
        zabbix_agent(bench.folder),
        ZABBIX_AGENT,
        request,
        |answer| answer.ends_with(|last: char| last.is_ascii_digit()),
    );
    let (name, request) = ("node_exporter, `tcpstat` only", http_request(NODE_EXPORTER));
    add_peer(
        name,
        node_exporter(bench.folder),
        NODE_EXPORTER,
        request,
        |answer| answer.contains("node_tcp_connection_states"),
    );
    Ok(methods)
}

fn own<'a>(bench: &Bench<'a>, tracker: &'a Tracker) -> Vec<Method<'a>> {
    let pid = tracker.pid();
    let round_trip = |name, request| {
        Method::new(name, move |turns| {
            cost::turns(turns, &[pid], || tracker.query(request).map(drop))
        })
    };
    let get = step!(bench.binary, "get established --socket", tracker.socket());
    let show = step!(bench.binary, "show --json --socket", tracker.socket());
    vec![
        Method::process("`tcp-status get`", &get, vec![pid]),
        Method::process("`tcp-status show --json`", &show, vec![pid]),
        round_trip("`get`, round trip on the socket", GET),
        round_trip(SHOW_ROUND_TRIP, SHOW),
        Method::new("tcp-status, `/metrics`", move |turns| {
            let request = http_request(METRICS);
            cost::turns(turns, &[pid], || exchange(METRICS, &request).map(drop))
        }),
    ]
}

/// The least that a process can cost.
fn static_true(folder: &Path) -> Result<PathBuf> {
    let (source, program) = (folder.join("true.c"), folder.join("true"));
    fs::write(&source, "int main(void) { return 0; }\n")?;
    run!("cc -static -O2 -o", &program, source)?;
    Ok(program)
}

fn read_procfs() -> Result<()> {
    let mut part = vec![0; 1 << 16];
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let mut file = File::open(path).with_context(|| format!("cannot open {path}"))?;
        while file.read(&mut part)? > 0 {}
    }
    Ok(())
}

fn http_request(address: &str) -> Vec<u8> {
    format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").into_bytes()
}

/// A key in Zabbix's framing: a mark, the length in 8 bytes, the text.
fn zabbix_request(key: &str) -> Vec<u8> {
    let length = key.len() as u64;
    [b"ZBXD\x01", &length.to_le_bytes()[..], key.as_bytes()].concat()
}

fn exchange(address: &str, request: &[u8]) -> Result<String> {
    let mut stream =
        TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn zabbix_agent(folder: &Path) -> Result<Process> {
    let path = folder.join("zabbix.conf");
    let text = format!(
        "Server=127.0.0.1\nListenIP=127.0.0.1\nLogType=console\nAllowRoot=1\n\
         StartAgents=1\nTimeout=30\nPidFile={}\n",
        folder.join("zabbix.pid").display()
    );
    fs::write(&path, text)?;
    start(&step!("zabbix_agentd -f -c", path), ZABBIX_AGENT)
}

fn node_exporter(folder: &Path) -> Result<Process> {
    let address = format!("--web.listen-address={NODE_EXPORTER}");
    let step = step!("prometheus-node-exporter --collector.disable-defaults --collector.tcpstat");
    start(&step.with(address).folder(folder), NODE_EXPORTER)
}

fn start(step: &Step, address: &str) -> Result<Process> {
    let mut command = step.command();
    let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    process.wait_until(|| listens(address))?;
    Ok(process)
}

/// A process and its children.
fn pids(process: &Process) -> Result<Vec<u32>> {
    let own = process.pid();
    let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"))?;
    let mut pids = vec![own];
    for child in children.split_whitespace() {
        pids.push(child.parse()?);
    }
    Ok(pids)
}
