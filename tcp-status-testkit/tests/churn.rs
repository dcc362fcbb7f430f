//! Churn ends when it should, fails nowhere, and leaves nothing behind but TIME_WAIT.

use std::{thread, time::Duration};

use tcp_status_testkit::{
    Family,
    churn::{CONTRARY, Churn, Ctx, SCENARIOS},
    netns::{Netns, allow_fast_open},
    oracle::{Counts, Table, st},
    raise_fd_limit, seed,
};

/// Request sockets of a closed listener go when their timers fire: after 1 s, or 3 s.
const AT_REST: Duration = Duration::from_secs(10);

fn assert_only_time_wait(what: &str) {
    let rest = |counts: &Counts| counts.total() == counts.both(st::TIME_WAIT);
    if let Err(last) = Counts::wait_for(AT_REST, rest).unwrap() {
        panic!("{what}: more than TIME_WAIT is left\n{last}");
    }
}

#[test]
fn thousands_of_connections_leave_only_time_wait() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    raise_fd_limit().unwrap();
    let churn = Churn {
        workers: 3,
        connections: Some(8_000),
        duration: None,
        seed: seed(),
    };
    netns
        .run(|| {
            allow_fast_open().unwrap();
            let report = churn.run().unwrap();
            println!("{report}");
            assert_eq!(report.failures(), 0);
            assert!(report.connections() >= 8_000);
            assert!(report.scenario_totals.iter().all(|totals| totals.runs > 0));
            assert_only_time_wait("churn");
        })
        .unwrap();
}

#[test]
fn each_scenario_by_itself_leaves_only_time_wait() {
    let seed = seed();
    let Some(netns) = Netns::for_test() else {
        return;
    };
    for (name, scenario) in SCENARIOS.iter().chain(CONTRARY) {
        for family in Family::ALL {
            netns
                .run(|| {
                    let mut ctx = Ctx::new(seed, Some(family)).unwrap();
                    for _ in 0..10 {
                        scenario(&mut ctx).unwrap_or_else(|e| panic!("{name}, {family}: {e}"));
                    }
                    assert!(ctx.connections() >= 10, "{name}");
                })
                .unwrap();
        }
    }
    netns.run(|| assert_only_time_wait("battery")).unwrap();
}

#[test]
fn both_listings_are_used() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    netns
        .run(|| {
            for (family, tables) in [
                (Family::V4, [true, false]),
                (Family::V6, [false, true]),
                (Family::Mapped, [true, true]),
            ] {
                let before = Counts::read().unwrap();
                let mut ctx = Ctx::new(seed(), Some(family)).unwrap();
                for _ in 0..20 {
                    SCENARIOS[0].1(&mut ctx).unwrap();
                }
                drop(ctx);
                assert_only_time_wait("client_first");
                let after = Counts::read().unwrap();
                let grew = Table::ALL.map(|table| {
                    after.get(table, st::TIME_WAIT) > before.get(table, st::TIME_WAIT)
                });
                assert_eq!(grew, tables, "{family}");
            }
        })
        .unwrap();
}

#[test]
fn stops_when_told_and_after_its_time() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    let mut churn = Churn {
        workers: 2,
        connections: None,
        duration: None,
        seed: seed(),
    };
    netns
        .run(|| {
            let running = churn.start().unwrap();
            while running.connections() < 100 {
                thread::sleep(Duration::from_millis(5));
            }
            assert!(running.stop().unwrap().connections() >= 100);

            churn.duration = Some(Duration::from_millis(200));
            let report = churn.run().unwrap();
            assert!(report.elapsed >= Duration::from_millis(200));
            assert!(report.elapsed < Duration::from_secs(5));

            churn.duration = None;
            drop(churn.start().unwrap());
            assert_only_time_wait("dropped churn");
        })
        .unwrap();
}
