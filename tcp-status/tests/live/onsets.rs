//! Since when a problem lasts, against the clock of the test.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tcp_status::{
    serve::{Source as _, protocol::Show},
    snapshot::{Problem, Rule},
};
use tcp_status_testkit::soon;

use crate::{
    between_polls::queue,
    history::unix,
    subject::{Subject, place, turn},
};

/// A condition that ended so long ago has ended for good.
const GAP: Duration = Duration::from_secs(10);

fn listen(backlog: i32) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(backlog).unwrap();
    socket.into()
}

/// Fills an accept queue; the times before and after.
fn fill(listener: &TcpListener) -> (Vec<TcpStream>, f64, f64) {
    let address = listener.local_addr().unwrap();
    let before = unix();
    let mut clients = Vec::new();
    loop {
        let (length, limit) = queue(listener);
        if length > limit {
            return (clients, before, unix());
        }
        clients.push(TcpStream::connect(address).unwrap());
    }
}

fn drain(listener: &TcpListener) {
    while queue(listener).0 > 0 {
        listener.accept().unwrap();
    }
}

fn problems(subject: &Subject, window: u32) -> Vec<Problem> {
    let show = Show {
        window: Some(window),
        ..Show::default()
    };
    subject.tracker.show(&show).unwrap().remove(0).problems
}

/// The only problem, once `found` says so of it.
fn wait_for(subject: &Subject, found: impl Fn(&Problem) -> bool) -> Problem {
    let started = Instant::now();
    loop {
        match &problems(subject, 60)[..] {
            [one] if found(one) => return one.clone(),
            other => assert!(started.elapsed() < soon(), "{other:?}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for_samples(subject: &Subject) {
    while subject
        .snapshot()
        .peaks
        .is_none_or(|of| of.window_seconds == 0)
    {
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_full_accept_queue_is_full_since_it_was_filled() {
    let Some(netns) = place() else { return };
    let _turn = turn();
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            let listener = listen(2);
            wait_for_samples(&subject);
            let is_full = |one: &Problem| one.rule == Rule::AcceptQueueOverflow;
            let (_clients, before, after) = fill(&listener);
            // It is sampled, and seen by whoever comes later.
            thread::sleep(Duration::from_millis(500));
            let first = wait_for(&subject, |one| is_full(one) && one.since.is_some());
            let since = first.since.unwrap();
            // The tracker counts in milliseconds.
            assert!(
                since > before - 0.002 && since < after + 1.0,
                "{before} {since} {after}"
            );
            assert_eq!(first.since_before, None);
            // The sampler rests meanwhile.
            for window in [60, 1, 600] {
                thread::sleep(Duration::from_millis(1500));
                let later = problems(&subject, window);
                assert_eq!(later.len(), 1, "{later:?}");
                assert_eq!(later[0], first);
            }
            drain(&listener);
            let over = wait_for(&subject, |one| !is_full(one));
            assert_eq!(
                (over.rule, over.since),
                (Rule::AcceptQueueFilling, Some(since))
            );
            thread::sleep(GAP + Duration::from_secs(1));
            assert_eq!(problems(&subject, 1), []);
            let (_clients, before, after) = fill(&listener);
            let again = wait_for(&subject, |one| is_full(one) && one.since.is_some());
            let since = again.since.unwrap();
            assert!(
                since > before - 0.002 && since < after + 1.0,
                "{before} {since} {after}"
            );
        })
        .unwrap();
}

#[test]
fn what_is_older_than_the_tracker_has_no_beginning() {
    let Some(netns) = place() else { return };
    let _turn = turn();
    netns
        .run(|| {
            let listener = listen(2);
            let (_clients, ..) = fill(&listener);
            let before = unix();
            let subject = Subject::start_attentive();
            let found = wait_for(&subject, |one| one.since_before.is_some());
            let seen = found.since_before.unwrap();
            assert_eq!(found.since, None);
            assert!(seen > before - 0.002 && seen < unix(), "{before} {seen}");
        })
        .unwrap();
}
