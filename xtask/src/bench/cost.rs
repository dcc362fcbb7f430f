//! What something cost: wall time, CPU time, peak memory, of one process or of work in a loop.
//! Does not know what is measured.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

use crate::files;

/// The cost of one turn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Says little on a busy machine.
    pub(crate) wall: Duration,
    /// Of all processes that took part, in user and kernel mode.
    pub(crate) cpu: Duration,
    /// Largest resident memory of one process, in KiB, where a process was started.
    pub(crate) peak: Option<u64>,
}

/// Runs a command to its end, with its output thrown away; `others` are processes that work
/// for it, whose CPU time belongs to its cost.
pub(crate) fn process(command: &mut Command, others: &[u32]) -> Result<Cost> {
    let before = cpu_of(others)?;
    let start = Instant::now();
    let (stdin, stdout) = (Stdio::null(), Stdio::null());
    let child = command
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::null())
        .spawn();
    let pid = Pid::from_raw(
        child
            .with_context(|| format!("cannot start {command:?}"))?
            .id()
            .try_into()?,
    );
    let mut status = 0;
    // SAFETY: plain numbers, for which zeros are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call.
    let waited = unsafe { libc::wait4(pid.as_raw(), &raw mut status, 0, &raw mut usage) };
    ensure!(waited == pid.as_raw(), "cannot wait for process {pid}");
    let wall = start.elapsed();
    let status = ExitStatus::from_raw(status);
    ensure!(status.success(), "{command:?} failed ({status})");
    let duration = |time: libc::timeval| {
        Duration::from_micros((time.tv_sec * 1_000_000 + time.tv_usec).unsigned_abs())
    };
    // Of it, and of the children that it waited for.
    let own = duration(usage.ru_utime) + duration(usage.ru_stime);
    Ok(Cost {
        wall,
        cpu: own + (cpu_of(others)? - before),
        peak: Some(usage.ru_maxrss.try_into()?),
    })
}

/// Does `work` in this thread, as often as requested; the cost of one turn. The CPU time is that of
/// this thread and of the processes `others`.
pub(crate) fn turns(
    count: u32,
    others: &[u32],
    mut work: impl FnMut() -> Result<()>,
) -> Result<Cost> {
    let before = cpu_of_thread()? + cpu_of(others)?;
    let start = Instant::now();
    for _ in 0..count {
        work()?;
    }
    Ok(Cost {
        wall: start.elapsed() / count,
        cpu: (cpu_of_thread()? + cpu_of(others)? - before) / count,
        peak: None,
    })
}

/// CPU time of the calling thread so far.
fn cpu_of_thread() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// CPU time of processes so far, threads that have ended included.
pub(crate) fn cpu_of(pids: &[u32]) -> Result<Duration> {
    pids.iter()
        .map(|&pid| {
            let clock = clock_getcpuclockid(Pid::from_raw(pid.try_into()?))?;
            Ok(Duration::from(clock_gettime(clock)?))
        })
        .sum()
}

/// A figure of `/proc/PID/status`, as in `VmHWM`, without its unit.
pub(crate) fn status(pid: u32, name: &str) -> Result<u64> {
    figure(&Path::new("/proc").join(pid.to_string()), name)
}

/// How often the threads of a process have been switched to, or rather from.
pub(crate) fn wakeups(pid: u32) -> Result<u64> {
    let tasks = files::list(format!("/proc/{pid}/task"))?;
    tasks
        .iter()
        .map(|task| figure(task, "voluntary_ctxt_switches"))
        .sum()
}

fn figure(folder: &Path, name: &str) -> Result<u64> {
    let path = folder.join("status");
    let text = files::read_text(&path)?;
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{} has no {name}", path.display()))
}

/// Of several rounds: the middle, and the smallest and largest around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// None without a round.
    pub(crate) fn of(rounds: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut rounds: Vec<_> = rounds.into_iter().collect();
        rounds.sort_by(f64::total_cmp);
        let (low, high) = (*rounds.first()?, *rounds.last()?);
        let middles = [(rounds.len() - 1) / 2, rounds.len() / 2].map(|index| rounds[index]);
        let median = f64::midpoint(middles[0], middles[1]);
        Some(Self { median, low, high })
    }

    /// In microseconds.
    pub(crate) fn micros(costs: &[Cost], of: impl Fn(&Cost) -> Duration) -> Result<Self> {
        let micros = costs.iter().map(|cost| 1e6 * of(cost).as_secs_f64());
        Self::of(micros).context("no round")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_what_there_was() {
        assert_eq!(Spread::of([]), None);
        let spread = Spread::of([3.0, 1.0, 10.0]).unwrap();
        assert_eq!((spread.low, spread.median, spread.high), (1.0, 3.0, 10.0));
        assert_eq!(Spread::of([4.0, 1.0]).unwrap().median, 2.5);
    }

    #[test]
    fn a_process_costs_what_its_children_do() {
        let spin = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
        let mut command = Command::new("sh");
        let cost = process(command.args(["-c", &format!("sh -c '{spin}'; true")]), &[]).unwrap();
        assert!(cost.cpu > Duration::from_millis(1), "{cost:?}");
        assert!(cost.peak.unwrap() > 100);
        assert!(process(&mut Command::new("false"), &[]).is_err());
    }

    #[test]
    fn own_status_is_read() {
        let own = std::process::id();
        // Not compared: other tests allocate between the two readings.
        assert!(status(own, "VmHWM").unwrap() > 0 && status(own, "VmRSS").unwrap() > 0);
        assert!(wakeups(own).unwrap() > 0);
        assert!(status(own, "VmNothing").is_err());
    }
}
