//! Connections by cgroup, against the kernel's own: sock_diag reports the cgroup of every full socket.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use tcp_status::{
    kernel::sock_diag::{self, Entry},
    serve::{
        Source as _,
        protocol::{Get, Show},
    },
    snapshot::{Cgroups, Counts as StateCounts},
};
use tcp_status_common::state::State;
use tcp_status_testkit::{
    cgroup::{Cgroup, Traffic},
    oracle::Counts,
    soon,
};

use crate::subject::{Subject, place, turn};

/// What the kernel reports by cgroup: full sockets by their own, half-open connections by their
/// listener's.
pub fn listed() -> BTreeMap<u64, StateCounts> {
    let entries = sock_diag::sockets(&State::ALL, None, |all: &mut Vec<Entry>, one| all.push(one));
    let entries = entries.unwrap();
    let is_listener = |one: &&Entry| one.state == State::Listen;
    let listeners: BTreeMap<(u16, IpAddr), u64> = entries
        .iter()
        .filter(is_listener)
        .map(|one| ((one.port, one.address), one.cgroup.unwrap()))
        .collect();
    let wildcards = [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Ipv6Addr::UNSPECIFIED.into(),
    ];
    let listener_of = |one: &Entry| {
        let mut addresses = [one.address].into_iter().chain(wildcards);
        addresses.find_map(|address| listeners.get(&(one.port, address)))
    };
    let mut rows = BTreeMap::<u64, StateCounts>::new();
    for one in &entries {
        let is_half_open = one.state == State::SynRecv;
        let listener = is_half_open.then(|| listener_of(one)).flatten();
        if let Some(id) = one.cgroup.or(listener.copied()) {
            rows.entry(id).or_default()[one.state] += 1;
        }
    }
    rows
}

fn cgroups(subject: &Subject) -> Cgroups {
    let snapshot = subject.snapshot();
    snapshot.cgroups.expect("counted by cgroup")
}

/// Where rows are not what sock_diag reports, or rows, `other` and `unattributed` do not add up to the
/// listing of the namespace, in words.
pub fn compare(found: &Cgroups, listing: &Counts, kernel: &BTreeMap<u64, StateCounts>) -> String {
    let mut text = String::new();
    let mut sum = found.unattributed;
    let mut beyond = StateCounts::default();
    for (id, states) in kernel {
        match found.tracked.iter().find(|row| row.id == *id) {
            Some(row) if row.states == *states => {}
            Some(row) => text += &format!("{row:?}, listed {states:?}; "),
            None => beyond += states,
        }
    }
    for row in &found.tracked {
        if !kernel.contains_key(&row.id) {
            text += &format!("{row:?} is not listed; ");
        }
        sum += &row.states;
    }
    if found.other.unwrap_or_default() != beyond {
        text += &format!("other {:?}, listed {beyond:?}; ", found.other);
    }
    sum += &beyond;
    for state in State::ALL {
        let kernel = listing.both(usize::from(state.number()));
        if sum[state] != kernel {
            text += &format!("sum of {state} {}, listed {kernel}; ", sum[state]);
        }
    }
    text
}

/// As [`compare`], in the tracker's namespace; nothing if the listing changed meanwhile.
fn differences(subject: &Subject) -> Option<String> {
    let (before, kernel) = (Counts::read().unwrap(), listed());
    let found = cgroups(subject);
    let is_at_rest = Counts::read().unwrap() == before && listed() == kernel;
    is_at_rest.then(|| compare(&found, &before, &kernel))
}

fn assert_exact(subject: &Subject) {
    let started = Instant::now();
    let mut at_rest_since = None;
    loop {
        let found = differences(subject);
        match found.as_deref() {
            Some("") => return,
            Some(text) => {
                let since = *at_rest_since.get_or_insert_with(Instant::now);
                assert!(since.elapsed() < soon(), "{text}");
            }
            None => at_rest_since = None,
        }
        assert!(started.elapsed() < Duration::from_secs(60), "never at rest");
        thread::sleep(Duration::from_millis(50));
    }
}

pub fn get(subject: &Subject, cgroup: &str, state: State) -> Result<u64, String> {
    let query = Get {
        state: state.name().into(),
        port: None,
        family: None,
        netns: None,
        cgroup: Some(cgroup.into()),
    };
    subject.tracker.get(&query).map_err(|error| error.message)
}

#[test]
fn rows_are_what_the_kernel_reports_and_add_up_to_the_totals() {
    let (Some(netns), Some(cgroup)) = (place(), Cgroup::for_test(None, "a.service")) else {
        return;
    };
    let Some(below) = Cgroup::for_test(Some(&cgroup), "below") else {
        return;
    };
    netns
        .run(|| {
            // Sockets from before the seeding, and after.
            let mut early = cgroup.spawn(&["hold", "2", "7"]);
            early.hold();
            let subject = Subject::start_attentive();
            assert_exact(&subject);
            let mut late = below.spawn(&["hold", "3", "8"]);
            late.hold();
            assert_exact(&subject);
            // Reading the hierarchy takes a part of the time: a slow machine reads it rarely.
            let came = Instant::now();
            let rows = loop {
                let rows = cgroups(&subject).tracked;
                if rows.iter().all(|row| row.name.path.is_some()) {
                    break rows;
                }
                assert!(came.elapsed() < 20 * soon(), "without a name: {rows:?}");
                thread::sleep(Duration::from_millis(50));
            };
            let row = |id| rows.iter().find(|row| row.id == id).unwrap();
            let name = &row(below.id()).name;
            assert_eq!(name.unit.as_ref(), Some(&cgroup.name()));
            assert!(name.path.as_ref().unwrap().ends_with(&below.name()));
            let states = [&cgroup, &below].map(|one| row(one.id()).states);
            assert!(states[0][State::SynRecv] > 0, "{states:?}");
            for state in State::ALL {
                let both = states[0][state] + states[1][state];
                assert_eq!(get(&subject, &cgroup.name(), state), Ok(both), "{state}");
                let path = name.path.as_ref().unwrap();
                assert_eq!(get(&subject, path, state), Ok(states[1][state]), "{state}");
            }
            assert_eq!(get(&subject, "/", State::TimeWait), Ok(0));
            let unknown = get(&subject, "no.service", State::Listen).unwrap_err();
            assert!(unknown.contains("no.service"), "{unknown}");
            // Across audits.
            thread::sleep(Duration::from_millis(300));
            assert_exact(&subject);
            early.end();
            late.end();
            assert_exact(&subject);
        })
        .unwrap();
}

#[test]
fn listeners_have_the_unit_of_their_own_cgroup() {
    let (Some(netns), Some(a), Some(b)) = (
        place(),
        Cgroup::for_test(None, "a.service"),
        Cgroup::for_test(None, "b.service"),
    ) else {
        return;
    };
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            let mut traffic = [&a, &b].map(|one| one.spawn(&["bulk", "2", "1"]));
            traffic.iter_mut().for_each(Traffic::hold);
            let units = BTreeMap::from([&a, &b].map(|one| (Some(one.id()), one.name())));
            let add = |all: &mut Vec<Entry>, one| all.push(one);
            let listening = sock_diag::sockets(&[State::Listen], None, add).unwrap();
            let key = |address, port| (port, address);
            let kernel: BTreeMap<_, _> = listening
                .iter()
                .map(|one| (key(one.address, one.port), units.get(&one.cgroup).cloned()))
                .collect();
            assert_eq!(kernel.len(), 4);
            let found = |query: &Show| {
                let snapshot = subject.tracker.show(query).unwrap().remove(0);
                let found = snapshot.listeners.into_iter();
                found
                    .map(|one| (key(one.address, one.port), one.unit))
                    .collect::<BTreeMap<_, _>>()
            };
            let came = Instant::now();
            while found(&Show::default()) != kernel {
                assert!(came.elapsed() < 20 * soon(), "not {kernel:?}");
                thread::sleep(Duration::from_millis(50));
            }
            for (&(port, address), unit) in &kernel {
                let query = Show {
                    port: Some(port),
                    ..Show::default()
                };
                assert_eq!(found(&query).get(&(port, address)), Some(unit));
            }
            traffic.into_iter().for_each(Traffic::end);
        })
        .unwrap();
}

#[test]
fn a_removed_cgroup_keeps_its_name_while_it_has_sockets() {
    let (Some(netns), Some(cgroup)) = (place(), Cgroup::for_test(None, "gone.service")) else {
        return;
    };
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            let (id, name) = (cgroup.id(), cgroup.name());
            let mut traffic = cgroup.spawn(&["hold", "1", "9"]);
            traffic.hold();
            let row = || {
                let mut rows = cgroups(&subject).tracked.into_iter();
                rows.find(|row| row.id == id)
            };
            let was = row().unwrap();
            assert_eq!(was.name.unit.as_ref(), Some(&name));
            // The process leaves it; its sockets stay what they are.
            traffic.leave();
            drop(cgroup);
            for _ in 0..3 {
                thread::sleep(Duration::from_millis(200));
                assert_eq!(row().as_ref(), Some(&was));
            }
            assert_exact(&subject);
            traffic.end();
            assert_exact(&subject);
        })
        .unwrap();
}

#[test]
fn cgroups_that_come_and_go_under_churn_leave_nothing() {
    // Emulated machines are slow.
    let is_emulated = std::env::var_os("TCP_STATUS_OWN_MACHINE").is_some();
    churn(256, 50, if is_emulated { "100" } else { "2000" });
}

#[test]
fn cgroups_beyond_the_limit_are_counted_together() {
    churn(4, 12, "300");
}

/// Traffic in `count` cgroups one after the other, a few at a time, while audits go on.
fn churn(limit: u32, count: usize, connections: &str) {
    const AT_ONCE: usize = 6;
    let Some(netns) = place() else { return };
    let _turn = turn();
    netns
        .run(|| {
            tcp_status_testkit::netns::allow_fast_open().unwrap();
            let subject = Subject::start_changed(|settings| settings.limits.cgroups = limit);
            let mut running: Vec<(Cgroup, Traffic)> = Vec::new();
            for round in 0..count {
                let Some(cgroup) = Cgroup::for_test(None, "churn.service") else {
                    return;
                };
                let seed = round.to_string();
                // Some stay, so that there are more than the limit at rest.
                let traffic = match round % AT_ONCE {
                    0 => cgroup.spawn(&["bulk", "20", "10"]),
                    _ => cgroup.spawn(&["churn", connections, "2", &seed]),
                };
                running.push((cgroup, traffic));
                if running.len() == AT_ONCE {
                    let (_cgroup, traffic) = running.remove(0);
                    traffic.end();
                }
            }
            for (_cgroup, traffic) in running {
                traffic.end();
            }
            let mut rest = Vec::new();
            for _ in 0..AT_ONCE {
                let Some(cgroup) = Cgroup::for_test(None, "rest.service") else {
                    return;
                };
                let mut traffic = cgroup.spawn(&["bulk", "5", "3"]);
                traffic.hold();
                rest.push((cgroup, traffic));
            }
            assert_exact(&subject);
            let found = cgroups(&subject);
            let has_other = found.other.is_some_and(|other| other.total() > 0);
            assert_eq!(has_other, (limit as usize) < AT_ONCE, "{found:?}");
            for (_cgroup, traffic) in rest {
                traffic.end();
            }
            assert_exact(&subject);
        })
        .unwrap();
}
