//! The history by minute, against the kernel's listing at the time.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tcp_status::{
    serve::{
        Source as _,
        protocol::{History, Show},
    },
    snapshot::minutes,
};
use tcp_status_common::state::State;
use tcp_status_testkit::oracle::{Counts, st};

use crate::subject::{Subject, place, turn};

/// Some samples, and a sampler that rests at the end of them.
const REST: Duration = Duration::from_secs(4);

pub fn unix() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

fn history(subject: &Subject) -> minutes::History {
    let all = subject.tracker.history(&History::default()).unwrap();
    assert!((all.now - unix()).abs() < 1.0, "{}", all.now);
    all
}

fn covered(history: &minutes::History) -> f64 {
    history.minutes.iter().map(|minute| minute.seconds).sum()
}

#[test]
fn held_sockets_are_the_peak_and_a_rest_keeps_its_value() {
    let Some(netns) = place() else { return };
    let _turn = turn();
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            // What comes before the first sample is in no rate.
            while history(&subject).minutes.is_empty() {
                thread::sleep(Duration::from_millis(10));
            }
            let began = unix();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            let connect = || TcpStream::connect(address).unwrap();
            let clients: Vec<_> = (0..30).map(|_| connect()).collect();
            thread::sleep(REST);
            let waiting = history(&subject);
            let last = waiting.minutes.last().unwrap();
            // Nothing accepts yet.
            let queue = last.fullest_accept_queue.unwrap();
            assert_eq!((queue.port, queue.length), (address.port(), 30));
            assert_eq!(last.accept_queues.unwrap().max, 30);

            let servers: Vec<_> = (0..30).map(|_| listener.accept().unwrap().0).collect();
            let listed = Counts::read().unwrap().both(st::ESTABLISHED);
            thread::sleep(REST);
            let held = unix();
            drop((clients, servers));
            let gone = unix();
            thread::sleep(REST);
            let after = Counts::read().unwrap().both(st::ESTABLISHED);
            let all = history(&subject);
            assert_eq!((listed, after), (60, 0));

            let peak = all.peaks["established"];
            assert_eq!(peak.max, listed);
            assert!(
                (began..held).contains(&peak.at),
                "{peak:?}, {began} to {held}"
            );
            assert_eq!(all.peaks["listen"].max, 1);
            let of = |minute: &minutes::Minute| minute.states["established"];
            assert_eq!(all.minutes.iter().map(|one| of(one).min).min(), Some(0));
            // The sum over time: 60 sockets for as long as they were held.
            let weigh = |minute: &minutes::Minute| of(minute).mean * minute.seconds;
            let sum: f64 = all.minutes.iter().map(weigh).sum();
            let expected = 60.0 * (gone - began);
            assert!((sum / expected - 1.0).abs() < 0.15, "{sum} of {expected}");
            let in_state = subject.snapshot().state_seconds.unwrap();
            let in_state = in_state[State::Established];
            assert!(
                (in_state / expected - 1.0).abs() < 0.15,
                "{in_state} of {expected}"
            );
            let opened = all
                .minutes
                .iter()
                .filter_map(|one| one.rates.get("passive_open"));
            let fastest = opened.map(|rate| rate.max).fold(0.0, f64::max);
            assert!((10.0..=30.5).contains(&fastest), "{fastest}");

            // All of the time is covered, that of the rest too.
            let missing = all.now - began - covered(&all);
            assert!(missing < 0.1, "{missing}: {all:?}");
            let before = covered(&all);
            thread::sleep(REST);
            let rested = history(&subject);
            let more = covered(&rested) - before;
            let expected = rested.now - all.now;
            assert!((more - expected).abs() < 0.5, "{more} of {expected}");
            // One listener for all of that time.
            let listening = |all: &minutes::History| -> f64 {
                let weigh = |one: &minutes::Minute| one.states["listen"].mean * one.seconds;
                all.minutes.iter().map(weigh).sum()
            };
            let held = listening(&rested) - listening(&all);
            assert!((held - more).abs() < 0.1, "{held} of {more}");

            let show = Show {
                window: Some(7200),
                ..Show::default()
            };
            let peaks = subject
                .tracker
                .show(&show)
                .unwrap()
                .remove(0)
                .peaks
                .unwrap();
            assert_eq!(peaks.max[State::Established], listed);
            assert_eq!(peaks.min[State::Established], 0);
            let ago = peaks.max_seconds_ago[State::Established];
            let since = unix() - gone;
            #[expect(clippy::cast_precision_loss, reason = "seconds")]
            let ago = ago as f64;
            assert!(
                (since - 1.5..since + 4.5).contains(&ago),
                "{ago} of {since}"
            );
        })
        .unwrap();
}
