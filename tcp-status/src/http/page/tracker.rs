//! The tracker itself: how it counts, what its audits found, what it cost to say so.

use std::{fmt, time::Duration};

use prometheus_client::registry::Unit;

use super::{NO_NETNS, Pen, Reading, Scrapes, connections::by_state};

pub(super) fn write(pen: &mut Pen<'_>, readings: &[Reading]) -> fmt::Result {
    pen.infos(
        "tcp_status_tier",
        "Counting tier: full, reduced or scan; tcp-status show gives the reason.",
        readings
            .iter()
            .map(|one| (&*one.netns, [("tier", one.of.tier.name())], ())),
    )?;
    pen.gauges(
        ("tcp_status_degraded", None),
        "1 while a number may be off by a little; /readyz says why.",
        readings.iter().map(|reading| {
            (
                &*reading.netns,
                [],
                u32::from(reading.of.degraded.is_some()),
            )
        }),
    )?;
    write_events(pen, readings)?;
    write_audits(pen, readings)
}

fn write_events(pen: &mut Pen<'_>, readings: &[Reading]) -> fmt::Result {
    pen.counters(
        ("tcp_status_events", None),
        "State changes that were counted.",
        readings
            .iter()
            .filter_map(|one| Some((&*one.netns, [], one.of.events?.counted))),
    )?;
    // The kernel's own loss has no namespace: every reading has the same number.
    let missed = readings
        .iter()
        .filter_map(|one| one.of.events)
        .map(|events| events.missed)
        .max();
    pen.counters(
        ("tcp_status_missed_events", None),
        "State changes of any namespace that the kernel told no program; each leads to an audit.",
        missed.map(|missed| (NO_NETNS, [], missed)),
    )
}

fn write_audits(pen: &mut Pen<'_>, readings: &[Reading]) -> fmt::Result {
    pen.counters(
        ("tcp_status_drift_corrections", None),
        "Differences that audits corrected.",
        readings
            .iter()
            .flat_map(|one| by_state(one, &one.of.drift.corrections_by_state)),
    )?;
    pen.counters(
        ("tcp_status_audits", None),
        "Audits: walks over all sockets that compare and correct.",
        readings
            .iter()
            .map(|one| (&*one.netns, [], one.of.drift.audits)),
    )?;
    pen.gauges(
        ("tcp_status_audit_age", Some(Unit::Seconds)),
        "Time since the last audit; there is none while no state changes.",
        readings
            .iter()
            .filter_map(|one| Some((&*one.netns, [], one.of.drift.last_audit_seconds_ago?))),
    )?;
    pen.gauges(
        ("tcp_status_audit_duration", Some(Unit::Seconds)),
        "How long the last audit took.",
        readings.iter().filter_map(|one| {
            let took = Duration::from_micros(one.of.drift.last_audit_microseconds?);
            Some((&*one.netns, [], took.as_secs_f64()))
        }),
    )
}

/// What is of the process, not of a namespace.
pub(super) fn write_own(pen: &mut Pen<'_>, scrapes: &Scrapes) -> fmt::Result {
    pen.infos(
        "tcp_status_build",
        "The version of tcp-status.",
        [(NO_NETNS, [("version", env!("CARGO_PKG_VERSION"))], ())],
    )?;
    pen.counters(
        ("tcp_status_scrapes", None),
        "Scrapes of this page, this one included.",
        [(NO_NETNS, [], scrapes.begun)],
    )?;
    pen.counters(
        ("tcp_status_scrape_errors", None),
        "Scrapes that got no page, because there was no reading.",
        [(NO_NETNS, [], scrapes.failed)],
    )?;
    pen.gauges(
        ("tcp_status_scrape_duration", Some(Unit::Seconds)),
        "How long the reading took that this page is made from.",
        [(NO_NETNS, [], scrapes.took.as_secs_f64())],
    )
}
