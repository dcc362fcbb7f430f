//! A real Zabbix agent with our configuration file asks the real binary. Owns what the answers
//! must be; [`host`] owns the processes, the test kit the sockets.

mod host;

use std::{
    net::{Ipv4Addr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use host::{Agent, Host, PATIENCE};
use nix::sys::signal::Signal;
use tcp_status_common::state::State;
use tcp_status_testkit::{
    held_sockets::{HeldSockets, SocketPlan},
    oracle, seed,
};

#[test]
fn agent_answers_with_the_kernels_numbers() {
    let Some(host) = Host::prepare() else {
        return;
    };
    let (listener, hold) = host.counted.run(hold_sockets).unwrap();
    let listener_port = listener.local_addr().unwrap().port();
    let mut tracker = host.start_tracker();
    let agent = host.start_agent();

    assert_gauges_equal_the_listing(&agent);
    assert_ports_narrow_the_answer(&agent, listener_port);
    assert_json_is_whole(&agent);
    assert_listener_is_found(&agent, listener_port);
    let unknown = assert_error(&agent, "tcp.status[open]");
    for state in State::ALL {
        assert!(unknown.contains(state.name()), "{unknown}");
    }
    assert_error(&agent, "tcp.status[--help]");
    assert_error(&agent, "tcp.status");

    tracker.end(Signal::SIGTERM);
    let gone = assert_error(&agent, "tcp.status[established]");
    assert!(gone.contains("tcp-status run"), "no cure in: {gone}");
    assert_error(&agent, "tcp.status.all");

    let mut tracker = host.start_tracker();
    assert_gauges_equal_the_listing(&agent);
    tracker.end(Signal::SIGKILL);
    assert_error(&agent, "tcp.status[listen]");

    let _tracker = host.start_tracker();
    assert_gauges_equal_the_listing(&agent);
    drop((listener, hold));
}

fn hold_sockets() -> (TcpListener, HeldSockets) {
    let hold = HeldSockets::new(&SocketPlan::random(4, seed())).unwrap();
    hold.wait(PATIENCE).unwrap();
    (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), hold)
}

/// All eleven keys, one by one, between two equal listings.
fn assert_gauges_equal_the_listing(agent: &Agent<'_>) {
    let start = Instant::now();
    loop {
        let before = agent.host.listing();
        let answers = State::ALL.map(|state| agent.ask(&format!("tcp.status[{state}]")));
        let after = agent.host.listing();
        let wanted = State::ALL.map(|s| before.both(usize::from(s.number())).to_string());
        if before == after && answers == wanted {
            let nonzero = State::ALL.len() - wanted.iter().filter(|n| *n == "0").count();
            assert!(nonzero >= 10, "only CLOSE may have none: {wanted:?}");
            return;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "agent says {answers:?}, the kernel {wanted:?}, in the order of {:?}",
            oracle::NAMES
        );
        thread::sleep(Duration::from_millis(200));
    }
}

fn assert_ports_narrow_the_answer(agent: &Agent<'_>, listener_port: u16) {
    let all = agent.ask("tcp.status[listen]");
    assert_eq!(agent.ask("tcp.status[listen,]"), all, "an empty port");
    assert_eq!(agent.ask("tcp.status[LISTEN]"), all, "another spelling");
    let one = agent.ask(&format!("tcp.status[listen,{listener_port}]"));
    assert_eq!(one, "1", "port {listener_port}");
    assert_error(agent, "tcp.status[listen,70000]");
}

fn assert_json_is_whole(agent: &Agent<'_>) {
    let text = agent.ask("tcp.status.all");
    let json: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(json["schema"], 1, "{text}");
    for state in State::ALL {
        assert!(json["states"][state.name()].is_u64(), "{state}: {text}");
    }
}

/// By discovery as a row of macros, and among the listeners with its queue.
fn assert_listener_is_found(agent: &Agent<'_>, listener_port: u16) {
    let rows = agent.ask("tcp.status.discovery");
    let row = format!("{{\"{{#PORT}}\":\"{listener_port}\",");
    assert!(rows.contains(&row), "{row} in {rows}");
    let text = agent.ask("tcp.status.listeners");
    let json: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let listeners = json["listeners"].as_array().unwrap();
    let listener = listeners
        .iter()
        .find(|listener| listener["port"] == listener_port)
        .unwrap_or_else(|| panic!("no port {listener_port} in {text}"));
    assert!(listener["accept_queue_limit"].is_u64(), "{text}");
}

/// One readable line that no server takes for a number; gives it.
fn assert_error(agent: &Agent<'_>, key: &str) -> String {
    let answer = agent.ask(key);
    assert!(answer.starts_with("tcp-status: "), "{key}: {answer:?}");
    assert_eq!(answer.lines().count(), 1, "{key}: {answer:?}");
    answer
}
