//! Connects that a firewall or a missing route ends: what the kernel tells the program, and what is counted.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Command,
};

use tcp_status::snapshot::{ConnectFailures, Ends};
use tcp_status_testkit::{netns::set_sysctl, skip};

use crate::{
    ends::{BOTH, assert_ends, error_of},
    subject::{Subject, place},
};

/// Runs a command of the network administrator in the calling thread's namespace.
fn network(command: &str) -> Result<(), String> {
    let mut words = command.split_whitespace();
    let program = words.next().ok_or("no command")?;
    let output = Command::new(program).args(words).output();
    let output = output.map_err(|error| format!("{command}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// All of them, or none of the test: a machine of tests has neither the programs nor what they ask of the kernel.
fn prepared(commands: &[&str]) -> bool {
    let done = commands.iter().try_for_each(|command| network(command));
    done.inspect_err(|error| skip(error)).is_ok()
}

/// Ports with a listener, to which a firewall lets nothing pass: dropped, refused in the name of the peer, and
/// refused in its own.
const RULES: [&str; 6] = [
    "iptables -A INPUT -p tcp --dport 1 -j DROP",
    "iptables -A INPUT -p tcp --dport 2 -j REJECT --reject-with tcp-reset",
    "iptables -A INPUT -p tcp --dport 3 -j REJECT --reject-with icmp-admin-prohibited",
    "ip6tables -A INPUT -p tcp --dport 1 -j DROP",
    "ip6tables -A INPUT -p tcp --dport 2 -j REJECT --reject-with tcp-reset",
    "ip6tables -A INPUT -p tcp --dport 3 -j REJECT --reject-with icmp6-adm-prohibited",
];

#[test]
fn connects_that_a_firewall_ends_are_counted_by_reason() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            if !prepared(&RULES) {
                return;
            }
            set_sysctl("ipv4/tcp_syn_retries", "1").unwrap();
            let subject = Subject::start();
            let before = subject.snapshot().ends.unwrap();
            for at in BOTH {
                let listeners = [1, 2, 3].map(|port| TcpListener::bind((at, port)).unwrap());
                let [dropped, reset, prohibited] = listeners
                    .each_ref()
                    .map(|listener| TcpStream::connect(listener.local_addr().unwrap()))
                    .map(error_of);
                let prohibits = if at.is_ipv4() {
                    libc::EHOSTUNREACH
                } else {
                    libc::EACCES
                };
                assert_eq!(
                    [dropped, reset, prohibited],
                    [libc::ETIMEDOUT, libc::ECONNREFUSED, prohibits]
                );
            }
            let expected = Ends {
                connect_failures: ConnectFailures {
                    timed_out: 2,
                    refused: 2,
                    unreachable: 2,
                    ..ConnectFailures::default()
                },
                ..Ends::default()
            };
            assert_ends(&subject, &before, &expected);
        })
        .unwrap();
}

/// A link at whose other end nobody answers, and a route that leads nowhere.
const ROUTES: [&str; 6] = [
    "ip link add near type veth peer name far",
    "ip link set near up",
    "ip link set far up",
    "ip address add 10.0.0.1/24 dev near",
    "ip -6 address add fd00::1/64 dev near nodad",
    "ip route add unreachable 10.9.0.0/16",
];

#[test]
fn a_host_that_does_not_answer_on_its_link_is_unreachable_and_a_missing_route_is_no_attempt() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            if !prepared(&ROUTES) {
                return;
            }
            let subject = Subject::start();
            let before = subject.snapshot().ends.unwrap();
            let connect = |to: &str| -> io::Result<TcpStream> {
                let to: IpAddr = to.parse().unwrap();
                TcpStream::connect(SocketAddr::new(to, 80))
            };
            for silent in ["10.0.0.9", "fd00::9"] {
                assert_eq!(error_of(connect(silent)), libc::EHOSTUNREACH);
            }
            // The kernel fails the call before anything is sent: no state changes.
            assert_eq!(error_of(connect("10.9.0.1")), libc::EHOSTUNREACH);
            assert_eq!(error_of(connect("192.0.2.1")), libc::ENETUNREACH);
            let expected = Ends {
                connect_failures: ConnectFailures {
                    unreachable: 2,
                    ..ConnectFailures::default()
                },
                ..Ends::default()
            };
            assert_ends(&subject, &before, &expected);
        })
        .unwrap();
}
