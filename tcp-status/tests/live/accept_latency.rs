//! Time in accept queues, against the clock of who connects and accepts.

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};
use tcp_status::{
    kernel::plan::EbpfPlan,
    snapshot::{AcceptLatency, Snapshot, Tier},
};
use tcp_status_testkit::{
    has_syn_data,
    netns::{allow_fast_open, set_sysctl},
    soon, take_fast_open,
};

use crate::subject::{Subject, is_virtual, place, quiet};

/// Two jiffies where they are longest (`CONFIG_HZ=100`), by which a time may be off.
const JIFFIES: Duration = Duration::from_millis(20);

fn start() -> Subject {
    Subject::start_changed(|settings| settings.accept_latency = true)
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Runs a test in a namespace of its own.
fn in_netns(test: impl FnOnce() + Send) {
    let Some(netns) = place() else { return };
    let _quiet = quiet();
    netns.run(test).unwrap();
}

/// False, once the reason is checked, where nothing can be measured.
fn is_measured(snapshot: &Snapshot) -> bool {
    let reason = snapshot.accept_latency_reason.as_deref();
    assert_eq!(snapshot.accept_latency.is_some(), reason.is_none());
    let Some(reason) = reason else {
        assert_eq!(snapshot.tier, Tier::Full);
        return true;
    };
    println!("{reason}");
    // Machines of `cargo xtask vm` can do it.
    assert!(!is_virtual(), "{reason}");
    assert_reduced(snapshot);
    false
}

/// None where nothing can be measured.
fn start_measuring() -> Option<Subject> {
    let subject = start();
    is_measured(&subject.snapshot()).then_some(subject)
}

fn assert_reduced(snapshot: &Snapshot) {
    assert_eq!(snapshot.tier, Tier::Reduced);
    assert_eq!(snapshot.accept_latency, None);
    let reason = snapshot.accept_latency_reason.as_deref().unwrap();
    assert!(reason.starts_with("the tier is reduced: "), "{reason}");
}

/// What was accepted at a port; none if nothing was.
fn at(subject: &Subject, port: u16) -> Option<AcceptLatency> {
    let mut ports = subject.snapshot().accept_latency.unwrap().into_iter();
    ports.find(|one| one.port == Some(port))
}

/// The shortest and the longest that a connection can have waited.
type Bracket = [Duration; 2];

/// Accepts connections after each has waited for so long.
fn accept_after(listener: &TcpListener, waits: &[u64], talks: bool) -> Vec<Bracket> {
    let address = listener.local_addr().unwrap();
    let accept_one = |&milliseconds: &u64| {
        let connecting = Instant::now();
        let mut client = TcpStream::connect(address).unwrap();
        let connected = Instant::now();
        if talks {
            client.write_all(b"x").unwrap();
        }
        thread::sleep(Duration::from_millis(milliseconds));
        let accepting = Instant::now();
        drop(listener.accept().unwrap());
        [accepting - connected, connecting.elapsed()]
    };
    waits.iter().map(accept_one).collect()
}

/// Each connection is in one of the buckets that its time can belong to.
fn assert_measured(latency: &AcceptLatency, brackets: &[Bracket]) {
    println!("{latency:?}");
    assert_eq!(latency.accepted, u64::try_from(brackets.len()).unwrap());
    let within = |bound: f64, slack: f64, edge: fn(&Bracket) -> Duration| {
        let times = brackets.iter().map(|one| edge(one).as_secs_f64() + slack);
        u64::try_from(times.filter(|&time| time <= bound).count()).unwrap()
    };
    let (mut sum, slack) = (0, JIFFIES.as_secs_f64());
    for (bound, count) in AcceptLatency::bounds().zip(latency.buckets) {
        sum += count;
        let [most, least] = [
            within(bound, -slack, |[shortest, _]| *shortest),
            within(bound, slack, |[_, longest]| *longest),
        ];
        assert!(
            (least..=most).contains(&sum),
            "{sum} up to {bound} s: {brackets:?}"
        );
    }
    let total =
        |edge: fn(&Bracket) -> Duration| brackets.iter().map(edge).sum::<Duration>().as_secs_f64();
    let slack = slack * f64::from(u32::try_from(brackets.len()).unwrap());
    let [least, most] = [total(|one| one[0]) - slack, total(|one| one[1]) + slack];
    assert!(
        (least..=most).contains(&latency.sum_seconds),
        "{least} to {most}: {latency:?}"
    );
}

#[test]
fn connections_are_in_the_bucket_of_their_time() {
    in_netns(|| {
        let (listener, address) = listener();
        let Some(subject) = start_measuring() else {
            return;
        };
        assert_eq!(at(&subject, address.port()), None);
        let waits = [0, 0, 0, 75, 75, 300];
        let mut brackets = accept_after(&listener, &waits, false);
        assert_measured(&at(&subject, address.port()).unwrap(), &brackets);
        // What the client sends meanwhile changes nothing.
        brackets.extend(accept_after(&listener, &[0, 75, 300], true));
        assert_measured(&at(&subject, address.port()).unwrap(), &brackets);
        // Nor does an audit, which gives the port another slot.
        let audits = subject.snapshot().drift.audits;
        let began = Instant::now();
        while subject.snapshot().drift.audits < audits + 2 {
            assert!(began.elapsed() < 10 * soon());
            brackets.extend(accept_after(&listener, &[0], false));
            thread::sleep(Duration::from_millis(50));
        }
        assert_measured(&at(&subject, address.port()).unwrap(), &brackets);
    });
}

#[test]
fn ports_beyond_the_limit_are_counted_together() {
    in_netns(|| {
        let subject = Subject::start_changed(|settings| {
            settings.accept_latency = true;
            settings.limits.ports = 2;
        });
        if !is_measured(&subject.snapshot()) {
            return;
        }
        let listeners: Vec<_> = (0..4).map(|_| listener().0).collect();
        let each = listeners
            .iter()
            .flat_map(|one| accept_after(one, &[0], false));
        let brackets: Vec<_> = each.collect();
        let rows = subject.snapshot().accept_latency.unwrap();
        let ports: Vec<_> = rows
            .iter()
            .map(|row| (row.port.is_some(), row.accepted))
            .collect();
        assert_eq!(ports, [(false, 2), (true, 1), (true, 1)], "{brackets:?}");
    });
}

#[test]
fn a_port_without_a_socket_is_forgotten() {
    in_netns(|| {
        // No connection leaves a minisocket at its port.
        set_sysctl("ipv4/tcp_max_tw_buckets", "0").unwrap();
        let Some(subject) = start_measuring() else {
            return;
        };
        let [(gone, address), (kept, other)] = [listener(), listener()];
        accept_after(&gone, &[0], false);
        assert_eq!(
            at(&subject, address.port()).map(|one| one.accepted),
            Some(1)
        );
        drop(gone);
        let (began, mut accepted) = (Instant::now(), 0);
        while at(&subject, address.port()).is_some() {
            assert!(began.elapsed() < 20 * soon(), "{:?}", subject.snapshot());
            accept_after(&kept, &[0], false);
            accepted += 1;
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(
            at(&subject, other.port()).map(|one| one.accepted),
            Some(accepted)
        );
    });
}

#[test]
fn an_empty_queue_is_not_counted() {
    in_netns(|| {
        let (listener, address) = listener();
        let Some(subject) = start_measuring() else {
            return;
        };
        listener.set_nonblocking(true).unwrap();
        for _ in 0..10 {
            let refused = listener.accept().unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        }
        assert_eq!(subject.snapshot().accept_latency, Some(Vec::new()));
        listener.set_nonblocking(false).unwrap();
        let brackets = accept_after(&listener, &[0], false);
        assert_measured(&at(&subject, address.port()).unwrap(), &brackets);
    });
}

/// A call that sleeps in `inet_csk_accept()` while the program is attached, and while it is detached.
#[test]
fn a_call_may_sleep_while_it_begins_and_ends() {
    in_netns(|| {
        let (listener, address) = listener();
        for _ in 0..2 {
            thread::scope(|scope| {
                let accepting = scope.spawn(|| listener.accept().unwrap());
                thread::sleep(Duration::from_millis(100));
                let subject = start();
                let measured = is_measured(&subject.snapshot());
                let _first = TcpStream::connect(address).unwrap();
                accepting.join().unwrap();
                if measured {
                    // The call began before.
                    assert_eq!(at(&subject, address.port()), None);
                }
                let accepting = scope.spawn(|| listener.accept().unwrap());
                thread::sleep(Duration::from_millis(100));
                drop(subject);
                let _second = TcpStream::connect(address).unwrap();
                accepting.join().unwrap();
            });
        }
    });
}

#[test]
fn fast_open_is_left_out() {
    in_netns(|| {
        allow_fast_open().unwrap();
        let (listener, address) = listener();
        take_fast_open(&listener).unwrap();
        let Some(subject) = start_measuring() else {
            return;
        };
        let target = SockAddr::from(address);
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let sent = client.send_to_with_flags(b"x", &target, libc::MSG_FASTOPEN);
        assert_eq!(sent.unwrap(), 1);
        // The handshake ends meanwhile.
        thread::sleep(Duration::from_millis(75));
        let (server, _) = listener.accept().unwrap();
        assert!(has_syn_data(&server).unwrap(), "the SYN carried no data");
        assert_eq!(at(&subject, address.port()), None);
        let brackets = accept_after(&listener, &[0], false);
        assert_measured(&at(&subject, address.port()).unwrap(), &brackets);
    });
}

#[test]
fn nothing_is_measured_unless_it_is_wanted() {
    in_netns(|| {
        let subject = Subject::start();
        let (listener, _) = listener();
        accept_after(&listener, &[0], false);
        let snapshot = subject.snapshot();
        assert_eq!(snapshot.accept_latency, None);
        let reason = snapshot.accept_latency_reason.unwrap();
        assert!(reason.contains("--accept-latency"), "{reason}");
    });
}

/// Without hooks at functions the option is accepted, and nothing but its metric is missing.
#[test]
fn a_reduced_tier_has_none() {
    in_netns(|| {
        let reduce = |plan: EbpfPlan| plan.reduced("no hooks in this test".into());
        let subject = Subject::start_planned(reduce, |settings| settings.accept_latency = true);
        let (listener, _) = listener();
        accept_after(&listener, &[0, 0], false);
        assert_reduced(&subject.snapshot());
        subject.assert_exact_within(soon());
    });
}
