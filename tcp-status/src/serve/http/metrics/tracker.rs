//! The tracker itself: how it counts, what its audits found, what it cost to say so.

use std::{fmt, time::Duration};

use prometheus_client::registry::Unit;

use super::{MetricWriter, NO_NETNS, NetnsSnapshot, Scrapes, connections::by_state};

pub(super) fn write(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    writer.infos(
        "tcp_status_tier",
        "Counting tier: full, reduced or scan; tcp-status show gives the reason.",
        snapshots
            .iter()
            .map(|one| (&*one.netns, [("tier", one.of.tier.name())], ())),
    )?;
    writer.gauges(
        ("tcp_status_degraded", None),
        "1 while a number may be off by a little; /readyz says why.",
        snapshots.iter().map(|reading| {
            (
                &*reading.netns,
                [],
                u32::from(reading.of.degraded.is_some()),
            )
        }),
    )?;
    write_events(writer, snapshots)?;
    write_audits(writer, snapshots)
}

fn write_events(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    writer.counters(
        ("tcp_status_events", None),
        "State changes that were counted.",
        snapshots
            .iter()
            .filter_map(|one| Some((&*one.netns, [], one.of.events?.counted))),
    )?;
    // The kernel's own loss has no namespace: every reading has the same number.
    let missed = snapshots
        .iter()
        .filter_map(|one| one.of.events)
        .map(|events| events.missed)
        .max();
    writer.counters(
        ("tcp_status_missed_events", None),
        "State changes of any namespace that reached no eBPF program; each leads to an audit.",
        missed.map(|missed| (NO_NETNS, [], missed)),
    )
}

fn write_audits(writer: &mut MetricWriter<'_>, snapshots: &[NetnsSnapshot]) -> fmt::Result {
    writer.counters(
        ("tcp_status_drift_corrections", None),
        "Differences that audits corrected.",
        snapshots
            .iter()
            .flat_map(|one| by_state(one, &one.of.drift.corrections_by_state)),
    )?;
    writer.counters(
        ("tcp_status_audits", None),
        "Audits: walks over all sockets that compare and correct.",
        snapshots
            .iter()
            .map(|one| (&*one.netns, [], one.of.drift.audits)),
    )?;
    writer.gauges(
        ("tcp_status_audit_age", Some(Unit::Seconds)),
        "Time since the last audit; there is none while no state changes.",
        snapshots
            .iter()
            .filter_map(|one| Some((&*one.netns, [], one.of.drift.last_audit_seconds_ago?))),
    )?;
    writer.gauges(
        ("tcp_status_audit_duration", Some(Unit::Seconds)),
        "How long the last audit took.",
        snapshots.iter().filter_map(|one| {
            let took = Duration::from_micros(one.of.drift.last_audit_microseconds?);
            Some((&*one.netns, [], took.as_secs_f64()))
        }),
    )
}

/// What is of the process, not of a namespace.
pub(super) fn write_own(writer: &mut MetricWriter<'_>, scrapes: &Scrapes) -> fmt::Result {
    writer.infos(
        "tcp_status_build",
        "The version of tcp-status.",
        [(NO_NETNS, [("version", env!("CARGO_PKG_VERSION"))], ())],
    )?;
    writer.counters(
        ("tcp_status_scrapes", None),
        "Scrapes of this page, this one included.",
        [(NO_NETNS, [], scrapes.begun)],
    )?;
    writer.counters(
        ("tcp_status_scrape_errors", None),
        "Scrapes that got no page, because there was no reading.",
        [(NO_NETNS, [], scrapes.failed)],
    )?;
    writer.gauges(
        ("tcp_status_scrape_duration", Some(Unit::Seconds)),
        "How long the reading took that this page is made from.",
        [(NO_NETNS, [], scrapes.took.as_secs_f64())],
    )
}
