//! Connections by cgroup in other namespaces than the tracker's, against what the kernel reports inside
//! each, and what was opened there.

use std::{
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use tcp_status::snapshot::{CgroupCounts, Cgroups, Counts as StateCounts};
use tcp_status_common::state::State;
use tcp_status_testkit::{
    cgroup::{Cgroup, Traffic},
    netns::{Netns, allow_fast_open},
    oracle::Counts,
    raise_fd_limit, soon,
};

use crate::{
    cgroups::{self, get},
    namespaces::{compare, listen, of, start},
    subject::{Subject, is_virtual, place, turn},
};

/// A host has other namespaces than those of a test, and a machine that is emulated is slow.
const PATIENCE: Duration = Duration::from_secs(20);

/// The smallest number of cgroups for which there may be room.
const ROOM: u32 = 16;

fn start_with_room() -> Subject {
    Subject::start_changed(|settings| {
        settings.all_namespaces = true;
        settings.limits.cgroups = ROOM;
    })
}

/// Runs `tcp-traffic` in a cgroup and a namespace.
fn spawn(netns: &Netns, cgroup: &Cgroup, arguments: &[&str]) -> Traffic {
    netns.run(|| cgroup.spawn(arguments)).unwrap()
}

/// As [`spawn`], and waits until the sockets are there.
fn hold(netns: &Netns, cgroup: &Cgroup, arguments: &[&str]) -> Traffic {
    let mut traffic = spawn(netns, cgroup, arguments);
    traffic.hold();
    traffic
}

/// What `tcp-traffic hold EACH` opens: full and half-open sockets, and minisockets.
fn opened(each: u64) -> [StateCounts; 2] {
    const FAMILIES: u64 = 3;
    let table = |rows: &[(State, u64)]| {
        let mut counts = StateCounts::default();
        for &(state, number) in rows {
            counts[state] = FAMILIES * number;
        }
        counts
    };
    // With the listeners of all other kinds, and the other ends of connections.
    let with_cgroup = table(&[
        (State::Listen, each + 10),
        (State::Established, 4 * each + 4),
        (State::SynSent, each),
        (State::SynRecv, each),
        (State::FinWait1, each),
        (State::FinWait2, 4 * each),
        (State::CloseWait, 3 * each),
        (State::LastAck, each),
        (State::Closing, each),
    ]);
    let minisockets = table(&[(State::FinWait2, each), (State::TimeWait, each)]);
    [with_cgroup, minisockets]
}

/// None of a namespace without sockets.
fn cgroups_of(subject: &Subject, netns: &Netns) -> Cgroups {
    let found = of(subject, netns).and_then(|found| found.cgroups);
    found.unwrap_or_default()
}

fn row(subject: &Subject, netns: &Netns, cgroup: &Cgroup) -> Option<CgroupCounts> {
    let mut rows = cgroups_of(subject, netns).tracked.into_iter();
    rows.find(|row| row.id == cgroup.id())
}

/// Where the totals or the rows of a namespace are not what the kernel lists in it, in words; nothing
/// if the listing changed meanwhile.
fn differences(subject: &Subject, netns: &Netns) -> Option<String> {
    let list = || (Counts::read().unwrap(), cgroups::listed());
    let listed = || netns.run(list).unwrap();
    let before = listed();
    let found = of(subject, netns);
    if listed() != before {
        return None;
    }
    let (totals, rows) = before;
    let Some(found) = found else {
        let is_empty = totals.total() == 0;
        return Some(if is_empty { "" } else { "not there" }.into());
    };
    let text = compare(&found, &totals);
    Some(match &found.cgroups {
        Some(found) => text + &cgroups::compare(found, &totals, &rows),
        None => format!("{text}not by cgroup: {:?}", found.cgroups_reason),
    })
}

/// Waits until totals and rows of a namespace at rest are what the kernel lists in it.
fn assert_rows(subject: &Subject, netns: &Netns) {
    let started = Instant::now();
    loop {
        let found = differences(subject, netns);
        if found.as_deref() == Some("") {
            return;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{found:?}; {:?}",
            of(subject, netns)
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// As [`assert_rows`], where nothing is but `tcp-traffic hold EACH` in this cgroup.
fn assert_opened(subject: &Subject, netns: &Netns, cgroup: &Cgroup, each: u64) {
    assert_rows(subject, netns);
    let found = cgroups_of(subject, netns);
    let [with_cgroup, minisockets] = opened(each);
    let rows: Vec<_> = found
        .tracked
        .iter()
        .map(|one| (one.id, one.states))
        .collect();
    assert_eq!(rows, [(cgroup.id(), with_cgroup)]);
    assert_eq!(found.unattributed, minisockets);
    assert_eq!(found.other.unwrap_or_default(), StateCounts::default());
}

#[test]
fn a_namespace_that_comes_later_has_rows() {
    let (Some(own), Some(first)) = (place(), Cgroup::for_test(None, "first.service")) else {
        return;
    };
    let Some(second) = Cgroup::for_test(Some(&first), "second") else {
        return;
    };
    own.run(|| {
        let subject = start();
        let later = place().unwrap();
        let early = hold(&later, &first, &["hold", "2", "7"]);
        assert_opened(&subject, &later, &first, 2);
        let late = hold(&later, &second, &["hold", "3", "8"]);
        assert_rows(&subject, &later);
        let states = [&first, &second].map(|one| row(&subject, &later, one).unwrap().states);
        assert_eq!(states, [2, 3].map(|each| opened(each)[0]));
        // Across audits and passes.
        thread::sleep(Duration::from_millis(300));
        assert_rows(&subject, &later);
        early.end();
        assert_rows(&subject, &later);
        assert_eq!(row(&subject, &later, &first), None);
        late.end();
        assert_rows(&subject, &later);
        assert_eq!(cgroups_of(&subject, &later).tracked, []);
    })
    .unwrap();
}

/// The seeding walks in it; no audit does.
#[test]
fn a_namespace_that_was_there_first_has_rows() {
    let (Some(own), Some(before)) = (place(), place()) else {
        return;
    };
    let Some(cgroup) = Cgroup::for_test(None, "before.service") else {
        return;
    };
    let traffic = hold(&before, &cgroup, &["hold", "2", "7"]);
    own.run(|| {
        let subject = Subject::start_changed(|settings| {
            settings.all_namespaces = true;
            settings.pace.interval = Duration::from_secs(3600);
        });
        assert_opened(&subject, &before, &cgroup, 2);
        traffic.end();
        assert_rows(&subject, &before);
        assert_eq!(row(&subject, &before, &cgroup), None);
    })
    .unwrap();
}

/// The process that holds the sockets is elsewhere, so that nothing can be entered.
#[test]
fn a_namespace_that_nothing_leads_into_has_rows() {
    let (Some(own), Some(before), Some(after)) = (place(), place(), place()) else {
        return;
    };
    let Some(cgroup) = Cgroup::for_test(None, "away.service") else {
        return;
    };
    let away = |netns: &Netns| hold(netns, &cgroup, &["hold", "2", "7", "away"]);
    let held_before = away(&before);
    own.run(|| {
        let subject = start();
        assert_opened(&subject, &before, &cgroup, 2);
        let held_after = away(&after);
        assert_opened(&subject, &after, &cgroup, 2);
        assert_opened(&subject, &before, &cgroup, 2);
        held_before.end();
        assert_rows(&subject, &before);
        assert_eq!(row(&subject, &before, &cgroup), None);
        assert_opened(&subject, &after, &cgroup, 2);
        held_after.end();
        assert_rows(&subject, &after);
    })
    .unwrap();
}

#[test]
fn a_cgroup_in_several_namespaces_has_a_row_in_each_and_is_asked_for_as_one() {
    let (Some(own), Some(first), Some(second)) = (place(), place(), place()) else {
        return;
    };
    let Some(cgroup) = Cgroup::for_test(None, "several.service") else {
        return;
    };
    let Some(other) = Cgroup::for_test(None, "other.service") else {
        return;
    };
    let places = [&own, &first, &second];
    own.run(|| {
        let early = hold(&first, &cgroup, &["hold", "1", "7"]);
        let subject = start();
        let here = hold(&own, &cgroup, &["hold", "2", "8"]);
        let late = hold(&second, &cgroup, &["hold", "4", "9"]);
        let not_asked_for = hold(&second, &other, &["hold", "1", "10"]);
        let check = |each: [u64; 3]| {
            for (netns, each) in places.into_iter().zip(each) {
                assert_rows(&subject, netns);
                let found = row(&subject, netns, &cgroup).map(|row| row.states);
                assert_eq!(found, (each > 0).then(|| opened(each)[0]));
            }
            for state in State::ALL {
                let opened = each.into_iter().filter(|&each| each > 0).map(opened);
                let wanted = opened.map(|[with_cgroup, _]| with_cgroup[state]).sum();
                assert_eq!(get(&subject, &cgroup.name(), state), Ok(wanted), "{state}");
            }
        };
        check([2, 1, 4]);
        here.end();
        check([0, 1, 4]);
        early.end();
        check([0, 0, 4]);
        late.end();
        check([0, 0, 0]);
        not_asked_for.end();
    })
    .unwrap();
}

#[test]
fn cgroups_that_come_and_go_in_several_namespaces_leave_nothing() {
    const CGROUPS: usize = 10;
    const AT_ONCE: usize = 4;
    let places: Option<Vec<_>> = (0..6).map(|_| place()).collect();
    let Some(places) = places else { return };
    let Some(stays) = Cgroup::for_test(None, "stays.service") else {
        return;
    };
    let (own, others) = places.split_first().unwrap();
    let _turn = turn();
    // Emulated machines are slow.
    let connections = if is_virtual() { "25" } else { "400" };
    own.run(|| {
        let subject = start();
        for netns in &places {
            netns.run(|| allow_fast_open().unwrap()).unwrap();
        }
        let held: Vec<_> = others
            .iter()
            .map(|netns| hold(netns, &stays, &["bulk", "5", "3"]))
            .collect();
        let mut running: Vec<(Cgroup, [Traffic; 2])> = Vec::new();
        let end = |(_cgroup, traffic): (Cgroup, [Traffic; 2])| {
            traffic.into_iter().for_each(Traffic::end);
        };
        for round in 0..CGROUPS {
            let Some(cgroup) = Cgroup::for_test(None, "goes.service") else {
                return;
            };
            // Of its namespaces, one it shares with the next cgroup.
            let traffic = [round, round + 1].map(|number| {
                let netns = &others[number % others.len()];
                spawn(
                    netns,
                    &cgroup,
                    &["churn", connections, "1", &round.to_string()],
                )
            });
            running.push((cgroup, traffic));
            if running.len() == AT_ONCE {
                end(running.remove(0));
            }
        }
        for one in running {
            end(one);
        }
        for netns in others {
            assert_rows(&subject, netns);
            let found = cgroups_of(&subject, netns);
            // Others may have left a socket that is still closing.
            let stayed = found.tracked.iter().find(|row| row.id == stays.id());
            let states = stayed.unwrap().states;
            let both = [State::Established, State::Listen].map(|state| states[state]);
            assert_eq!(both, [16, 2], "{found:?}");
            let counted = of(&subject, netns).unwrap().events.unwrap().counted;
            assert!(counted > 100, "{counted} events");
        }
        assert_rows(&subject, own);
        held.into_iter().for_each(Traffic::end);
        for netns in &places {
            assert_rows(&subject, netns);
        }
    })
    .unwrap();
}

/// Waits until these cgroups have rows, and all rows are right. Other namespaces of the host may have
/// taken the room that is left for a time.
fn assert_gets_rows(subject: &Subject, netns: &Netns, cgroups: &[&Cgroup]) {
    let started = Instant::now();
    while cgroups.iter().any(|one| row(subject, netns, one).is_none()) {
        let found = cgroups_of(subject, netns);
        assert!(started.elapsed() < PATIENCE, "no row: {found:?}");
        thread::sleep(Duration::from_millis(50));
    }
    assert_rows(subject, netns);
}

/// Small traffic of `count` cgroups.
fn crowd(netns: &Netns, count: u32) -> Vec<(Cgroup, Traffic)> {
    let come = |seed: u32| {
        let cgroup = Cgroup::new(None, "crowd.service").unwrap();
        let traffic = spawn(netns, &cgroup, &["hold", "1", &seed.to_string()]);
        (cgroup, traffic)
    };
    let mut crowd: Vec<_> = (0..count).map(come).collect();
    for (_, traffic) in &mut crowd {
        traffic.hold();
    }
    crowd
}

fn disperse(crowd: Vec<(Cgroup, Traffic)>) {
    for (_cgroup, traffic) in crowd {
        traffic.end();
    }
}

#[test]
fn a_cgroup_gets_a_row_when_there_is_room_again() {
    let (Some(own), Some(crowded)) = (place(), place()) else {
        return;
    };
    let Some(kept) = Cgroup::for_test(None, "kept.service") else {
        return;
    };
    let _turn = turn();
    own.run(|| {
        let subject = start_with_room();
        let kept_traffic = hold(&own, &kept, &["hold", "1", "7"]);
        assert_opened(&subject, &own, &kept, 1);
        let mut without = crowd(&crowded, ROOM + ROOM / 4);
        assert_rows(&subject, &crowded);
        // What has no row is counted by the next pass that finds the namespace at rest.
        let started = Instant::now();
        let found = loop {
            let found = cgroups_of(&subject, &crowded);
            let rows = u64::try_from(found.tracked.len()).unwrap();
            let beyond = found.other.unwrap_or_default().total();
            let all = u64::from(ROOM + ROOM / 4);
            if beyond == (all - rows) * opened(1)[0].total() || started.elapsed() > soon() {
                break found;
            }
            thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(found.limit, ROOM);
        let has_row = |(cgroup, _): &mut (Cgroup, _)| {
            let id = cgroup.id();
            found.tracked.iter().any(|row| row.id == id)
        };
        let mut with_row: Vec<_> = without.extract_if(.., has_row).collect();
        println!("{} of {ROOM} rows taken", with_row.len());
        assert!(with_row.len() < ROOM as usize, "{found:?}");
        let beyond = found.other.unwrap_or_default().total();
        let number = u64::try_from(without.len()).unwrap();
        assert_eq!(beyond, number * opened(1)[0].total());
        // A part of the room is left to the tracker's own namespace.
        assert_opened(&subject, &own, &kept, 1);
        let here = crowd(&own, 2);
        assert_gets_rows(&subject, &own, &[&kept, &here[0].0, &here[1].0]);
        disperse(here);
        assert_rows(&subject, &crowded);
        // One that had a row stays, if other namespaces of the host left any, and two that had none.
        disperse(with_row.split_off(with_row.len().min(1)));
        disperse(without.split_off(2));
        let new = crowd(&crowded, 1);
        let left: Vec<_> = [&with_row, &without, &new].into_iter().flatten().collect();
        let left: Vec<_> = left.into_iter().map(|(cgroup, _)| cgroup).collect();
        assert_gets_rows(&subject, &crowded, &left);
        let found = cgroups_of(&subject, &crowded);
        assert_eq!(found.tracked.len(), left.len());
        assert_eq!(found.other.unwrap_or_default().total(), 0);
        assert_gets_rows(&subject, &own, &[&kept]);
        [with_row, without, new].into_iter().for_each(disperse);
        assert_rows(&subject, &crowded);
        assert_eq!(cgroups_of(&subject, &crowded).tracked, []);
        kept_traffic.end();
        assert_rows(&subject, &own);
    })
    .unwrap();
}

/// An audit counts the tracker's own namespace again in another bank.
#[test]
fn audits_of_the_own_namespace_leave_the_rows_of_others_as_they_are() {
    let (Some(own), Some(at_rest), Some(busy)) = (place(), place(), place()) else {
        return;
    };
    let Some(cgroup) = Cgroup::for_test(None, "everywhere.service") else {
        return;
    };
    let _turn = turn();
    raise_fd_limit().unwrap();
    let (audits, connections) = if is_virtual() {
        (5, "50")
    } else {
        (20, "1000")
    };
    own.run(|| {
        let subject = start();
        allow_fast_open().unwrap();
        busy.run(|| allow_fast_open().unwrap()).unwrap();
        let held = hold(&at_rest, &cgroup, &["hold", "2", "7"]);
        let held_here = hold(&own, &cgroup, &["hold", "1", "8"]);
        assert_opened(&subject, &at_rest, &cgroup, 2);
        let read = || {
            let found = cgroups_of(&subject, &at_rest);
            let rows = found.tracked.into_iter().map(|row| (row.id, row.states));
            (rows.collect::<Vec<_>>(), found.other, found.unattributed)
        };
        let wanted = read();
        let churn =
            [&own, &busy].map(|netns| spawn(netns, &cgroup, &["churn", connections, "1", "9"]));
        let (before, came) = (subject.snapshot().drift.audits, Instant::now());
        let (mut readings, mut wrong) = (0, Vec::new());
        loop {
            let held = subject.snapshot().drift.audits - before;
            if held >= audits {
                break;
            }
            assert!(came.elapsed() < 2 * PATIENCE, "{held} audits");
            // An audit is held only where something happens.
            let (listener, _) = listen(0, 0);
            drop(TcpStream::connect(listener.local_addr().unwrap()));
            let found = read();
            readings += 1;
            if found != wanted {
                wrong.push(found);
            }
            thread::sleep(Duration::from_millis(2));
        }
        println!(
            "{audits} audits, {} of {readings} readings wrong",
            wrong.len()
        );
        assert!(wrong.is_empty(), "{:?}, not {wanted:?}", wrong[0]);
        churn.into_iter().for_each(Traffic::end);
        for netns in [&own, &at_rest, &busy] {
            assert_rows(&subject, netns);
        }
        held.end();
        held_here.end();
        for netns in [&own, &at_rest, &busy] {
            assert_rows(&subject, netns);
        }
    })
    .unwrap();
}

/// Some are counted first, some are gone before the tracker looks.
#[test]
fn namespaces_that_went_leave_no_row_taken() {
    const WANTED: u32 = 4;
    // More than there is room for. Emulated machines are slow.
    let went = if is_virtual() { ROOM + 2 } else { 30 };
    let (Some(own), Some(late)) = (place(), place()) else {
        return;
    };
    if Cgroup::for_test(None, "first.service").is_none() {
        return;
    }
    let _turn = turn();
    own.run(|| {
        let subject = start_with_room();
        for round in 0..went {
            let cgroup = Cgroup::new(None, "short.service").unwrap();
            let short_lived = Netns::new().unwrap();
            let traffic = hold(&short_lived, &cgroup, &["hold", "1", &round.to_string()]);
            if round % 3 == 0 {
                assert_rows(&subject, &short_lived);
            }
            traffic.end();
        }
        let held = crowd(&late, WANTED);
        let cgroups: Vec<_> = held.iter().map(|(cgroup, _)| cgroup).collect();
        assert_gets_rows(&subject, &late, &cgroups);
        disperse(held);
        assert_rows(&subject, &late);
    })
    .unwrap();
}
