//! Connections: by state and family, by port, their changes, their peaks, and those that sit.

use std::{cmp::Reverse, fmt};

use prometheus_client::registry::Unit;
use tcp_status_common::state::State::{
    self, CloseWait, Closed, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv,
    SynSent, TimeWait,
};

use super::{MetricWriter, NetnsSnapshot, Sample};
use crate::snapshot::{CgroupName, Counts, Stale, StateSeconds, Transitions};

/// State changes that TCP knows: their series are there before the first one happens, so that the
/// first one is seen as an increase.
const USUAL: [(State, State); 25] = [
    (Closed, SynSent),
    (Closed, Listen),
    (Listen, SynRecv),
    (Listen, Closed),
    (SynSent, SynRecv),
    (SynSent, Established),
    (SynSent, Closed),
    (SynRecv, Established),
    (SynRecv, FinWait1),
    (SynRecv, Closed),
    (Established, FinWait1),
    (Established, CloseWait),
    (Established, Closed),
    (FinWait1, FinWait2),
    (FinWait1, Closing),
    (FinWait1, TimeWait),
    (FinWait1, Closed),
    (FinWait2, TimeWait),
    (FinWait2, Closed),
    (Closing, TimeWait),
    (Closing, Closed),
    (TimeWait, Closed),
    (CloseWait, LastAck),
    (CloseWait, Closed),
    (LastAck, Closed),
];

pub(super) fn write_by_state<'a>(
    writer: &mut MetricWriter<'_>,
    snapshots: impl Iterator<Item = &'a NetnsSnapshot>,
) -> fmt::Result {
    let families = snapshots.flat_map(|reading| {
        let families = [("ipv4", &reading.of.ipv4), ("ipv6", &reading.of.ipv6)];
        families.into_iter().flat_map(move |(family, counts)| {
            let sample = move |(state, count): (State, u64)| {
                let labels = [("state", state.name()), ("family", family)];
                (&*reading.netns, labels, count)
            };
            counts.iter().map(sample)
        })
    });
    writer.gauges(
        ("tcp_status_connections", None),
        "TCP sockets by state and address family, as the kernel lists them.",
        families,
    )
}

pub(super) fn write(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    write_changes(writer, snapshots)?;
    write_ends(writer, snapshots)?;
    write_time_in_state(writer, snapshots)?;
    write_ports(writer, snapshots)?;
    write_peaks(writer, snapshots)?;
    write_stale(writer, snapshots)
}

fn write_changes(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    let changes = snapshots.iter().flat_map(|reading| {
        let change = |(from, to, count)| (&*reading.netns, [("from", from), ("to", to)], count);
        let transitions = reading.of.transitions.as_ref();
        transitions.map(changes).into_iter().flatten().map(change)
    });
    writer.counters(
        ("tcp_status_transitions", None),
        "State changes; closed stands for a socket that was, or is, in no state.",
        changes,
    )
}

fn write_time_in_state(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    writer.counters(
        ("tcp_status_state", Some(Unit::Seconds)),
        "Seconds that sockets were in each state, summed over sockets, from samples: its rate is the \
         mean number of connections, and divided by the rate of transitions out of the state the mean \
         time in it.",
        snapshots.iter().flat_map(|one| {
            let states = one.of.state_seconds.iter().flat_map(StateSeconds::iter);
            states.map(|(state, seconds)| (&*one.netns, [("state", state.name())], seconds))
        }),
    )
}

fn write_ends(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    let ends = || {
        snapshots
            .iter()
            .filter_map(|one| Some((&*one.netns, one.of.ends?)))
    };
    writer.counters(
        ("tcp_status_connect_failures", None),
        "connect() that failed, by reason.",
        ends().flat_map(|(netns, ends)| {
            let by_reason = ends.connect_failures.by_reason().into_iter();
            by_reason.map(move |(reason, count)| (netns, [("reason", reason)], count))
        }),
    )?;
    writer.counters(
        ("tcp_status_no_local_port", None),
        "connect() that failed because every local port that it may choose is in use.",
        ends().map(|(netns, ends)| (netns, [], ends.no_local_port)),
    )?;
    write_destinations(writer, snapshots)?;
    writer.counters(
        ("tcp_status_connection_ends", None),
        "Connections that ended, by reason; closed is the normal one.",
        ends().flat_map(|(netns, ends)| {
            let by_reason = ends.connection_ends.by_reason().into_iter();
            by_reason.map(move |(reason, count)| (netns, [("reason", reason)], count))
        }),
    )
}

/// Of those without a local port: those of each namespace with the most, so that a page stays short.
fn write_destinations(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    const MOST: usize = 10;
    let most = snapshots.iter().flat_map(|one| {
        let here = one.of.no_local_port_destinations.iter().flatten();
        let mut here: Vec<_> = here.collect();
        here.sort_by_key(|to| Reverse(to.failures));
        here.truncate(MOST);
        here.into_iter().map(|to| {
            let (address, port) = (to.address.to_string(), to.port.to_string());
            (&*one.netns, address, port, to.failures)
        })
    });
    let most: Vec<_> = most.collect();
    writer.counters(
        ("tcp_status_no_local_port_by_destination", None),
        "connect() that failed because every local port was in use, by destination; the ten of a namespace with the most failures.",
        most.iter().map(|(netns, address, port, failures)| {
            let labels = [("address", address.as_str()), ("port", port.as_str())];
            (*netns, labels, *failures)
        }),
    )
}

/// The usual ones, counted or not, and all others that were counted.
fn changes(transitions: &Transitions) -> Vec<(&str, &str, u64)> {
    let mut changes: Vec<_> = USUAL.map(|(from, to)| (from.name(), to.name(), 0)).into();
    for (from, to, count) in &transitions.flows {
        match changes.iter_mut().find(|(f, t, _)| f == from && t == to) {
            Some(usual) => usual.2 = *count,
            None => changes.push((from, to, *count)),
        }
    }
    changes
}

fn write_ports(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    let ports: Vec<_> = snapshots.iter().map(ports).collect();
    let states = snapshots.iter().zip(&ports).flat_map(|(reading, ports)| {
        ports.iter().flat_map(move |(port, counts)| {
            let sample = move |(state, count): (State, u64)| {
                let labels = [("port", port.as_str()), ("state", state.name())];
                (&*reading.netns, labels, count)
            };
            let some = |(state, count): &(State, u64)| *state != Closed && *count > 0;
            counts.iter().filter(some).map(sample)
        })
    });
    writer.gauges(
        ("tcp_status_port_connections", None),
        "TCP sockets by local port that has or had a listener, and state, where there are any; \
         port other is what is beyond the limit of ports.",
        states,
    )?;
    write_port_ends(writer, snapshots)?;
    let outgoing = snapshots.iter().flat_map(|one| {
        let counts = one.of.ports.outgoing.iter();
        let states = counts.flat_map(|counts| by_state(one, counts));
        states.filter(|(_, [(_, state)], _)| *state != Closed.name())
    });
    writer.gauges(
        ("tcp_status_outgoing_connections", None),
        "TCP sockets whose local port has no listener, by state: with those of all ports they are \
         tcp_status_connections.",
        outgoing,
    )?;
    writer.gauges(
        ("tcp_status_ephemeral_ports", None),
        "Local ports that connect() chooses from: net.ipv4.ip_local_port_range without reserved \
         ones.",
        snapshots
            .iter()
            .filter_map(|one| Some((&*one.netns, [], one.of.ephemeral_ports?))),
    )?;
    write_fullest(writer, snapshots)?;
    writer.gauges(
        ("tcp_status_ports_limit", None),
        "Maximum number of ports counted individually.",
        snapshots
            .iter()
            .filter_map(|one| Some((&*one.netns, [], one.of.ports.limit?))),
    )?;
    writer.gauges(
        ("tcp_status_ports_unaudited", None),
        "Ports that got their first listener a moment ago: connections that they had before are \
         not in their counts until the next audit.",
        snapshots
            .iter()
            .map(|one| (&*one.netns, [], one.of.ports.unaudited.len())),
    )
}

/// At most one destination of a namespace, while walks find one.
fn write_fullest(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    let all = || {
        snapshots.iter().filter_map(|one| {
            let fullest = one.of.fullest_destination.as_ref()?;
            let labels = [("destination", fullest.destination.as_str())];
            Some((&*one.netns, labels, fullest))
        })
    };
    writer.gauges(
        ("tcp_status_fullest_destination_used_ratio", None),
        "Part of the ephemeral ports in use to the destination that uses up the most, if many are; 1 is all.",
        all().map(|(netns, labels, fullest)| (netns, labels, fullest.used_ratio())),
    )?;
    writer.gauges(
        ("tcp_status_fullest_destination_full", Some(Unit::Seconds)),
        "Seconds until that destination has used up all, at the rate of the last walks.",
        all().filter_map(|(netns, labels, fullest)| {
            Some((netns, labels, fullest.seconds_until_exhausted?))
        }),
    )
}

/// For each reason, happened or not, so that the first one is seen as an increase.
fn write_port_ends(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    let all = snapshots.iter().flat_map(|one| {
        let ports = one.of.ports.tracked.iter();
        ports.filter_map(|port| {
            let ends = port.connection_ends?;
            Some((&*one.netns, port.port.to_string(), ends.by_reason()))
        })
    });
    let all: Vec<_> = all.collect();
    writer.counters(
        ("tcp_status_port_connection_ends", None),
        "Connections that ended, by local port and reason; only ports that are listed individually.",
        all.iter().flat_map(|(netns, port, reasons)| {
            let labels = |reason| [("port", port.as_str()), ("reason", reason)];
            reasons
                .iter()
                .map(move |&(reason, count)| (*netns, labels(reason), count))
        }),
    )
}

fn ports(reading: &NetnsSnapshot) -> Vec<(String, &Counts)> {
    let ports = &reading.of.ports;
    let tracked = ports
        .tracked
        .iter()
        .map(|one| (one.port.to_string(), &one.states));
    let other = ports.other.iter().map(|counts| ("other".into(), counts));
    tracked.chain(other).collect()
}

pub(super) fn write_cgroups(
    writer: &mut MetricWriter<'_>,
    snapshots: &[&NetnsSnapshot],
) -> fmt::Result {
    let rows: Vec<_> = snapshots.iter().map(|one| cgroups(one)).collect();
    let states = snapshots.iter().zip(&rows).flat_map(|(reading, rows)| {
        rows.iter().flat_map(move |(path, name, counts)| {
            let text = |part: fn(&CgroupName) -> &Option<String>| {
                let part = name.and_then(|name| part(name).as_deref());
                part.unwrap_or_default()
            };
            let unit = text(|name| &name.unit);
            let (container, pod) = (text(|name| &name.container), text(|name| &name.pod));
            let sample = move |(state, count): (State, u64)| {
                let labels = [
                    ("cgroup", path.as_str()),
                    ("unit", unit),
                    ("container", container),
                    ("pod", pod),
                    ("state", state.name()),
                ];
                (&*reading.netns, labels, count)
            };
            let some = |(state, count): &(State, u64)| *state != Closed && *count > 0;
            counts.iter().filter(some).map(sample)
        })
    });
    writer.gauges(
        ("tcp_status_cgroup_connections", None),
        "TCP sockets by path of their cgroup, its systemd unit, container and pod, and state, where \
         there are any; cgroup other is what is beyond the limit, unattributed what has no cgroup.",
        states,
    )
}

/// Path, names and counts of each row.
fn cgroups(reading: &NetnsSnapshot) -> Vec<(String, Option<&CgroupName>, &Counts)> {
    let Some(cgroups) = &reading.of.cgroups else {
        return Vec::new();
    };
    let tracked = cgroups.tracked.iter().map(|one| {
        let path = one.name.path.clone();
        let path = path.unwrap_or_else(|| format!("removed:{}", one.id));
        (path, Some(&one.name), &one.states)
    });
    let other = cgroups
        .other
        .iter()
        .map(|counts| ("other".into(), None, counts));
    let unattributed = ("unattributed".into(), None, &cgroups.unattributed);
    tracked.chain(other).chain([unattributed]).collect()
}

fn write_peaks(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    let peaks = || {
        snapshots
            .iter()
            .filter_map(|one| Some((one, one.of.peaks.as_ref()?)))
    };
    writer.gauges(
        ("tcp_status_connections_peak", None),
        "The largest sample of each state within the window.",
        peaks().flat_map(|(reading, peaks)| by_state(reading, &peaks.max)),
    )?;
    writer.gauges(
        ("tcp_status_connections_low", None),
        "The smallest sample of each state within the window.",
        peaks().flat_map(|(reading, peaks)| by_state(reading, &peaks.min)),
    )?;
    writer.gauges(
        ("tcp_status_peak_window", Some(Unit::Seconds)),
        "How far back peaks reach: what the scrape asked for, or the time since start.",
        peaks().map(|(reading, peaks)| (&*reading.netns, [], peaks.window_seconds)),
    )
}

fn write_stale(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    let stale = || {
        snapshots
            .iter()
            .filter_map(|one| Some((one, one.of.stale.as_ref()?)))
    };
    let states = |stale: &Stale| [(CloseWait, stale.closewait), (FinWait2, stale.finwait2)];
    writer.gauges(
        ("tcp_status_stale_connections", None),
        "Connections that have sat in a state for longer than tcp_status_stale_threshold_seconds.",
        stale().flat_map(|(reading, stale)| {
            let sample =
                |(state, count): (State, u64)| (&*reading.netns, [("state", state.name())], count);
            states(stale).map(sample)
        }),
    )?;
    writer.gauges(
        ("tcp_status_stale_threshold", Some(Unit::Seconds)),
        "How long a stale connection has been in its state at least.",
        stale().map(|(reading, stale)| (&*reading.netns, [], stale.older_than_seconds)),
    )?;
    writer.gauges(
        ("tcp_status_stale_age", Some(Unit::Seconds)),
        "Time since the walk that looked for stale connections.",
        stale().map(|(reading, stale)| (&*reading.netns, [], stale.walked_seconds_ago)),
    )
}

/// For dashboards and rules that were made for node_exporter.
pub(super) fn write_as_node_exporter<'a>(
    writer: &mut MetricWriter<'_>,
    snapshots: impl Iterator<Item = &'a NetnsSnapshot>,
) -> fmt::Result {
    let spelled = |state| match state {
        SynSent => "syn_sent",
        SynRecv => "syn_recv",
        FinWait1 => "fin_wait1",
        FinWait2 => "fin_wait2",
        TimeWait => "time_wait",
        Closed => "close",
        CloseWait => "close_wait",
        LastAck => "last_ack",
        Established | Listen | Closing => state.name(),
    };
    writer.gauges(
        ("node_tcp_connection_states", None),
        "Number of connection states.",
        snapshots.flat_map(|reading| {
            let sample =
                move |(state, count)| (&*reading.netns, [("state", spelled(state))], count);
            reading.of.states.iter().map(sample)
        }),
    )
}

/// One sample per state.
pub(super) fn by_state<'a>(
    reading: &'a NetnsSnapshot,
    counts: &'a Counts,
) -> impl Iterator<Item = Sample<'a, 1, u64>> {
    counts
        .iter()
        .map(|(state, count)| (&*reading.netns, [("state", state.name())], count))
}
