//! The oracle: what the kernel lists in `/proc/net/tcp` and `/proc/net/tcp6`, counted.
//! Slow, simple, and independent of the tracker.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, BufRead, BufReader},
    ops::{Add, AddAssign},
    thread,
    time::{Duration, Instant},
};

use crate::context;

/// Numbers of the `st` column, from `include/net/tcp_states.h`.
pub mod st {
    /// Open.
    pub const ESTABLISHED: usize = 1;
    /// Active open.
    pub const SYN_SENT: usize = 2;
    /// Half-open; request sockets (`0C`) are counted here.
    pub const SYN_RECV: usize = 3;
    /// Closed by us, not acknowledged.
    pub const FIN_WAIT1: usize = 4;
    /// Closed by us and acknowledged.
    pub const FIN_WAIT2: usize = 5;
    /// Closed by both.
    pub const TIME_WAIT: usize = 6;
    /// Closed.
    pub const CLOSE: usize = 7;
    /// Closed by the peer.
    pub const CLOSE_WAIT: usize = 8;
    /// Closed by the peer, then by us.
    pub const LAST_ACK: usize = 9;
    /// Listening.
    pub const LISTEN: usize = 10;
    /// Closed by both at once.
    pub const CLOSING: usize = 11;
}

/// How the kernel lists request sockets (`TCP_NEW_SYN_RECV`) before it shows them as SYN_RECV.
const NEW_SYN_RECV: usize = 12;

/// Names of the states, by number; 0 is unused.
pub const NAMES: [&str; 12] = [
    "",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
];

/// One of the two listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// `/proc/net/tcp`: sockets of family `AF_INET`.
    Tcp = 0,
    /// `/proc/net/tcp6`: sockets of family `AF_INET6`, v4-mapped addresses included.
    Tcp6 = 1,
}

impl Table {
    /// Both listings.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Tcp6];

    /// The listing of the calling thread's network namespace, which can differ from that of
    /// the process.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Tcp => "/proc/thread-self/net/tcp",
            Self::Tcp6 => "/proc/thread-self/net/tcp6",
        }
    }
}

/// Counts by listing and state: `[table][st]`, `st` from 1 to 11 as in [`st`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub [[u64; 12]; 2]);

impl Counts {
    /// Reads both listings of the calling thread's network namespace.
    ///
    /// # Errors
    /// When `/proc` cannot be read, or a line is not as expected.
    pub fn read() -> io::Result<Self> {
        let mut counts = Self::default();
        for_each_line(|table, st, _port| counts.0[table as usize][st] += 1)?;
        Ok(counts)
    }

    /// As [`Counts::read`], but only sockets with one local port.
    ///
    /// # Errors
    /// As [`Counts::read`].
    pub fn read_port(wanted: u16) -> io::Result<Self> {
        let mut counts = Self::default();
        for_each_line(|table, st, port| {
            if port == wanted {
                counts.0[table as usize][st] += 1;
            }
        })?;
        Ok(counts)
    }

    /// As [`Counts::read`], apart for each local port.
    ///
    /// # Errors
    /// As [`Counts::read`].
    pub fn read_by_port() -> io::Result<BTreeMap<u16, Self>> {
        let mut ports = BTreeMap::<u16, Self>::new();
        for_each_line(|table, st, port| {
            ports.entry(port).or_default().0[table as usize][st] += 1;
        })?;
        Ok(ports)
    }

    /// One state in one listing.
    #[must_use]
    pub const fn get(&self, table: Table, st: usize) -> u64 {
        self.0[table as usize][st]
    }

    /// One state in both listings.
    #[must_use]
    pub const fn both(&self, st: usize) -> u64 {
        self.0[0][st] + self.0[1][st]
    }

    /// Everything that is listed.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().flatten().sum()
    }

    /// Reads the listing until `done` accepts it or the time is up.
    ///
    /// # Errors
    /// As [`Counts::read`]; the last reading, as the inner error, when the time is up.
    pub fn wait_for(
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> io::Result<Result<Self, Self>> {
        let start = Instant::now();
        loop {
            let counts = Self::read()?;
            if done(&counts) {
                return Ok(Ok(counts));
            }
            if start.elapsed() >= limit {
                return Ok(Err(counts));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Reads the listing until it equals this one.
    ///
    /// # Errors
    /// As [`Counts::read`], and, when the time is up, one that tells the differences.
    pub fn wait_equal(&self, limit: Duration) -> io::Result<()> {
        match Self::wait_for(limit, |counts| counts == self)? {
            Ok(_) => Ok(()),
            Err(last) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("listing after {limit:?}: {}", last.differences(self)),
            )),
        }
    }

    /// Where this listing differs from what was wanted, in words; empty when it does not.
    #[must_use]
    pub fn differences(&self, wanted: &Self) -> String {
        let mut words = Vec::new();
        for table in Table::ALL {
            for (st, name) in NAMES.iter().enumerate() {
                let (is, want) = (self.get(table, st), wanted.get(table, st));
                if is != want {
                    words.push(format!("{table:?} {name} is {is}, not {want}"));
                }
            }
        }
        words.join("; ")
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        for (mine, theirs) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *mine += theirs;
        }
    }
}

impl fmt::Display for Counts {
    /// A table, one state a line, without a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<12}{:>9}{:>9}", "state", "tcp", "tcp6")?;
        for (st, name) in NAMES.iter().enumerate().skip(1) {
            let (tcp, tcp6) = (self.get(Table::Tcp, st), self.get(Table::Tcp6, st));
            write!(f, "\n{name:<12}{tcp:>9}{tcp6:>9}")?;
        }
        Ok(())
    }
}

/// Calls `visit` with table, state and local port of every line.
fn for_each_line(mut visit: impl FnMut(Table, usize, u16)) -> io::Result<()> {
    for table in Table::ALL {
        let file = match File::open(table.path()) {
            // A kernel without IPv6 has no tcp6.
            Err(error) if table == Table::Tcp6 && error.kind() == io::ErrorKind::NotFound => {
                continue;
            }
            result => result.map_err(|error| context(table.path(), &error))?,
        };
        read_lines(BufReader::with_capacity(1 << 18, file), |st, port| {
            visit(table, st, port);
        })
        .map_err(|error| context(table.path(), &error))?;
    }
    Ok(())
}

fn read_lines(mut lines: impl BufRead, mut visit: impl FnMut(usize, u16)) -> io::Result<()> {
    let mut line = String::new();
    lines.read_line(&mut line)?;
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let (st, port) = parse(&line).ok_or_else(|| {
            let why = format!("line \"{}\" has no state and port", line.trim_end());
            io::Error::new(io::ErrorKind::InvalidData, why)
        })?;
        visit(st, port);
    }
}

/// State and local port of a line: `sl local_address rem_address st ...`.
pub(crate) fn parse(line: &str) -> Option<(usize, u16)> {
    let mut columns = line.split_ascii_whitespace();
    let local = columns.nth(1)?;
    let st = columns.nth(1)?;
    let (_, port) = local.rsplit_once(':')?;
    let st = match usize::from_str_radix(st, 16).ok()? {
        NEW_SYN_RECV => st::SYN_RECV,
        st @ st::ESTABLISHED..=st::CLOSING => st,
        _ => return None,
    };
    Some((st, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Counts, Table, parse, read_lines, st};

    const LISTEN4: &str = "   0: 0100007F:07E8 00000000:0000 0A 00000000:00000000 00:00000000 \
                           00000000     0        0 5 1 0000000000000000 100 0 0 10 0\n";
    const REQUEST6: &str = "  17: 00000000000000000000000001000000:1F90 \
                            00000000000000000000000001000000:C350 0C 00000000:00000000 \
                            01:00000063 00000000     0        0 0 1 0000000000000000\n";

    #[test]
    fn lines_are_read_as_the_kernel_prints_them() {
        assert_eq!(parse(LISTEN4), Some((st::LISTEN, 2024)));
        assert_eq!(parse(REQUEST6), Some((st::SYN_RECV, 8080)));
        for bad in ["", "  0: 1:2", "0: 1:1F90 1:1 0D 0", "0: 1:1F90 1:1 00 0"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_heading_is_passed_over_and_garbage_refused() {
        let mut seen = Vec::new();
        let text = format!("  sl  local_address rem_address   st\n{LISTEN4}{REQUEST6}");
        read_lines(text.as_bytes(), |st, port| seen.push((st, port))).unwrap();
        assert_eq!(seen, [(st::LISTEN, 2024), (st::SYN_RECV, 8080)]);
        assert!(read_lines(&b"heading\n what is this\n"[..], |_, _| ()).is_err());
    }

    #[test]
    fn differences_name_table_state_and_both_numbers() {
        let mut one = Counts::default();
        one.0[Table::Tcp6 as usize][st::CLOSING] = 3;
        assert_eq!(
            one.differences(&Counts::default()),
            "Tcp6 CLOSING is 3, not 0"
        );
        assert_eq!(one.differences(&one), "");
        assert_eq!((one + one).both(st::CLOSING), 6);
    }
}
