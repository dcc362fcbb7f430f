//! What the tracker itself takes of the host, by the names that every Prometheus client has.

use std::{
    fmt, fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use prometheus_client::registry::Unit;

use super::{MetricWriter, NO_NETNS};

/// When the process began to serve; seeding, which comes before, takes less than a second.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve::http) struct StartTime(SystemTime);

impl StartTime {
    pub(in crate::serve::http) fn now() -> Self {
        Self(SystemTime::now())
    }
}

pub(super) fn write(writer: &mut MetricWriter<'_>, started: StartTime) -> fmt::Result {
    writer.counters(
        ("process_cpu", Some(Unit::Seconds)),
        "User and system CPU time of the tracker.",
        cpu().map(|time| (NO_NETNS, [], time.as_secs_f64())),
    )?;
    writer.gauges(
        ("process_resident_memory", Some(Unit::Bytes)),
        "Resident memory of the tracker; what it holds in the kernel is not part of it.",
        resident().map(|bytes| (NO_NETNS, [], bytes)),
    )?;
    let since = started.0.duration_since(UNIX_EPOCH).ok();
    writer.gauges(
        ("process_start_time", Some(Unit::Seconds)),
        "When the tracker was started, since the epoch.",
        since.map(|since| (NO_NETNS, [], since.as_secs_f64())),
    )
}

fn cpu() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    Some(duration(usage.user_time())? + duration(usage.system_time())?)
}

fn duration(time: TimeVal) -> Option<Duration> {
    let seconds = time.tv_sec().try_into().ok()?;
    let microseconds: u64 = time.tv_usec().try_into().ok()?;
    Some(Duration::from_secs(seconds) + Duration::from_micros(microseconds))
}

fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{cpu, resident};

    #[test]
    fn the_kernel_tells_both() {
        let resident = resident().unwrap();
        assert!((1 << 20..1 << 32).contains(&resident), "{resident}");
        let before = cpu().unwrap();
        while cpu().unwrap() < before + Duration::from_millis(2) {}
    }
}
