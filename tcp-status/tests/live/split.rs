//! The split of minisockets between FIN_WAIT2 and TIME_WAIT: how old it may be.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use tcp_status::track::Pace;
use tcp_status_testkit::oracle::{Counts, st};

use crate::subject::{SOON, Subject, place};

/// Audited once a minute.
fn rarely_audited() -> Subject {
    Subject::start_changed(|settings| {
        settings.pace = Pace {
            interval: Duration::from_secs(60),
            share: 0.005,
        };
        settings.split_interval = Duration::from_millis(500);
    })
}

/// The clients of connections whose other end is a minisocket in FIN_WAIT2.
fn finwait2_minisockets(count: u64) -> Vec<TcpStream> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = |_| {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        drop(listener.accept().unwrap());
        client
    };
    let clients = (0..count).map(client).collect();
    listed(st::FIN_WAIT2, count);
    clients
}

fn listed(state: usize, count: u64) {
    let found = Counts::wait_for(SOON, |counts| counts.both(state) == count).unwrap();
    found.unwrap_or_else(|last| panic!("{count} wanted in state {state}:\n{last}"));
}

#[test]
fn the_split_is_no_older_than_its_interval_however_rare_audits_are() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = rarely_audited();
            let clients = finwait2_minisockets(50);
            subject.assert_exact_within(SOON);
            drop(clients);
            listed(st::TIME_WAIT, 50);
            subject.assert_exact_within(SOON);
        })
        .unwrap();
}
