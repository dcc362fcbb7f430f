//! Tasks that stall between the report of a state and the listing of the socket. Audits that are
//! held meanwhile must not take the socket for one that is not there.

use std::time::{Duration, Instant};

use tcp_status_testkit::{preemption::PreemptedTask, raise_fd_limit, seed, soon};

use crate::subject::{Subject, is_virtual, place, turn};

/// How many calls are to stall; emulated, each takes a third of a second.
fn wanted() -> u64 {
    if is_virtual() { 40 } else { 100 }
}

/// No longer than this, also where fewer have.
const LONG: Duration = Duration::from_secs(40);

#[test]
fn an_audit_does_not_correct_what_a_stalled_task_is_about_to_list() {
    let Some(netns) = place() else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            let resident = Subject::start_attentive();
            let crowd = PreemptedTask::new(seed()).unwrap();
            let started = Instant::now();
            let mut late = None;
            let stalls = crowd
                .stall(|stalls| {
                    if stalls.stalled > wanted() / 4 && late.is_none() {
                        late = Some(Subject::start_attentive());
                    }
                    stalls.stalled > wanted() || started.elapsed() > LONG
                })
                .unwrap();
            assert!(stalls.stalled > 0, "nothing has stalled: {stalls:?}");
            println!("{stalls:?} in {:?}", started.elapsed());
            for subject in [Some(resident), late].into_iter().flatten() {
                subject.assert_exact_within(2 * soon());
                let drift = subject.exact_snapshot_within(soon()).drift;
                println!("{drift:?}");
                // What stalls for longer than an audit is patient is corrected, and corrected back.
                assert!(drift.corrections <= 2 * stalls.long, "{stalls:?} {drift:?}");
            }
        })
        .unwrap();
}
