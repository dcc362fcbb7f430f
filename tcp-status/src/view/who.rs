//! Groups of sockets as a table.

use std::fmt;

use super::{
    field::field,
    rows::{self, Row},
};
use crate::snapshot::who::{GroupBy, Who};

/// A row for each group, one for the rest, and their sums.
#[must_use]
pub fn render(who: &Who) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _: fmt::Result = write(&mut text, who);
    text
}

fn write(out: &mut String, who: &Who) -> fmt::Result {
    field(out, "netns", &who.netns.to_string())?;
    let walked = format!("{} sockets in {} ms", who.walked, who.milliseconds);
    field(out, "walked", &walked)?;
    let mut rows: Vec<_> = who
        .groups
        .iter()
        .map(|group| Row {
            note: group
                .used_percent
                .map_or_else(String::new, |used| format!("{used:>5.1} %")),
            ..Row::new(&group.key, Some(group.states))
        })
        .collect();
    if who.rest > 0 {
        let name = format!("{} more", who.rest_groups);
        rows.push(Row::new(name, Some(who.rest_states)));
    }
    let (heading, note) = match who.by {
        GroupBy::Remote => ("remote", ""),
        GroupBy::Destination => ("destination", "of the ephemeral ports"),
        GroupBy::Process => ("process", ""),
        GroupBy::Cgroup => ("cgroup", ""),
        GroupBy::Port => ("local port", ""),
    };
    rows::write(out, heading, note, rows)
}
