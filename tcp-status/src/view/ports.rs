//! Connections by local port as a table, and as JSON. The rows add up to the totals of `show`.

use std::{cmp::Reverse, collections::BTreeMap, fmt};

use serde::Serialize;
use tcp_status_common::state::State;

use super::{
    field::{aborted_at, field, subject},
    rows,
};
use crate::snapshot::{ConnectionEnds, Counts, PortCounts, Snapshot};

/// What the rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Connections in one state, the most first.
    State(State),
    /// Sockets in all states, the most first.
    Total,
    /// Port number, ascending.
    Port,
}

/// Which rows are listed. What is left out is in [`Rest`].
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// The order of the rows.
    pub sort: Sort,
    /// At most so many rows.
    pub limit: Option<usize>,
    /// Ports without connections too.
    pub all: bool,
}

/// The JSON form of the rows.
#[derive(Debug, Serialize)]
pub struct Ports<'a> {
    schema: u32,
    netns: u32,
    netns_name: Option<&'a str>,
    degraded: Option<&'a str>,
    ports: Vec<Row<'a>>,
    rest: Option<Rest>,
    outgoing: Option<Counts>,
    other: Option<Counts>,
    limit: Option<u32>,
    unaudited: &'a [u16],
}

/// One listening port.
#[derive(Debug, Serialize)]
struct Row<'a> {
    port: u16,
    /// The systemd unit of its listeners; none where they have several, or it is not known.
    unit: Option<&'a str>,
    states: Counts,
    connection_ends: Option<ConnectionEnds>,
}

/// Listening ports that are not listed, together.
#[derive(Debug, Default, Serialize)]
struct Rest {
    ports: usize,
    states: Counts,
}

impl<'a> Ports<'a> {
    /// The listening ports of a reading, as far as they are selected.
    #[must_use]
    pub fn new(snapshot: &'a Snapshot, selection: &Selection) -> Self {
        let mut listed: Vec<_> = snapshot.ports.tracked.iter().collect();
        // Stable: ports with as many connections stay in ascending order.
        match selection.sort {
            Sort::State(state) => {
                listed.sort_by_key(|one| Reverse((one.states[state], one.states.total())));
            }
            Sort::Total => listed.sort_by_key(|one| Reverse(one.states.total())),
            Sort::Port => {}
        }
        let mut units = BTreeMap::new();
        for one in &snapshot.listeners {
            let unit = units.entry(one.port).or_insert(one.unit.as_deref());
            *unit = unit.filter(|unit| one.unit.as_deref() == Some(*unit));
        }
        let is_idle = |one: &PortCounts| one.states.total() == one.states[State::Listen];
        let mut rest = Rest::default();
        let mut ports = Vec::new();
        for one in listed {
            let is_full = selection.limit.is_some_and(|limit| ports.len() >= limit);
            if is_full || (is_idle(one) && !selection.all) {
                rest.ports += 1;
                rest.states += &one.states;
            } else {
                ports.push(Row {
                    port: one.port,
                    unit: units.get(&one.port).copied().flatten(),
                    states: one.states,
                    connection_ends: one.connection_ends,
                });
            }
        }
        Self {
            schema: snapshot.schema,
            netns: snapshot.netns,
            netns_name: snapshot.netns_name.as_deref(),
            degraded: snapshot.degraded.as_deref(),
            ports,
            rest: (rest.ports > 0).then_some(rest),
            outgoing: snapshot.ports.outgoing,
            other: snapshot.ports.other,
            limit: snapshot.ports.limit,
            unaudited: &snapshot.ports.unaudited,
        }
    }
}

/// A row for each listed port, one each for the rest, for outgoing connections and for ports beyond
/// `--max-ports`, and their sums; above them, where most connections were aborted. States that no row has
/// are left out.
#[must_use]
pub fn render(snapshot: &Snapshot, selection: &Selection) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _: fmt::Result = write(&mut text, snapshot, selection);
    text
}

fn write(out: &mut String, snapshot: &Snapshot, selection: &Selection) -> fmt::Result {
    let ports = Ports::new(snapshot, selection);
    subject(out, snapshot)?;
    if let Some(why) = &snapshot.degraded {
        field(out, "DEGRADED", why)?;
    }
    if !ports.unaudited.is_empty() {
        let list: Vec<_> = ports.unaudited.iter().map(u16::to_string).collect();
        let text = format!(
            "{}: connections from before they listened are outgoing until the next audit",
            list.join(", ")
        );
        field(out, "new", &text)?;
    }
    aborted_at(out, &snapshot.ports)?;
    let mut rows: Vec<_> = ports
        .ports
        .iter()
        .map(|row| rows::Row {
            note: row.unit.unwrap_or_default().into(),
            ..rows::Row::new(row.port.to_string(), Some(row.states))
        })
        .collect();
    let has_units = ports.ports.iter().any(|row| row.unit.is_some());
    if let Some(rest) = &ports.rest {
        let word = if rest.ports == 1 { "port" } else { "ports" };
        let name = format!("{} more {word}", rest.ports);
        rows.push(rows::Row::new(name, Some(rest.states)));
    }
    rows.push(rows::Row::new("outgoing", ports.outgoing));
    if let Some(other) = ports.other {
        rows.push(rows::Row::new("other", Some(other)));
    }
    let note = if has_units { "unit" } else { "" };
    rows::write(out, "port", note, rows)
}
