//! Lines of a name and its value, wrapped at the width of a terminal: what stands above tables.

use std::{
    cmp::Reverse,
    fmt::{self, Write as _},
};

use crate::{
    printable::printable,
    snapshot::{Ports, QueueRates, Snapshot},
};

/// Where the values begin.
const INDENT: usize = 10;
const WIDTH: usize = 80;

/// A name and its value, wrapped.
pub(super) fn field(out: &mut String, name: &str, value: &str) -> fmt::Result {
    write!(out, "{name:<INDENT$}")?;
    let mut column = INDENT;
    for (i, word) in value.split_whitespace().enumerate() {
        let word = printable(word);
        let length = word.chars().count();
        if i > 0 && column + 1 + length > WIDTH {
            write!(out, "\n{:INDENT$}{word}", "")?;
            column = INDENT + length;
        } else {
            let space = if i == 0 { "" } else { " " };
            write!(out, "{space}{word}")?;
            column += space.len() + length;
        }
    }
    writeln!(out)
}

/// Which namespace, and which port, the reading is of.
pub(super) fn subject(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    let netns = snapshot.netns;
    match &snapshot.netns_name {
        Some(name) => field(out, "netns", &format!("{netns} ({name})"))?,
        None => field(out, "netns", &netns.to_string())?,
    }
    match snapshot.port {
        Some(port) => field(out, "port", &port.to_string()),
        None => Ok(()),
    }
}

/// The destinations with the most connects that found no local port.
pub(super) fn no_local_port(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    let all = snapshot.no_local_port_destinations.iter().flatten();
    let mut all: Vec<_> = all.collect();
    all.sort_by_key(|one| Reverse(one.failures));
    let all = all.into_iter().map(|one| {
        let (failures, ago) = (one.failures, one.last_seconds_ago);
        format!("{failures} to {one}, the last {ago} s ago")
    });
    first_few(out, "no port", all)
}

/// The ports at which the most connections ended in another way than in order, since start.
pub(super) fn aborted_at(out: &mut String, ports: &Ports) -> fmt::Result {
    let all = ports.tracked.iter().filter_map(|row| {
        let aborted = row.connection_ends?.aborts();
        let sum: u64 = aborted.iter().map(|(_, count)| count).sum();
        (sum > 0).then(|| (sum, format!("{}: {}", row.port, reasons_text(&aborted))))
    });
    let mut all: Vec<_> = all.collect();
    all.sort_by_key(|(sum, _)| Reverse(*sum));
    first_few(out, "aborted", all.into_iter().map(|(_, text)| text))
}

/// Nothing if there are none.
fn first_few(
    out: &mut String,
    name: &str,
    mut all: impl ExactSizeIterator<Item = String>,
) -> fmt::Result {
    const SHOWN: usize = 3;
    if all.len() == 0 {
        return Ok(());
    }
    let mut text = all.by_ref().take(SHOWN).collect::<Vec<_>>().join("; ");
    if all.len() > 0 {
        write!(text, "; {} more", all.len())?;
    }
    field(out, name, &text)
}

/// How often there was each reason.
pub(super) fn reasons_text(reasons: &[(&str, u64)]) -> String {
    let some = reasons.iter().filter(|(_, count)| *count > 0);
    let some = some.map(|(reason, count)| format!("{count} {}", reason.replace('_', " ")));
    some.collect::<Vec<_>>().join(", ")
}

/// Why connections at a port ended; empty if none did, or it is not known.
pub(super) fn ends_at(ports: &Ports, port: u16) -> String {
    let row = ports.tracked.iter().find(|row| row.port == port);
    let ends = row.and_then(|row| row.connection_ends);
    ends.map_or_else(String::new, |ends| reasons_text(&ends.by_reason()))
}

/// What the queues of listeners could not take, where it is known, with the rates that are not 0.
pub(super) fn overflows(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    let rate = |of: fn(&QueueRates) -> f64| match snapshot.queue_rates.as_ref().map_or(0.0, of) {
        0.0 => String::new(),
        few if few < 1.0 => format!(" ({few:.3}/s)"),
        many => format!(" ({many:.1}/s)"),
    };
    if let Some(of) = &snapshot.overflows {
        let text = format!(
            "{} for a full accept queue{}, {} drops in all{}",
            of.listen_overflows,
            rate(|of| of.listen_overflows),
            of.listen_drops,
            rate(|of| of.listen_drops)
        );
        field(out, "overflows", &text)?;
    }
    if let Some(of) = &snapshot.syncookies {
        let text = format!(
            "{} sent{}, {} valid, {} invalid{}; full SYN queue: {} cookies, {} drops",
            of.sent,
            rate(|of| of.syncookies_sent),
            of.received,
            of.failed,
            rate(|of| of.syncookies_failed),
            of.queue_full_cookies,
            of.queue_full_drops
        );
        field(out, "cookies", &text)?;
    }
    Ok(())
}
