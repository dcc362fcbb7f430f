//! One reading as a table of at most 80 columns, and several as one row each.

use std::fmt::{self, Write as _};

use tcp_status_common::state::State;

use super::{
    field::{ends_at, field, no_local_port, overflows, reasons_text, subject},
    paint::Paint,
    rows::{self, Row},
    time::describe,
};
use crate::snapshot::{Drift, Ends, Events, Peaks, Rates, Snapshot, Stale, Tier, minutes::Minute};

const OTHERS_NOT_COUNTED: &str = "
other network namespaces are not counted; start the tracker with --netns all
";

/// What is shown besides the verdict, the tier and the counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Details<'a> {
    /// Events, rates, audits and totals since start.
    pub verbose: bool,
    /// The last whole minute, with which counts are compared.
    pub last_minute: Option<&'a Minute>,
    /// Colours.
    pub paint: Paint,
}

/// The reading, and above it what is wrong and how far it can be relied on.
#[must_use]
pub fn render(snapshot: &Snapshot, details: &Details<'_>) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _: fmt::Result = write(&mut text, snapshot, details);
    text
}

/// The readings of all namespaces, one row each unless `verbose`, and whether these are all.
#[must_use]
pub fn render_all(snapshots: &[Snapshot], details: &Details<'_>) -> String {
    let mut text = String::new();
    if details.verbose {
        let all = snapshots.iter().map(|one| render(one, details));
        text = all.collect::<Vec<_>>().join("\n");
    } else {
        let _: fmt::Result = write_rows(&mut text, snapshots, details.paint);
    }
    if snapshots.iter().any(|one| !one.all_netns) {
        text.push_str(OTHERS_NOT_COUNTED);
    }
    text
}

fn write_rows(out: &mut String, snapshots: &[Snapshot], paint: Paint) -> fmt::Result {
    verdict(out, snapshots, paint)?;
    let mut tiers: Vec<_> = snapshots.iter().map(tier).collect();
    tiers.dedup();
    tiers.iter().try_for_each(|tier| field(out, "tier", tier))?;
    for one in snapshots {
        if let Some(why) = &one.degraded {
            field(out, "DEGRADED", &format!("netns {}: {why}", one.netns))?;
        }
    }
    let row = |one: &Snapshot| Row {
        note: one.netns_name.clone().unwrap_or_default(),
        ..Row::new(one.netns.to_string(), Some(one.states))
    };
    rows::write(out, "netns", "name", snapshots.iter().map(row).collect())
}

fn write(out: &mut String, snapshot: &Snapshot, details: &Details<'_>) -> fmt::Result {
    // Nothing can be wrong with one port that is not wrong with the namespace.
    if snapshot.port.is_none() {
        verdict(out, std::slice::from_ref(snapshot), details.paint)?;
    }
    header(out, snapshot)?;
    if details.verbose {
        totals(out, snapshot)?;
        // History is kept of all ports together only.
        if snapshot.port.is_none() {
            history(out, snapshot)?;
        }
    }
    counts(out, snapshot, details)
}

fn counts(out: &mut String, snapshot: &Snapshot, details: &Details<'_>) -> fmt::Result {
    let Snapshot {
        states, ipv4, ipv6, ..
    } = snapshot;
    let peaks = snapshot.peaks.filter(|_| snapshot.port.is_none());
    let minute = details.last_minute.filter(|_| snapshot.port.is_none());
    write!(out, "\n{:<12}{:>11}", "state", "total")?;
    let more = [
        (minute.is_some(), &["change"][..]),
        (true, &["ipv4", "ipv6"]),
        (peaks.is_some(), &["min", "max"]),
    ];
    for name in more
        .iter()
        .filter(|(some, _)| *some)
        .flat_map(|(_, names)| *names)
    {
        write!(out, "{name:>11}")?;
    }
    writeln!(out)?;
    let number = |number: u64| details.paint.number(number, 11);
    for state in State::ALL {
        write!(out, "{state:<12}{}", number(states[state]))?;
        if let Some(minute) = minute {
            let before = minute.states.get(state.name()).map(|of| of.mean);
            out.push_str(&change(states[state], before, details.paint));
        }
        write!(out, "{}{}", number(ipv4[state]), number(ipv6[state]))?;
        if let Some(Peaks { min, max, .. }) = peaks {
            write!(out, "{}{}", number(min[state]), number(max[state]))?;
        }
        writeln!(out)?;
    }
    write!(out, "{:<12}{}", "all", number(states.total()))?;
    if minute.is_some() {
        write!(out, "{:>11}", "")?;
    }
    writeln!(out, "{}{}", number(ipv4.total()), number(ipv6.total()))
}

/// The count compared with the mean of the last minute.
fn change(count: u64, before: Option<f64>, paint: Paint) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "no host has 2^63 sockets; a cast saturates"
    )]
    let before = before.map(|mean| mean.round() as i64);
    match before.map(|before| count.cast_signed() - before) {
        None => format!("{:>11}", "-"),
        Some(0) => paint.number(0, 11),
        Some(change) => format!("{change:>+11}"),
    }
}

/// What is wrong, before anything else.
fn verdict(out: &mut String, snapshots: &[Snapshot], paint: Paint) -> fmt::Result {
    let is_single = snapshots.len() == 1;
    let each = snapshots.iter().flat_map(|one| {
        let at = if is_single {
            String::new()
        } else {
            format!("netns {}: ", one.netns)
        };
        let problems = one.problems.iter();
        problems.map(move |problem| (problem.severity, format!("{at}{}", describe(problem))))
    });
    let mut problems: Vec<_> = each.collect();
    if problems.is_empty() {
        // A scan sees no leak and no queue that was full.
        let scanned = snapshots.iter().any(|one| one.tier == Tier::Scan);
        let verdict = if scanned {
            "no problem at this moment"
        } else {
            "healthy"
        };
        return field(out, "verdict", verdict);
    }
    problems.sort_by_key(|(severity, _)| *severity);
    for (severity, text) in problems {
        let (name, mut line) = (severity.name(), String::new());
        field(&mut line, name, &text)?;
        write!(out, "{}{}", paint.severity(severity), &line[name.len()..])?;
    }
    Ok(())
}

fn tier(snapshot: &Snapshot) -> String {
    let tier = snapshot.tier.name();
    let reason = snapshot.tier_reason.as_ref();
    reason.map_or_else(|| tier.into(), |reason| format!("{tier}: {reason}"))
}

fn header(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    subject(out, snapshot)?;
    field(out, "tier", &tier(snapshot))?;
    match &snapshot.degraded {
        Some(why) => field(out, "DEGRADED", why),
        None => Ok(()),
    }
}

/// Audits, and what happened since start.
fn totals(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    // A scan keeps no counts that could drift.
    if snapshot.tier != Tier::Scan {
        field(out, "drift", &drift(&snapshot.drift))?;
    }
    if let Some(of) = &snapshot.transitions {
        let (active, passive, failed) = (of.active_open, of.passive_open, of.failed_open);
        let opened = format!("{active} active, {passive} passive, {failed} failed");
        field(out, "opened", &opened)?;
        let (active, passive, aborted) = (of.active_close, of.passive_close, of.aborted);
        let closed = format!("{active} by this side, {passive} by the peer, {aborted} aborted");
        field(out, "closed", &closed)?;
    }
    if let Some(ends) = &snapshot.ends {
        self::ends(out, ends)?;
    }
    if let Some(port) = snapshot.port {
        let text = ends_at(&snapshot.ports, port);
        if !text.is_empty() {
            field(out, "ends", &text)?;
        }
    }
    no_local_port(out, snapshot)?;
    if let Some(Events { counted, missed }) = &snapshot.events {
        field(
            out,
            "events",
            &format!("{counted} counted, {missed} missed"),
        )?;
    }
    Ok(())
}

/// Why connections were not made or ended, where there is anything to say.
fn ends(out: &mut String, ends: &Ends) -> fmt::Result {
    for (name, reasons) in [
        ("failures", &ends.failed_connects()[..]),
        ("ends", &ends.connection_ends.by_reason()),
    ] {
        let text = reasons_text(reasons);
        if !text.is_empty() {
            field(out, name, &text)?;
        }
    }
    Ok(())
}

/// What happened since the last poll, as far as it is known.
fn history(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    if let Some(rates) = &snapshot.rates {
        per_second(out, rates)?;
    }
    if let Some(stale) = &snapshot.stale {
        field(out, "stale", &sitting(stale))?;
    }
    outgoing(out, snapshot)?;
    overflows(out, snapshot)?;
    if let Some(peaks) = &snapshot.peaks {
        let (window, sample) = (peaks.window_seconds, peaks.sample_milliseconds);
        let text = format!("min and max of the last {window} s, sampled every {sample} ms");
        field(out, "peaks", &text)?;
    }
    Ok(())
}

/// Connections that no listening port accounts for, where they are known.
fn outgoing(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    let Some(counts) = &snapshot.ports.outgoing else {
        return Ok(());
    };
    let mut text = counts.total().to_string();
    let some = counts.iter().filter(|(_, count)| *count > 0);
    for (i, (state, count)) in some.enumerate() {
        let separator = if i == 0 { ":" } else { "," };
        write!(text, "{separator} {count} {state}")?;
    }
    if let Some(ports) = snapshot.ephemeral_ports {
        write!(text, "; {ports} ephemeral ports")?;
    }
    if let Some(reserved) = snapshot.reserved_ports.filter(|count| *count > 0) {
        write!(text, ", {reserved} reserved")?;
    }
    field(out, "outgoing", &text)?;
    match &snapshot.fullest_destination {
        Some(fullest) => field(out, "fullest", &fullest.to_string()),
        None => Ok(()),
    }
}

fn per_second(out: &mut String, rates: &Rates) -> fmt::Result {
    let window = rates.window_seconds;
    field(
        out,
        "opened/s",
        &format!(
            "{:.1} active, {:.1} passive, {:.1} failed, over {window:.0} s",
            rates.active_open, rates.passive_open, rates.failed_open
        ),
    )?;
    field(
        out,
        "closed/s",
        &format!(
            "{:.1} by this side, {:.1} by the peer, {:.1} aborted",
            rates.active_close, rates.passive_close, rates.aborted
        ),
    )
}

fn sitting(stale: &Stale) -> String {
    format!(
        "{} in closewait, {} in finwait2 for over {} s; walked {} s ago",
        stale.closewait, stale.finwait2, stale.older_than_seconds, stale.walked_seconds_ago
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

#[cfg(test)]
mod tests;
