//! Proof that a scenario took place: counters that the kernel keeps for each namespace.

use std::{
    fs, io, thread,
    time::{Duration, Instant},
};

use super::{LIMIT, not_shown};
use crate::context;

/// Counters of `TcpExt`, by the kernel's names.
const NETSTAT: &str = "/proc/thread-self/net/netstat";
const SOCKSTAT: &str = "/proc/thread-self/net/sockstat";

/// A counter as it was, to be compared with what it has become.
pub(super) struct Proof {
    name: &'static str,
    before: u64,
}

impl Proof {
    /// Remembers what a counter of `TcpExt` is now.
    pub(super) fn new(name: &'static str) -> io::Result<Self> {
        let before = counter(name)?;
        Ok(Self { name, before })
    }

    /// Waits until the counter has grown by at least so many.
    pub(super) fn grown_by(&self, least: u64) -> io::Result<()> {
        let wanted = self.before + least;
        wait(&format!("{} {wanted}", self.name), || {
            let now = counter(self.name)?;
            Ok((now >= wanted).then_some(()).ok_or(now))
        })
    }
}

/// Waits until the kernel's own number of minisockets is at least this.
pub(super) fn minisockets(least: u64) -> io::Result<()> {
    wait(&format!("{least} minisockets"), || {
        let now = minisockets_now()?;
        Ok((now >= least).then_some(()).ok_or(now))
    })
}

/// The kernel's own number of minisockets.
pub(super) fn minisockets_now() -> io::Result<u64> {
    let text = read(SOCKSTAT)?;
    let mut words = text
        .split_ascii_whitespace()
        .skip_while(|&word| word != "tw");
    let number = words.nth(1).and_then(|word| word.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("{SOCKSTAT}: no tw field")))
}

fn wait(what: &str, look: impl Fn() -> io::Result<Result<(), u64>>) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match look()? {
            Ok(()) => return Ok(()),
            Err(now) if start.elapsed() >= LIMIT => {
                return Err(not_shown(what, &format!("it is {now}")));
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Names and values are two lines that begin alike.
fn counter(name: &str) -> io::Result<u64> {
    let text = read(NETSTAT)?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let found = names
        .split(' ')
        .zip(values.split(' '))
        .find(|(known, _)| *known == name);
    found
        .and_then(|(_, value)| value.parse().ok())
        .ok_or_else(|| {
            let why = format!("{NETSTAT}: no counter {name}");
            io::Error::new(io::ErrorKind::NotFound, why)
        })
}

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| context(path, &error))
}
