//! What happens between two polls: peaks, rates, queues, and connections that sit in a state.

use std::{
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tcp_status::{
    serve::{Source as _, protocol::Show},
    snapshot::{Listener, Snapshot},
};
use tcp_status_common::state::State;
use tcp_status_testkit::{
    churn::Churn,
    oracle::{Counts, st},
    raise_fd_limit, seed, soon,
};

use crate::subject::{Subject, place, turn};

/// Lasts for some samples: a sample that costs much, as an emulated machine needs for it, makes the
/// next one later.
fn last(subject: &Subject) {
    thread::sleep(Duration::from_millis(300));
    let period = || within(subject, 60).peaks.unwrap().sample_milliseconds;
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(period().into()));
    }
}

fn within(subject: &Subject, window: u32) -> Snapshot {
    let show = Show {
        window: Some(window),
        ..Show::default()
    };
    subject.tracker.show(&show).unwrap().remove(0)
}

#[test]
fn a_spike_between_two_polls_is_seen_and_passes() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            last(&subject);
            let pairs: Vec<_> = (0..20)
                .map(|_| {
                    (
                        TcpStream::connect(address).unwrap(),
                        listener.accept().unwrap().0,
                    )
                })
                .collect();
            let listed = Counts::read().unwrap().both(st::ESTABLISHED);
            last(&subject);
            drop(pairs);
            last(&subject);
            let after = within(&subject, 60);
            let peaks = after.peaks.unwrap();
            assert_eq!(after.states[State::Established], 0);
            assert_eq!(peaks.max[State::Established], listed);
            assert_eq!(peaks.min[State::Established], 0);
            assert_eq!(peaks.max[State::Listen], 1);
            let rates = after.rates.unwrap();
            let opened = rates.passive_open * rates.window_seconds;
            assert!((19.5..20.5).contains(&opened), "{rates:?}");
            thread::sleep(Duration::from_secs(2));
            let later = within(&subject, 1);
            assert_eq!(later.peaks.unwrap().max[State::Established], 0);
            assert!(later.rates.unwrap().passive_open < 0.01);
        })
        .unwrap();
}

/// Length and limit of the accept queue, as the kernel tells them to the owner of the listener.
pub fn queue(listener: &impl AsRawFd) -> (u32, u32) {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap();
    // SAFETY: the kernel writes no more than the length into the structure.
    let got = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(got, 0);
    // SAFETY: zeroed before, and plain numbers.
    let info = unsafe { info.assume_init() };
    // `tcp_get_info()`: of a listener, these two.
    (info.tcpi_unacked, info.tcpi_sacked)
}

fn overflows() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let names: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    let values: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    let field = |wanted| {
        let column = names.iter().position(|name| *name == wanted).unwrap();
        values[column].parse().unwrap()
    };
    (field("ListenOverflows"), field("ListenDrops"))
}

fn listener_at(subject: &Subject, port: u16) -> Vec<Listener> {
    let mut listeners = within(subject, 60).listeners;
    listeners.retain(|listener| listener.port == port);
    listeners
}

#[test]
fn a_full_accept_queue_shows_its_depth_its_limit_and_its_peak() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let any = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            socket.bind(&any.into()).unwrap();
            socket.listen(2).unwrap();
            let listener = TcpListener::from(socket);
            let address = listener.local_addr().unwrap();
            let mut clients: Vec<_> = (0..3)
                .map(|_| TcpStream::connect(address).unwrap())
                .collect();
            let refused =
                TcpStream::connect_timeout(&address, Duration::from_millis(300)).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::TimedOut);
            let (depth, limit) = queue(&listener);
            assert_eq!((depth, limit), (3, 2));
            let found = listener_at(&subject, address.port());
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].address, address.ip());
            assert_eq!(
                (found[0].accept_queue, found[0].accept_queue_limit),
                (depth, limit)
            );
            assert_eq!((found[0].uid, found[0].syn_queue), (Some(0), Some(0)));
            let told = within(&subject, 60).overflows.unwrap();
            assert_eq!((told.listen_overflows, told.listen_drops), overflows());
            assert!(told.listen_overflows > 0);
            last(&subject);
            while queue(&listener).0 > 0 {
                clients.push(listener.accept().unwrap().0);
            }
            let found = listener_at(&subject, address.port());
            assert_eq!(
                (found[0].accept_queue, found[0].accept_queue_peak),
                (0, Some(3))
            );
        })
        .unwrap();
}

#[test]
fn listeners_of_a_group_are_listed_apart() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            let group = |port: u16| {
                let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
                socket.set_reuse_port(true).unwrap();
                let address = std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
                socket.bind(&address.into()).unwrap();
                socket.listen(7).unwrap();
                TcpListener::from(socket)
            };
            let first = group(0);
            let port = first.local_addr().unwrap().port();
            let all = [first, group(port), group(port)];
            let _clients: Vec<_> = (0..6)
                .map(|_| TcpStream::connect(all[0].local_addr().unwrap()).unwrap())
                .collect();
            let found = listener_at(&subject, port);
            assert_eq!(found.len(), 3);
            assert!(
                found
                    .iter()
                    .all(|listener| listener.reuseport && listener.family == 6)
            );
            let mut told: Vec<_> = found.iter().map(|l| l.accept_queue).collect();
            let mut own: Vec<_> = all.iter().map(|listener| queue(listener).0).collect();
            told.sort_unstable();
            own.sort_unstable();
            assert_eq!(told, own);
            assert_eq!(own.iter().sum::<u32>(), 6);
        })
        .unwrap();
}

#[test]
fn many_listeners_are_all_listed() {
    let Some(netns) = place() else { return };
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            // More records than the kernel hands to a reader at once.
            let listen = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let listeners: Vec<_> = (0..2_500).map(listen).collect();
            let subject = Subject::start_attentive();
            let mut ports: Vec<_> = listeners
                .iter()
                .map(|listener| listener.local_addr().unwrap().port())
                .collect();
            ports.sort_unstable();
            let found = within(&subject, 60);
            let mut listed: Vec<_> = found.listeners.iter().map(|l| l.port).collect();
            listed.sort_unstable();
            assert_eq!(listed, ports);
            assert_eq!(found.states[State::Listen], 2_500);
        })
        .unwrap();
}

#[test]
fn what_sits_in_close_wait_for_a_minute_is_told() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let pair = || {
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                (client, listener.accept().unwrap().0)
            };
            let half_closed = |count: usize| -> Vec<_> {
                let pairs: Vec<_> = (0..count).map(|_| pair()).collect();
                for (client, _) in &pairs {
                    client.shutdown(Shutdown::Write).unwrap();
                }
                pairs
            };
            let began = Instant::now();
            let old = half_closed(5);
            subject.assert_exact_within(soon());
            let stale = || {
                let stale = subject.snapshot().stale.unwrap();
                (stale.closewait, stale.finwait2)
            };
            assert_eq!(stale(), (0, 0));
            thread::sleep(Duration::from_secs(30));
            let young = half_closed(3);
            subject.assert_exact_within(soon());
            assert_eq!(stale(), (0, 0));
            thread::sleep(Duration::from_secs(63).saturating_sub(began.elapsed()));
            assert_eq!(stale(), (5, 5));
            drop(old);
            subject.assert_exact_within(soon());
            // Until an audit has walked again, some of those that are left may be taken for old.
            let dropped = Instant::now();
            while stale() != (0, 0) {
                assert!(dropped.elapsed() < soon(), "{:?}", stale());
                thread::sleep(Duration::from_millis(50));
            }
            drop(young);
        })
        .unwrap();
}

#[test]
fn transitions_add_up_to_the_gauges() {
    let Some(netns) = place() else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            let subject = Subject::start();
            // Before the churn takes all slots for ports, which an audit has to give back.
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let churn = Churn {
                workers: 2,
                connections: Some(3_000),
                duration: None,
                seed: seed(),
            };
            churn.run().unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            subject.assert_exact_within(soon());
            let snapshot = subject.snapshot();
            // From nothing, what came in less what went out is what is there; what audits had to
            // correct is what this kernel told nobody.
            for state in [
                State::Established,
                State::SynSent,
                State::FinWait1,
                State::CloseWait,
                State::LastAck,
                State::Closing,
            ] {
                let flows = &snapshot.transitions.as_ref().unwrap().flows;
                let sum = |is_counted: &dyn Fn(&str, &str) -> bool| -> i64 {
                    let flows = flows.iter().filter(|flow| is_counted(&flow.0, &flow.1));
                    flows.map(|flow| flow.2.cast_signed()).sum()
                };
                let difference = sum(&|_, to| to == state.name())
                    - sum(&|from, _| from == state.name())
                    - snapshot.states[state].cast_signed();
                let corrected = snapshot.drift.corrections_by_state[state];
                assert!(
                    difference.unsigned_abs() <= corrected,
                    "{state}: {difference} with {corrected} corrected"
                );
            }
        })
        .unwrap();
}
