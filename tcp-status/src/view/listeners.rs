//! Listening sockets as a table, and as JSON: sockets of one address together, and then apart.

use std::{
    cmp::Reverse,
    fmt::{self, Write as _},
};

use serde::Serialize;

use super::field::{field, overflows, subject};
use crate::{
    printable::printable,
    snapshot::{
        AcceptLatency, Fullness, Group, Listener, Overflows, QueueRates, Snapshot, Syncookies,
    },
};

/// The JSON form: a part of [`Snapshot`]'s, with the same schema.
#[derive(Debug, Serialize)]
pub struct Listeners<'a> {
    schema: u32,
    netns: u32,
    netns_name: Option<&'a str>,
    overflows: Option<Overflows>,
    syncookies: Option<Syncookies>,
    queue_rates: Option<QueueRates>,
    listeners: &'a [Listener],
    accept_latency: Option<&'a [AcceptLatency]>,
    accept_latency_reason: Option<&'a str>,
}

impl<'a> From<&'a Snapshot> for Listeners<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        Self {
            schema: snapshot.schema,
            netns: snapshot.netns,
            netns_name: snapshot.netns_name.as_deref(),
            overflows: snapshot.overflows,
            syncookies: snapshot.syncookies,
            queue_rates: snapshot.queue_rates,
            listeners: &snapshot.listeners,
            accept_latency: snapshot.accept_latency.as_deref(),
            accept_latency_reason: snapshot.accept_latency_reason.as_deref(),
        }
    }
}

/// A row for each address; beneath it, one for each socket where there are several.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _: fmt::Result = write(&mut text, snapshot);
    text
}

fn write(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    let mut groups = snapshot.groups();
    // Stable: the rest stays in the order of ports.
    groups.sort_by_key(|group| Reverse(group.fullness()));
    subject(out, snapshot)?;
    if let Some(why) = &snapshot.degraded {
        field(out, "DEGRADED", why)?;
    }
    overflows(out, snapshot)?;
    let count = |fullness| -> usize { groups.iter().map(|group| group.count(fullness)).sum() };
    let (full, flooded) = (count(Fullness::Full), count(Fullness::SynFull));
    let sockets = snapshot.listeners.len();
    let addresses = match groups.len() {
        1 => "1 address".into(),
        number => format!("{number} addresses"),
    };
    field(
        out,
        "sockets",
        &format!("{sockets} at {addresses}; accept queue full: {full}; SYN queue full: {flooded}"),
    )?;
    let latency = snapshot.accept_latency.as_deref();
    let title = format!(
        "{:<8}{:>6} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}{}  address",
        "",
        "port",
        "queue",
        "limit",
        "peak",
        "syn",
        "of",
        "retrans",
        "drops",
        "uid",
        latency.map_or_else(String::new, |_| percentiles(
            ["p50 ms", "p99 ms"].map(Into::into)
        ))
    );
    let mut lines: Vec<_> = groups
        .iter()
        .flat_map(|group| rows(group, latency))
        .collect();
    let has_units = lines.iter().any(|(_, unit)| unit.is_some());
    lines.insert(0, (title, has_units.then_some("unit")));
    let longest = lines.iter().map(|(line, _)| line.len()).max().unwrap_or(0);
    writeln!(out)?;
    for (line, unit) in lines {
        match unit {
            Some(unit) => writeln!(out, "{line:<longest$}  {}", printable(unit))?,
            None => writeln!(out, "{line}")?,
        }
    }
    Ok(())
}

/// The line of a group, and those of its sockets if there are several; each with its unit, where it is known.
fn rows<'a>(
    group: &Group<'a>,
    latency: Option<&[AcceptLatency]>,
) -> Vec<(String, Option<&'a str>)> {
    let (address, port) = group.address();
    let latency = latency.map(|ports| accept_latency(ports, port));
    let count = group.sockets.len();
    let together = Row {
        port: port.to_string(),
        fullness: group.fullness(),
        queue: group.accept_queue(),
        limit: group.accept_queue_limit(),
        peak: group.accept_queue_peak(),
        syn: group.syn_queue(),
        syn_limit: group.syn_queue_limit(),
        retransmitted: group.syn_queue_retransmitted(),
        drops: group.drops(),
        uid: group.uid(),
        latency: latency.clone().unwrap_or_default(),
        address: match count {
            1 => address.to_string(),
            _ => format!("{address}  {count} sockets together"),
        },
    };
    let mut lines = vec![(together.to_string(), group.unit())];
    if count == 1 {
        return lines;
    }
    for (number, socket) in (1..).zip(&group.sockets) {
        let apart = Row {
            port: String::new(),
            fullness: socket.fullness(),
            queue: socket.accept_queue.into(),
            limit: socket.accept_queue_limit.into(),
            peak: socket.accept_queue_peak.map(u64::from),
            syn: socket.syn_queue.map(u64::from),
            syn_limit: socket.syn_queue_limit.map(u64::from),
            retransmitted: socket.syn_queue_retransmitted.map(u64::from),
            drops: socket.drops.map(u64::from),
            uid: socket.uid,
            // They share the one of their port.
            latency: latency
                .as_ref()
                .map_or_else(String::new, |_| percentiles(<_>::default())),
            address: format!("  {number} of {count}"),
        };
        lines.push((apart.to_string(), socket.unit.as_deref()));
    }
    lines
}

/// Median and 99th percentile of a port; dashes where nothing was accepted.
fn accept_latency(ports: &[AcceptLatency], port: u16) -> String {
    let milliseconds = |seconds: f64| match seconds * 1000.0 {
        few if few < 10.0 => format!("{few:.1}"),
        many => format!("{many:.0}"),
    };
    let found = ports.iter().find(|one| one.port == Some(port));
    percentiles(found.map_or_else(
        || ["-", "-"].map(Into::into),
        |one| [one.p50_seconds, one.p99_seconds].map(milliseconds),
    ))
}

fn percentiles([p50, p99]: [String; 2]) -> String {
    format!(" {p50:>7} {p99:>7}")
}

/// What stands beside each other.
struct Row {
    port: String,
    fullness: Fullness,
    queue: u64,
    limit: u64,
    peak: Option<u64>,
    syn: Option<u64>,
    syn_limit: Option<u64>,
    retransmitted: Option<u64>,
    drops: Option<u64>,
    uid: Option<u32>,
    /// Two columns, or none.
    latency: String,
    address: String,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = self.fullness.name();
        let known = |number: Option<u64>| number.map_or_else(|| "-".into(), |n| n.to_string());
        let [peak, syn, of] = [self.peak, self.syn, self.syn_limit].map(known);
        let [retransmitted, drops] = [self.retransmitted, self.drops].map(known);
        let uid = known(self.uid.map(u64::from));
        let Self {
            port,
            queue,
            limit,
            latency,
            address,
            ..
        } = self;
        write!(
            f,
            "{mark:<8}{port:>6} {queue:>7} {limit:>7} {peak:>7} {syn:>7} {of:>7} {retransmitted:>7} {drops:>7} {uid:>7}{latency}  {address}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Listeners, render};
    use crate::snapshot::{
        AcceptLatency, Listener, Overflows, QueueRates, Snapshot, Syncookies, Tier,
    };

    fn listener(address: &str, port: u16, queue: u32) -> Listener {
        Listener {
            uid: Some(1000),
            reuseport: true,
            accept_queue: queue,
            accept_queue_peak: Some(queue.max(5)),
            drops: Some(queue.saturating_sub(128) * 4),
            ..Listener::new(address.parse().unwrap(), port, 128)
        }
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            overflows: Some(Overflows {
                listen_overflows: 4,
                listen_drops: 6,
            }),
            listeners: vec![
                listener("::1", 8080, 3),
                Listener {
                    unit: Some("web.service".into()),
                    ..listener("::", 443, 129)
                },
                listener("::", 443, 1),
                Listener {
                    syn_queue: Some(128),
                    syn_queue_retransmitted: Some(96),
                    syn_queue_limit: Some(128),
                    unit: Some("a\u{7}.service".into()),
                    ..listener("::1", 8443, 0)
                },
            ],
            syncookies: Some(Syncookies {
                sent: 9,
                received: 8,
                failed: 7,
                queue_full_cookies: 6,
                queue_full_drops: 5,
            }),
            queue_rates: Some(QueueRates {
                window_seconds: 60.0,
                listen_overflows: 0.0,
                listen_drops: 1.5,
                syncookies_sent: 0.0,
                syncookies_failed: 0.05,
            }),
            ..Snapshot::of(Tier::Full, 7, <_>::default())
        }
    }

    #[test]
    fn a_group_stands_together_and_apart() {
        let expected = "\
netns     7
overflows 4 for a full accept queue, 6 drops in all (1.5/s)
cookies   9 sent, 8 valid, 7 invalid (0.050/s); full SYN queue: 6 cookies, 5
          drops
sockets   4 at 3 addresses; accept queue full: 1; SYN queue full: 1

          port   queue   limit    peak     syn      of retrans   drops     uid  address                 unit
FULL       443     130     256     134       -       -       -       4    1000  ::  2 sockets together
FULL               129     128     129       -       -       -       4    1000    1 of 2                web.service
                     1     128       5       -       -       -       0    1000    2 of 2
SYN FULL  8443       0     128       5     128     128      96       0    1000  ::1                     a.service
          8080       3     128       5       -       -       -       0    1000  ::1
";
        assert_eq!(render(&snapshot()), expected);
    }

    #[test]
    fn accept_latency_has_columns_where_it_is_measured() {
        let mut measured = snapshot();
        let mut buckets = [0; 13];
        (buckets[0], buckets[5]) = (90, 10);
        measured.accept_latency = Some(vec![AcceptLatency::new(Some(443), buckets, 1.0)]);
        let text = render(&measured);
        let rows: Vec<_> = text.lines().skip(6).collect();
        assert_eq!(
            rows,
            [
                "          port   queue   limit    peak     syn      of retrans   drops     uid  p50 ms  p99 ms  address                 unit",
                "FULL       443     130     256     134       -       -       -       4    1000     0.6      95  ::  2 sockets together",
                "FULL               129     128     129       -       -       -       4    1000                    1 of 2                web.service",
                "                     1     128       5       -       -       -       0    1000                    2 of 2",
                "SYN FULL  8443       0     128       5     128     128      96       0    1000       -       -  ::1                     a.service",
                "          8080       3     128       5       -       -       -       0    1000       -       -  ::1",
            ]
        );
    }

    #[test]
    fn json_is_a_part_of_the_whole_reading() {
        let snapshot = snapshot();
        let part = serde_json::to_value(Listeners::from(&snapshot)).unwrap();
        let whole = serde_json::to_value(&snapshot).unwrap();
        let part = part.as_object().unwrap();
        assert_eq!(part.len(), 9);
        for (key, value) in part {
            assert_eq!(value, &whole[key], "{key}");
        }
    }
}
