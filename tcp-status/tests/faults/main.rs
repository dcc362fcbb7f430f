//! The real binary where something fails: killed at any moment, without memory, files, room,
//! `/proc` or a system call. Afterwards there is a clear message or a full recovery, nothing is
//! left in the kernel, and the counts are right. What was seen stands in `docs/dev/faults.md`.

mod audits;
mod calls;
mod clock;
mod kernel;
mod kill;
mod limits;
mod many_namespaces;
mod namespaces;
mod neighbours;
mod socket_paths;
mod tracker;
mod waiting;

use std::sync::{Mutex, MutexGuard, PoisonError};

use tcp_status_testkit::{netns::Netns, oracle::Counts, raise_fd_limit, skip_unprepared};

/// One tracker after the other: what one leaves in the kernel must not be taken for another's.
static TURN: Mutex<()> = Mutex::new(());

/// One test's turn.
type Turn = MutexGuard<'static, ()>;

/// Where a test runs, if this process may load eBPF; else it says why not.
fn place() -> Option<(Netns, Turn)> {
    let netns = Netns::for_test()?;
    raise_fd_limit().unwrap();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let refused = tracker::Refused::of(&["run", "--backend", "ebpf", "--netns", "nonsense"]);
    assert_eq!(
        refused.status, 2,
        "bad usage is told before anything starts"
    );
    match netns.run(tracker::Tracker::possible).unwrap() {
        Ok(()) => Some((netns, turn)),
        Err(why) => {
            skip_unprepared(&why);
            None
        }
    }
}

/// The listing of the calling thread's namespace.
fn listed() -> Counts {
    Counts::read().unwrap()
}
