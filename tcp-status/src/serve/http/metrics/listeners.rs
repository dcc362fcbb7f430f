//! Listening sockets: their queues, by address and port, and what the queues could not take.

use std::fmt;

use prometheus_client::{encoding::EncodeGaugeValue, registry::Unit};

use super::{MetricWriter, NetnsSnapshot};
use crate::snapshot::{AcceptLatency, Group, Listener, Overflows, Syncookies};

/// Of the socket that is worst off: a full one among empty ones turns clients away. None where nothing
/// samples the queues.
fn peak_ratio(group: &Group<'_>) -> Option<f64> {
    // 1 where it was full: the kernel admits one more than the limit.
    let of_one = |socket: &&Listener| {
        let peak = f64::from(socket.accept_queue_peak?);
        Some(peak / (f64::from(socket.accept_queue_limit) + 1.0))
    };
    let mut ratios = group.sockets.iter().map(of_one);
    ratios.try_fold(0.0, |most: f64, ratio| Some(most.max(ratio?)))
}

/// A reading and its listening sockets by address, with their labels.
type Grouped<'a> = (&'a NetnsSnapshot, Vec<([String; 2], Group<'a>)>);

fn grouped(reading: &NetnsSnapshot) -> Grouped<'_> {
    let groups = reading.of.groups().into_iter().map(|group| {
        let (address, port) = group.address();
        ([address.to_string(), port.to_string()], group)
    });
    (reading, groups.collect())
}

pub(super) fn write(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    let all: Vec<_> = snapshots.iter().map(grouped).collect();
    family(
        writer,
        &all,
        "tcp_status_listeners",
        "Listening sockets of this address and port.",
        |group| Some(group.sockets.len()),
    )?;
    family(
        writer,
        &all,
        "tcp_status_accept_queue_length",
        "Connections that wait for accept(), of all sockets of this address and port.",
        |group| Some(group.accept_queue()),
    )?;
    family(
        writer,
        &all,
        "tcp_status_accept_queue_limit",
        "How many may wait: the smaller of listen()'s backlog and net.core.somaxconn, of all sockets \
         together; the kernel admits one more each.",
        |group| Some(group.accept_queue_limit()),
    )?;
    family(
        writer,
        &all,
        "tcp_status_accept_queue_peak",
        "The most that were seen waiting within the window: the sum of each socket's own peak.",
        |group| group.accept_queue_peak(),
    )?;
    family(
        writer,
        &all,
        "tcp_status_accept_queue_peak_ratio",
        "The fullest that any one socket was within the window; 1 is full.",
        peak_ratio,
    )?;
    family(
        writer,
        &all,
        "tcp_status_syn_queue_length",
        "Half-open connections, of all sockets of this address and port.",
        |group| group.syn_queue(),
    )?;
    family(
        writer,
        &all,
        "tcp_status_syn_queue_retransmitted",
        "Half-open connections whose SYN+ACK timer has expired, of all sockets of this address and port, \
         where there are any.",
        |group| group.syn_queue_retransmitted().filter(|count| *count > 0),
    )?;
    family(
        writer,
        &all,
        "tcp_status_syn_queue_limit",
        "With so many half-open connections the kernel drops the next SYN, or answers it with a \
         cookie; of all sockets together.",
        |group| group.syn_queue_limit(),
    )?;
    family(
        writer,
        &all,
        "tcp_status_listener_drops",
        "Segments and handshakes that the sockets of this address and port dropped, each since it was created; \
         falls when one of several closes.",
        |group| group.drops(),
    )?;
    write_accept_latency(writer, snapshots)?;
    write_overflows(writer, snapshots)?;
    write_syncookies(writer, snapshots)
}

fn family<V: EncodeGaugeValue>(
    writer: &mut MetricWriter<'_>,
    all: &[Grouped<'_>],
    name: &str,
    help: &str,
    value: impl Fn(&Group<'_>) -> Option<V> + Copy,
) -> fmt::Result {
    let samples = all.iter().flat_map(|(reading, groups)| {
        groups.iter().filter_map(move |([address, port], group)| {
            let labels = [("address", address.as_str()), ("port", port.as_str())];
            Some((&*reading.netns, labels, value(group)?))
        })
    });
    writer.gauges((name, None), help, samples)
}

fn write_accept_latency(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    let rows: Vec<_> = snapshots
        .iter()
        .flat_map(|one| {
            let ports = one.of.accept_latency.iter().flatten();
            ports.map(|latency| (&*one.netns, port_label(latency.port), latency))
        })
        .collect();
    writer.histograms(
        ("tcp_status_accept_latency", Some(Unit::Seconds)),
        "Time that connections waited for accept(), by local port, in whole jiffies; port other is what \
         is beyond the limit of ports.",
        rows.iter().map(|(netns, port, latency)| {
            let buckets = AcceptLatency::bounds().zip(latency.buckets).collect();
            (*netns, [("port", port.as_str())], (latency.sum_seconds, buckets))
        }),
    )
}

fn port_label(port: Option<u16>) -> String {
    port.map_or_else(|| "other".into(), |port| port.to_string())
}

fn write_overflows(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    let of = |value: fn(&Overflows) -> u64| {
        snapshots.iter().filter_map(move |reading| {
            Some((&*reading.netns, [], value(reading.of.overflows.as_ref()?)))
        })
    };
    writer.counters(
        ("tcp_status_listen_overflows", None),
        "Complete handshakes that found the accept queue full, since the namespace was made \
         (ListenOverflows).",
        of(|overflows| overflows.listen_overflows),
    )?;
    writer.counters(
        ("tcp_status_listen_drops", None),
        "The same, and handshakes that were dropped for another reason (ListenDrops).",
        of(|overflows| overflows.listen_drops),
    )
}

fn write_syncookies(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    type Counter = (&'static str, &'static str, fn(&Syncookies) -> u64);
    let counters: [Counter; 5] = [
        (
            "tcp_status_syncookies_sent",
            "SYN-ACKs with a cookie, since the namespace was made (SyncookiesSent).",
            |of| of.sent,
        ),
        (
            "tcp_status_syncookies_received",
            "Handshakes that a valid cookie completed (SyncookiesRecv).",
            |of| of.received,
        ),
        (
            "tcp_status_syncookies_failed",
            "ACKs with an invalid cookie (SyncookiesFailed).",
            |of| of.failed,
        ),
        (
            "tcp_status_syn_queue_full_cookies",
            "SYNs to a full SYN queue that were answered with a cookie (TCPReqQFullDoCookies).",
            |of| of.queue_full_cookies,
        ),
        (
            "tcp_status_syn_queue_full_drops",
            "SYNs to a full SYN queue that were dropped (TCPReqQFullDrop).",
            |of| of.queue_full_drops,
        ),
    ];
    for (name, help, value) in counters {
        let samples = snapshots.iter().filter_map(|reading| {
            Some((&*reading.netns, [], value(reading.of.syncookies.as_ref()?)))
        });
        writer.counters((name, None), help, samples)?;
    }
    Ok(())
}
