//! What procfs lists: every socket, and the totals that the kernel keeps itself.
//! Reads the namespace of the calling thread. Owns the text forms, not what follows from them.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
};

use tcp_status_common::state::{Family, State};

use crate::snapshot::{Counts, Overflows, Syncookies};

// `/proc/net` is `/proc/self/net`, that of the main thread: a thread that entered another
// namespace would still read the first one there.
const TCP: [&str; Family::COUNT] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
const SOCKSTAT: &str = "/proc/thread-self/net/sockstat";
const SOCKSTAT6: &str = "/proc/thread-self/net/sockstat6";
const SNMP: &str = "/proc/thread-self/net/snmp";
const NETSTAT: &str = "/proc/thread-self/net/netstat";

/// procfs cannot be read, or is not as expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {path}: {error}; {}", hint(error))]
    Io {
        /// The file.
        path: &'static str,
        /// What the kernel says.
        error: io::Error,
    },
    /// A line without a state and a port.
    #[error("cannot read {path} line {line}: no state and local port; report it as a bug")]
    Line {
        /// The file.
        path: &'static str,
        /// Counted from 1, the heading included.
        line: u64,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files",
        Some(libc::ENOMEM) => "raise the limit of memory",
        _ => "mount /proc, and let this user read it",
    }
}

impl Error {
    /// Whether a permission is what is missing.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// What one walk over all sockets of a namespace counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// What `/proc/net/tcp` lists.
    pub ipv4: Counts,
    /// What `/proc/net/tcp6` lists.
    pub ipv6: Counts,
}

impl Listing {
    /// The counts of one family.
    #[must_use]
    pub const fn of(&self, family: Family) -> &Counts {
        match family {
            Family::V4 => &self.ipv4,
            Family::V6 => &self.ipv6,
        }
    }

    /// The counts of both families together.
    #[must_use]
    pub fn total(&self) -> Counts {
        let mut total = self.ipv4;
        total += &self.ipv6;
        total
    }

    /// Counts one socket.
    pub fn add(&mut self, family: Family, state: State) {
        let counts = match family {
            Family::V4 => &mut self.ipv4,
            Family::V6 => &mut self.ipv6,
        };
        counts[state] += 1;
    }
}

/// What one walk over all sockets of a namespace counted, by local port as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortListing {
    /// All sockets.
    pub all: Listing,
    /// Those of each port.
    pub ports: BTreeMap<u16, Listing>,
}

impl PortListing {
    /// Counts one socket.
    pub fn add(&mut self, family: Family, state: State, port: u16) {
        self.all.add(family, state);
        self.ports.entry(port).or_default().add(family, state);
    }
}

/// Counts `/proc/net/tcp` and `tcp6`, or only what has the local port. About 2 us per socket.
///
/// # Errors
/// [`Error`]; that there is no `tcp6`, for want of IPv6, is none.
pub fn listing(port: Option<u16>) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    visit_all(|family, state, local| {
        if port.is_none_or(|port| port == local) {
            listing.add(family, state);
        }
    })?;
    Ok(listing)
}

/// As [`listing`], apart for each local port.
///
/// # Errors
/// As [`listing`].
pub fn listing_by_port() -> Result<PortListing, Error> {
    let mut listing = PortListing::default();
    visit_all(|family, state, port| listing.add(family, state, port))?;
    Ok(listing)
}

/// Visits every socket of both files.
fn visit_all(mut visit: impl FnMut(Family, State, u16)) -> Result<(), Error> {
    for family in Family::ALL {
        let path = TCP[family.index()];
        let file = match File::open(path) {
            Err(error) if family == Family::V6 && error.kind() == io::ErrorKind::NotFound => break,
            opened => opened.map_err(|error| Error::Io { path, error })?,
        };
        let text = BufReader::with_capacity(1 << 16, file);
        count(text, path, |state, port| visit(family, state, port))?;
    }
    Ok(())
}

/// Visits every line but the heading.
fn count(
    mut text: impl BufRead,
    path: &'static str,
    mut visit: impl FnMut(State, u16),
) -> Result<(), Error> {
    let mut line = Vec::with_capacity(256);
    for number in 1.. {
        line.clear();
        let read = text.read_until(b'\n', &mut line);
        if read.map_err(|error| Error::Io { path, error })? == 0 {
            break;
        }
        if number > 1 {
            let (state, port) = socket(&line).ok_or(Error::Line { path, line: number })?;
            visit(state, port);
        }
    }
    Ok(())
}

/// State and local port of `sl local_address rem_address st ...`, all hexadecimal.
fn socket(line: &[u8]) -> Option<(State, u16)> {
    let mut columns = line
        .split(u8::is_ascii_whitespace)
        .filter(|column| !column.is_empty());
    let local = columns.nth(1)?;
    let st = columns.nth(1)?;
    let colon = local.iter().rposition(|&byte| byte == b':')?;
    let port = u16::from_str_radix(str::from_utf8(&local[colon + 1..]).ok()?, 16).ok()?;
    let number = u8::from_str_radix(str::from_utf8(st).ok()?, 16).ok()?;
    Some((State::try_from(number).ok()?, port))
}

/// Totals of a namespace that the kernel keeps itself, each where it tells. Exact at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Invariants {
    /// ESTABLISHED and CLOSE_WAIT, both families (`CurrEstab` of snmp).
    pub curr_estab: Option<u64>,
    /// Full sockets of IPv4 that are listed (`inuse` of sockstat).
    pub inuse_v4: Option<u64>,
    /// Full sockets of IPv6 that are listed (`inuse` of sockstat6).
    pub inuse_v6: Option<u64>,
    /// Timewait minisockets, both families and substates (`tw` of sockstat).
    pub timewait: Option<u64>,
    /// Full sockets of all families and namespaces, listed or not (`alloc` of sockstat).
    pub allocated: Option<u64>,
}

/// Reads all totals: three small files, independent of the number of sockets.
///
/// # Errors
/// [`Error::Io`]; that a file or a field is not there is none.
pub fn invariants() -> Result<Invariants, Error> {
    let mut text = String::with_capacity(4096);
    let mut totals = Invariants::default();
    read(SOCKSTAT, &mut text)?;
    totals.inuse_v4 = sockstat(&text, "TCP:", "inuse");
    totals.timewait = sockstat(&text, "TCP:", "tw");
    totals.allocated = sockstat(&text, "TCP:", "alloc");
    read(SOCKSTAT6, &mut text)?;
    totals.inuse_v6 = sockstat(&text, "TCP6:", "inuse");
    read(SNMP, &mut text)?;
    totals.curr_estab = snmp(&text, "Tcp:", "CurrEstab");
    Ok(totals)
}

/// The kernel's own number of timewait minisockets (`tw` of sockstat), where it tells: one small
/// file.
///
/// # Errors
/// [`Error::Io`].
pub fn timewait() -> Result<Option<u64>, Error> {
    let mut text = String::with_capacity(512);
    read(SOCKSTAT, &mut text)?;
    Ok(sockstat(&text, "TCP:", "tw"))
}

/// TCP segments that the namespace has received (`InSegs` of snmp), where the kernel counts them.
///
/// # Errors
/// [`Error::Io`].
pub fn segments() -> Result<Option<u64>, Error> {
    let mut text = String::with_capacity(4096);
    read(SNMP, &mut text)?;
    Ok(snmp(&text, "Tcp:", "InSegs"))
}

/// What the queues of listeners could not take; none where the kernel does not count it.
///
/// # Errors
/// [`Error::Io`].
pub fn queue_counters() -> Result<(Option<Overflows>, Option<Syncookies>), Error> {
    let mut text = String::with_capacity(8192);
    read(NETSTAT, &mut text)?;
    let field = |name| snmp(&text, "TcpExt:", name);
    let overflows = || {
        Some(Overflows {
            listen_overflows: field("ListenOverflows")?,
            listen_drops: field("ListenDrops")?,
        })
    };
    let syncookies = || {
        Some(Syncookies {
            sent: field("SyncookiesSent")?,
            received: field("SyncookiesRecv")?,
            failed: field("SyncookiesFailed")?,
            queue_full_cookies: field("TCPReqQFullDoCookies")?,
            queue_full_drops: field("TCPReqQFullDrop")?,
        })
    };
    Ok((overflows(), syncookies()))
}

/// Replaces `text` by the file's; a file that is not there is empty.
fn read(path: &'static str, text: &mut String) -> Result<(), Error> {
    text.clear();
    match File::open(path).and_then(|mut file| file.read_to_string(text)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Io { path, error }),
        _ => Ok(()),
    }
}

/// The number behind `name`, in the line that begins with `label`.
fn sockstat(text: &str, label: &str, name: &str) -> Option<u64> {
    let mut words = text
        .lines()
        .find_map(|line| line.strip_prefix(label))?
        .split_whitespace();
    words.find(|&word| word == name)?;
    words.next()?.parse().ok()
}

/// The number below `name`: of two lines that begin with `label`, the first has the names.
fn snmp(text: &str, label: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(label));
    let column = lines
        .next()?
        .split_whitespace()
        .position(|word| word == name)?;
    lines.next()?.split_whitespace().nth(column)?.parse().ok()
}

/// A table of sockets, and totals: every line of a table that is read has been visited.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut visited = 0;
    if count(bytes, "fuzz", |_, _| visited += 1).is_ok() {
        let lines = bytes.split_inclusive(|byte| *byte == b'\n').count();
        assert_eq!(visited, lines.saturating_sub(1));
    }
    let text = String::from_utf8_lossy(bytes);
    for name in ["inuse", "tw", "alloc"] {
        sockstat(&text, "TCP:", name);
    }
    snmp(&text, "Tcp:", "CurrEstab");
}

#[cfg(test)]
mod tests {
    use super::{Error, State, count, snmp, socket, sockstat};

    const HEADING: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n";
    const LISTEN4: &str = "   0: 0100007F:07E8 00000000:0000 0A 00000000:00000000 00:00000000 \
                           00000000     0        0 5 1 0000000000000000 100 0 0 10 0     \n";
    const REQUEST6: &str = "99999: 0000000000000000FFFF00000100007F:FFFF \
                            0000000000000000FFFF00000100007F:C350 0C 0:0 1:63 0 0 0 0";

    fn count_text(text: &str) -> Result<Vec<(State, u16)>, Error> {
        let mut seen = Vec::new();
        count(text.as_bytes(), "invented", |state, port| {
            seen.push((state, port));
        })?;
        Ok(seen)
    }

    #[test]
    fn sockets_have_a_state_and_a_port() {
        let text = format!("{HEADING}{LISTEN4}{REQUEST6}");
        let expected = [(State::Listen, 2024), (State::SynRecv, 65535)];
        assert_eq!(count_text(&text).unwrap(), expected);
        assert_eq!(count_text(HEADING).unwrap(), []);
        assert_eq!(count_text("").unwrap(), []);
    }

    #[test]
    fn every_number_of_the_st_column_is_a_state() {
        for number in 1..=12_u8 {
            let line = format!("0: 0:1 0:0 {number:02X} more");
            let state = State::try_from(number).unwrap();
            assert_eq!(socket(line.as_bytes()), Some((state, 1)), "{line}");
        }
    }

    #[test]
    fn a_malformed_line_is_named() {
        let bad = [
            "\n",
            "0:\n",
            "0: 0100007F:07E8\n",
            "0: 0100007F:07E8 00000000:0000\n",
            "0: 0100007F:07E8 00000000:0000 00 0\n",
            "0: 0100007F:07E8 00000000:0000 0D 0\n",
            "0: 0100007F:07E8 00000000:0000 10A 0\n",
            "0: 0100007F:107E8 00000000:0000 0A 0\n",
            "0: 0100007F 00000000:0000 0A 0\n",
            "0: 0100007F: 00000000:0000 0A 0\n",
            "0: 0100007F:07é8 00000000:0000 0A 0\n",
        ];
        for line in bad {
            let error = count_text(&format!("{HEADING}{LISTEN4}{line}")).unwrap_err();
            assert!(
                error.to_string().contains("cannot read invented line 3"),
                "{line:?}: {error}"
            );
        }
    }

    #[test]
    fn totals_are_found_by_name() {
        let text = "sockets: used 17\nTCP: inuse 3 orphan 0 tw 18446744073709551615 alloc 1\n\
                    UDP: inuse 9\nTCP6: inuse 4\n";
        assert_eq!(sockstat(text, "TCP:", "inuse"), Some(3));
        assert_eq!(sockstat(text, "TCP:", "tw"), Some(u64::MAX));
        assert_eq!(sockstat(text, "TCP6:", "inuse"), Some(4));
        assert_eq!(sockstat(text, "TCP6:", "tw"), None);
        assert_eq!(sockstat("", "TCP:", "tw"), None);
        assert_eq!(sockstat("TCP: inuse", "TCP:", "inuse"), None);
        assert_eq!(sockstat("TCP: inuse -1", "TCP:", "inuse"), None);
        assert_eq!(sockstat("TCP: tw 18446744073709551616", "TCP:", "tw"), None);
    }

    #[test]
    fn snmp_columns_go_by_their_names() {
        let text = "Ip: Forwarding CurrEstab\nIp: 1 77\nTcp: MaxConn New CurrEstab InSegs\n\
                    Tcp: -1 0 42 5\n";
        assert_eq!(snmp(text, "Tcp:", "CurrEstab"), Some(42));
        assert_eq!(snmp(text, "Tcp:", "MaxConn"), None);
        assert_eq!(snmp(text, "Tcp:", "OutSegs"), None);
        assert_eq!(
            snmp("Tcp: A CurrEstab\nTcp: 1\n", "Tcp:", "CurrEstab"),
            None
        );
        assert_eq!(snmp("Tcp: A CurrEstab\n", "Tcp:", "CurrEstab"), None);
    }
}
