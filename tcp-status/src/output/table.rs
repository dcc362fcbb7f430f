//! One reading as a table of at most 80 columns.

use std::fmt::{self, Write as _};

use tcp_status_common::state::State;

use crate::snapshot::{Drift, Snapshot};

/// The reading, and above it how far it can be relied on.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _: fmt::Result = write(&mut text, snapshot);
    text
}

fn write(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    header(out, snapshot)?;
    let Snapshot {
        states, ipv4, ipv6, ..
    } = snapshot;
    writeln!(
        out,
        "\n{:<14}{:>12}{:>12}{:>12}",
        "state", "total", "ipv4", "ipv6"
    )?;
    for state in State::ALL {
        let (total, v4, v6) = (states[state], ipv4[state], ipv6[state]);
        writeln!(out, "{state:<14}{total:>12}{v4:>12}{v6:>12}")?;
    }
    let (total, v4, v6) = (states.total(), ipv4.total(), ipv6.total());
    writeln!(out, "{:<14}{total:>12}{v4:>12}{v6:>12}", "all")
}

fn header(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    field(out, "netns", &snapshot.netns.to_string())?;
    if let Some(port) = snapshot.port {
        field(out, "port", &port.to_string())?;
    }
    let tier = snapshot.tier.name();
    match &snapshot.tier_reason {
        Some(reason) => field(out, "tier", &format!("{tier}: {reason}"))?,
        None => field(out, "tier", tier)?,
    }
    if let Some(why) = &snapshot.degraded {
        field(out, "DEGRADED", why)?;
    }
    field(out, "drift", &drift(&snapshot.drift))?;
    let of = &snapshot.transitions;
    field(
        out,
        "opened",
        &format!(
            "{} active, {} passive, {} failed",
            of.active_open, of.passive_open, of.failed_open
        ),
    )?;
    field(
        out,
        "closed",
        &format!(
            "{} by this side, {} by the peer, {} aborted",
            of.active_close, of.passive_close, of.aborted
        ),
    )?;
    let events = &snapshot.events;
    field(
        out,
        "events",
        &format!("{} counted, {} missed", events.counted, events.missed),
    )
}

fn drift(drift: &Drift) -> String {
    let corrections = drift.corrections;
    let mut text = format!(
        "{corrections} correction{}",
        if corrections == 1 { "" } else { "s" }
    );
    match (drift.last_audit_seconds_ago, drift.last_audit_microseconds) {
        (Some(ago), Some(took)) => {
            let milliseconds = took / 1000;
            let tenths = took % 1000 / 100;
            text += &format!(", last audit {ago} s ago, took {milliseconds}.{tenths} ms");
        }
        (Some(ago), None) => text += &format!(", last audit {ago} s ago"),
        (None, _) => text += ", no audit yet",
    }
    text
}

/// Where the values of the header begin.
const INDENT: usize = 10;
const WIDTH: usize = 80;

/// A name and its value, wrapped.
fn field(out: &mut String, name: &str, value: &str) -> fmt::Result {
    write!(out, "{name:<INDENT$}")?;
    let mut column = INDENT;
    for (i, word) in value.split_whitespace().enumerate() {
        // Text of a tracker: nothing in it may reach the terminal as a command.
        let word: String = word.chars().filter(|c| !c.is_control()).collect();
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

#[cfg(test)]
mod tests {
    use tcp_status_common::state::State;

    use super::render;
    use crate::snapshot::{Counts, Snapshot, Tier};

    fn snapshot() -> Snapshot {
        let (mut ipv4, mut ipv6) = (Counts::default(), Counts::default());
        ipv4[State::Established] = u64::from(u32::MAX);
        ipv6[State::Established] = 10;
        ipv6[State::Listen] = 3;
        Snapshot::of(Tier::Full, 4_026_531_833, [ipv4, ipv6])
    }

    #[test]
    fn numbers_stand_below_each_other() {
        let text = render(&snapshot());
        let expected = "\
netns     4026531833
tier      full
drift     0 corrections, no audit yet
opened    0 active, 0 passive, 0 failed
closed    0 by this side, 0 by the peer, 0 aborted
events    0 counted, 0 missed

state                total        ipv4        ipv6
established     4294967305  4294967295          10
";
        assert!(text.starts_with(expected), "{text}");
        for state in State::ALL {
            assert!(text.contains(&format!("\n{state} ")), "{text}");
        }
        assert!(
            text.ends_with("\nall             4294967308  4294967295          13\n"),
            "{text}"
        );
    }

    #[test]
    fn doubts_are_shown_and_nothing_is_wider_than_a_terminal() {
        let mut snapshot = snapshot();
        snapshot.tier = Tier::Reduced;
        snapshot.tier_reason = Some("the kernel \u{1b}[31mrefuses fexit programs; ".repeat(8));
        snapshot.degraded = Some("an audit is due".into());
        snapshot.port = Some(443);
        snapshot.drift.corrections = 1;
        snapshot.drift.last_audit_seconds_ago = Some(12);
        snapshot.drift.last_audit_microseconds = Some(1250);
        let text = render(&snapshot);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        for line in [
            "tier      reduced: the kernel",
            "DEGRADED  an audit is due",
            "port      443",
            "drift     1 correction, last audit 12 s ago, took 1.2 ms",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
