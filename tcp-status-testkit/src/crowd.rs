//! What else runs on the machine: bounds that allow for it, and turns for tests that change what all of it shares.

use std::{
    env,
    fs::{self, File},
    thread::available_parallelism,
    time::Duration,
};

use nix::unistd::Uid;

/// How soon after coming to rest a small host with a processor to spare must be exact.
const SOON: Duration = Duration::from_secs(2);

/// How soon after coming to rest a small host must be exact: 2 s, and where more tasks want to run than there are
/// processors, as many times longer as each task waits for one, but no longer than 6 s.
#[must_use]
pub fn soon() -> Duration {
    SOON.mul_f64(tasks_per_processor().clamp(1.0, 3.0))
}

/// Of the last minute; 0 if the kernel does not tell.
fn tasks_per_processor() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Option<f64> = text.split(' ').next().and_then(|load| load.parse().ok());
    let processors = available_parallelism().map_or(1, usize::from);
    load.unwrap_or(0.0) / f64::from(u32::try_from(processors).unwrap_or(u32::MAX))
}

/// Waits until no other test of this machine, in any process, has a turn. The turn lasts as long as the value.
///
/// # Panics
/// If the file for it cannot be made.
#[must_use]
pub fn turn_of_the_machine() -> File {
    // Each user has a file of their own.
    let path = env::temp_dir().join(format!("tcp-status-tests-{}.lock", Uid::current()));
    let open = File::options().create(true).append(true).open(&path);
    let file = open.unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
    file.lock()
        .unwrap_or_else(|error| panic!("cannot lock {}: {error}", path.display()));
    file
}
