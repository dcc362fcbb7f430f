//! Real TCP sockets in every state, on a live kernel, and the kernel's own listing of them.
//!
//! Owns what tests and the virtual machines need to make traffic and to judge counts:
//! [`oracle`] reads the listing, [`netns`] gives a test its own network namespace, [`held_sockets`]
//! holds every state at once, [`churn`] opens and closes in all orders, [`battery`] brings about
//! what hosts do rarely, one by one, [`bulk`] holds very many connections, [`cgroup`] puts traffic
//! into a cgroup, [`raw_peer`] begins connections without answering, [`preemption`] has tasks stall
//! half-way. Knows nothing of the tracker, and depends on none of its crates: what judges must not share
//! code with what is judged.

pub mod battery;
pub mod bulk;
pub mod cgroup;
pub mod churn;
mod crowd;
mod endpoints;
pub mod held_sockets;
mod kernel_listing;
pub mod netns;
pub mod oracle;
pub mod preemption;
pub mod raw_peer;
mod sys;

pub use crowd::{soon, turn_of_the_machine};
pub use endpoints::Family;
pub use sys::{has_syn_data, raise_fd_limit, take_fast_open};

use std::{
    env,
    io::{self, Write},
};

/// Allows tests to skip themselves where a prerequisite is missing; `cargo xtask test` sets it and counts
/// the skips.
const ALLOW_SKIPS: &str = "TCP_STATUS_ALLOW_SKIPS";

/// Reports that a test does not apply here, which its caller has proven: the kernel lacks what it exercises.
/// Not by `println!`, which the test harness hides when a test passes.
pub fn skip(reason: &str) {
    // The harness may have begun a line. A closed stdout leaves no reader.
    let _ = writeln!(io::stdout(), "\nSKIPPED: {reason}");
}

/// Skips a test for which a privilege or a program is missing, where skips are allowed.
///
/// # Panics
/// Unless `TCP_STATUS_ALLOW_SKIPS` is set: a run that shows nothing must not pass.
pub fn skip_unprepared(reason: &str) {
    assert!(
        env::var_os(ALLOW_SKIPS).is_some(),
        "cannot run this test: {reason}; set {ALLOW_SKIPS}=1 to skip such tests"
    );
    skip(reason);
}

/// Whether the environment asks for as much as CI does: minutes instead of seconds, thousands of network
/// namespaces instead of hundreds.
#[must_use]
pub fn long_tests() -> bool {
    env::var_os("TCP_STATUS_LONG_TESTS").is_some()
}

/// The seed of a test: the environment variable `TCP_STATUS_SEED`, or else drawn by chance.
/// Printed, so that the harness shows it when the test fails.
#[must_use]
pub fn seed() -> u64 {
    let given = env::var("TCP_STATUS_SEED").ok();
    let seed = given
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("seed {seed}: set TCP_STATUS_SEED to it for the same numbers again");
    seed
}

/// The same error, with what was being done in front; the kind is kept.
fn context(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
