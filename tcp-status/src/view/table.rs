//! One reading as a table of at most 80 columns, and several as one row each.

use std::fmt::{self, Write as _};

use tcp_status_common::state::State;

use super::{
    field::{field, no_local_port, overflows, subject},
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
mod tests {
    use std::collections::BTreeMap;

    use tcp_status_common::state::State;

    use super::Details;
    use crate::snapshot::{
        Counts, Events, Overflows, Peaks, Ports, Rates, Snapshot, Stale, Tier, Transitions,
        minutes::{Extremes, History, Minute},
    };

    fn render(snapshot: &Snapshot) -> String {
        super::render(snapshot, &Details::default())
    }

    fn verbose(snapshot: &Snapshot) -> String {
        let details = Details {
            verbose: true,
            ..Details::default()
        };
        super::render(snapshot, &details)
    }

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

state             total       ipv4       ipv6
established  4294967305 4294967295         10
";
        assert!(text.starts_with(expected), "{text}");
        for state in State::ALL {
            assert!(text.contains(&format!("\n{state} ")), "{text}");
        }
        assert!(
            text.ends_with("\nall          4294967308 4294967295         13\n"),
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
        let text = verbose(&snapshot);
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
        let text = verbose(&with_history());
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
            "\nstate             total       ipv4       ipv6        min        max\n",
            "\nsynrecv               0          0          0          0       5000\n",
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
        assert_eq!(verbose(&port), verbose(&bare));
    }

    #[test]
    fn counts_are_compared_with_the_last_whole_minute() {
        let minute = |start, mean| Minute {
            start,
            seconds: 60.0,
            degraded: false,
            states: [(
                "listen".to_owned(),
                Extremes {
                    min: 0,
                    max: 9,
                    mean,
                    max_at: 0.0,
                },
            )]
            .into(),
            rates: BTreeMap::default(),
            accept_queues: None,
            fullest_accept_queue: None,
        };
        let mut history = History {
            schema: 1,
            netns: 1,
            now: 300.0,
            since_seconds: 180,
            sample_milliseconds: 100,
            peaks: BTreeMap::default(),
            minutes: vec![minute(120, 8.0), minute(180, 5.2), minute(241, 3.0)],
        };
        let last_minute = history.last_whole_minute();
        assert_eq!(last_minute.map(|minute| minute.start), Some(180));
        let details = Details {
            last_minute,
            ..Details::default()
        };
        let text = super::render(&snapshot(), &details);
        for part in [
            "\nstate             total     change       ipv4       ipv6\n",
            "\nlisten                3         -2          0          3\n",
            "\nclosing               0          -          0          0\n",
            "\nall          4294967308            4294967295         13\n",
        ] {
            assert!(text.contains(part), "{part}{text}");
        }
        history.now = 400.0;
        assert_eq!(history.last_whole_minute(), None);
    }

    #[test]
    fn each_namespace_has_a_row() {
        let mut flooded = with_history();
        flooded.ephemeral_ports = None;
        flooded.states[State::SynRecv] = 300;
        flooded.degraded = Some("an audit is due".into());
        let mut scanned = snapshot();
        scanned.netns = 7;
        let all = [scanned, flooded.with_problems()];
        let text = super::render_all(&all, &Details::default());
        let expected = "\
WARNING   netns 4026531833: 300 connections are half-open
tier      full
DEGRADED  netns 4026531833: an audit is due

netns             total established synrecv  listen  name
7             4294967308  4294967305       0       3
4026531833    4294967608  4294967305     300       3  blue[2Jred
all           8589934916  8589934610     300       6

other network";
        assert!(text.starts_with(expected), "{text}");
    }
}
