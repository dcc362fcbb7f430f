//! One reading as a table of at most 80 columns.

use std::fmt::{self, Write as _};

use tcp_status_common::state::State;

use super::field::{field, overflows, subject};
use crate::snapshot::{Drift, Ends, Events, Peaks, Rates, Snapshot, Stale, Tier};

const OTHERS_NOT_COUNTED: &str = "
other network namespaces are not counted; start the tracker with --netns all
";

/// The reading, and above it how far it can be relied on.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _: fmt::Result = write(&mut text, snapshot);
    text
}

/// The readings of all namespaces, and whether these are all.
#[must_use]
pub fn render_all(snapshots: &[Snapshot]) -> String {
    let mut text = snapshots.iter().map(render).collect::<Vec<_>>().join("\n");
    if snapshots.iter().any(|one| !one.all_netns) {
        text.push_str(OTHERS_NOT_COUNTED);
    }
    text
}

fn write(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    verdict(out, snapshot)?;
    header(out, snapshot)?;
    // History is kept of all ports together only.
    let peaks = snapshot.peaks.filter(|_| snapshot.port.is_none());
    if snapshot.port.is_none() {
        history(out, snapshot)?;
    }
    let Snapshot {
        states, ipv4, ipv6, ..
    } = snapshot;
    write!(
        out,
        "\n{:<14}{:>12}{:>12}{:>12}",
        "state", "total", "ipv4", "ipv6"
    )?;
    match peaks {
        Some(_) => writeln!(out, "{:>12}{:>12}", "min", "max")?,
        None => writeln!(out)?,
    }
    for state in State::ALL {
        let (total, v4, v6) = (states[state], ipv4[state], ipv6[state]);
        write!(out, "{state:<14}{total:>12}{v4:>12}{v6:>12}")?;
        match peaks {
            Some(Peaks { min, max, .. }) => writeln!(out, "{:>12}{:>12}", min[state], max[state])?,
            None => writeln!(out)?,
        }
    }
    let (total, v4, v6) = (states.total(), ipv4.total(), ipv6.total());
    writeln!(out, "{:<14}{total:>12}{v4:>12}{v6:>12}", "all")
}

/// What is wrong, before anything else. Nothing of that can be said of one port.
fn verdict(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    if snapshot.port.is_some() {
        return Ok(());
    }
    let problems = snapshot.problems();
    if problems.is_empty() {
        // A scan sees no leak and no queue that was full.
        let verdict = match snapshot.tier {
            Tier::Scan => "no problem at this moment",
            Tier::Full | Tier::Reduced => "healthy",
        };
        return field(out, "verdict", verdict);
    }
    let mut problems = problems.iter();
    problems.try_for_each(|problem| field(out, problem.severity.name(), &problem.text))
}

fn header(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    subject(out, snapshot)?;
    let tier = snapshot.tier.name();
    match &snapshot.tier_reason {
        Some(reason) => field(out, "tier", &format!("{tier}: {reason}"))?,
        None => field(out, "tier", tier)?,
    }
    if let Some(why) = &snapshot.degraded {
        field(out, "DEGRADED", why)?;
    }
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
    let list = |reasons: &[(&str, u64)]| {
        let some = reasons.iter().filter(|(_, count)| *count > 0);
        let some = some.map(|(reason, count)| format!("{count} {}", reason.replace('_', " ")));
        some.collect::<Vec<_>>().join(", ")
    };
    let mut failures: Vec<_> = ends.connect_failures.by_reason().into();
    failures.push(("without a local port", ends.no_local_port));
    for (name, reasons) in [
        ("failures", &failures[..]),
        ("ends", &ends.connection_ends.by_reason()),
    ] {
        let text = list(reasons);
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
    field(out, "outgoing", &text)
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
mod tests {
    use tcp_status_common::state::State;

    use super::render;
    use crate::snapshot::{
        Counts, Events, Overflows, Peaks, Ports, Rates, Snapshot, Stale, Tier, Transitions,
    };

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
verdict   healthy
netns     4026531833
tier      full
drift     0 corrections, no audit yet

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

    fn with_history() -> Snapshot {
        let now = snapshot();
        let mut max = now.states;
        max[State::SynRecv] = 5000;
        Snapshot {
            peaks: Some(Peaks {
                window_seconds: 60,
                sample_milliseconds: 100,
                min: Counts::default(),
                max,
                max_seconds_ago: Counts::default(),
            }),
            rates: Some(Rates {
                window_seconds: 60.2,
                active_open: 12.04,
                passive_open: 1e6,
                ..Rates::default()
            }),
            stale: Some(Stale {
                older_than_seconds: 60,
                closewait: 3,
                finwait2: 0,
                walked_seconds_ago: 4,
            }),
            overflows: Some(Overflows {
                listen_overflows: 7,
                listen_drops: 9,
            }),
            netns_name: Some("blue\u{1b}[2J\nred".into()),
            transitions: Some(Transitions {
                active_open: 12,
                aborted: 1,
                ..Transitions::default()
            }),
            events: Some(Events {
                counted: 24,
                missed: 2,
            }),
            ports: Ports {
                outgoing: Some(max),
                ..Ports::default()
            },
            ephemeral_ports: Some(28_232),
            ..now
        }
    }

    #[test]
    fn history_is_shown_where_there_is_some() {
        let text = render(&with_history());
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        for part in [
            "netns     4026531833 (blue[2J red)\n",
            "opened    12 active, 0 passive, 0 failed\n",
            "closed    0 by this side, 0 by the peer, 1 aborted\n",
            "events    24 counted, 2 missed\n",
            "opened/s  12.0 active, 1000000.0 passive, 0.0 failed, over 60 s\n",
            "closed/s  0.0 by this side, 0.0 by the peer, 0.0 aborted\n",
            "stale     3 in closewait, 0 in finwait2 for over 60 s; walked 4 s ago\n",
            "outgoing  4294972308: 4294967305 established, 5000 synrecv, 3 listen; 28232\n          \
             ephemeral ports\n",
            "overflows 7 for a full accept queue, 9 drops by listeners in all\n",
            "peaks     min and max of the last 60 s, sampled every 100 ms\n",
            "\nstate                total        ipv4        ipv6         min         max\n",
            "\nsynrecv                  0           0           0           0        5000\n",
        ] {
            assert!(text.contains(part), "{part}{text}");
        }
    }

    #[test]
    fn one_port_has_no_history() {
        let port = Snapshot {
            port: Some(443),
            transitions: None,
            events: None,
            ..with_history()
        };
        let bare = Snapshot {
            port: Some(443),
            netns_name: port.netns_name.clone(),
            ..snapshot()
        };
        assert_eq!(render(&port), render(&bare));
    }
}
