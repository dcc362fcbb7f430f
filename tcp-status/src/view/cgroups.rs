//! Connections by cgroup as a table, and as JSON. The rows add up to the totals of `show`.

use std::{cmp::Reverse, fmt};

use serde::Serialize;

use super::{
    field::{field, subject},
    ports::{Selection, Sort},
    rows,
};
use crate::snapshot::{CgroupCounts, CgroupName, Cgroups, Counts, Snapshot};
use tcp_status_common::state::State;

/// The JSON form of the rows.
#[derive(Debug, Serialize)]
pub struct CgroupRows<'a> {
    schema: u32,
    netns: u32,
    netns_name: Option<&'a str>,
    degraded: Option<&'a str>,
    cgroups: Vec<&'a CgroupCounts>,
    rest: Option<Rest>,
    other: Option<Counts>,
    unattributed: Counts,
    limit: u32,
}

/// Cgroups that are not listed, together.
#[derive(Debug, Default, Serialize)]
struct Rest {
    cgroups: usize,
    states: Counts,
}

impl<'a> CgroupRows<'a> {
    /// The cgroups of a reading that has them, as far as they are selected.
    #[must_use]
    pub fn new(snapshot: &'a Snapshot, cgroups: &'a Cgroups, selection: &Selection) -> Self {
        let mut listed: Vec<_> = cgroups.tracked.iter().collect();
        listed.sort_by_key(|one| {
            let key = match selection.sort {
                Sort::State(state) => one.states[state],
                Sort::Total | Sort::Port => 0,
            };
            Reverse((key, one.states.total()))
        });
        let is_idle = |one: &CgroupCounts| one.states.total() == one.states[State::Listen];
        let (mut rows, mut rest) = (Vec::new(), Rest::default());
        for one in listed {
            let is_full = selection.limit.is_some_and(|limit| rows.len() >= limit);
            if is_full || (is_idle(one) && !selection.all) {
                rest.cgroups += 1;
                rest.states += &one.states;
            } else {
                rows.push(one);
            }
        }
        Self {
            schema: snapshot.schema,
            netns: snapshot.netns,
            netns_name: snapshot.netns_name.as_deref(),
            degraded: snapshot.degraded.as_deref(),
            cgroups: rows,
            rest: (rest.cgroups > 0).then_some(rest),
            other: cgroups.other,
            unattributed: cgroups.unattributed,
            limit: cgroups.limit,
        }
    }
}

/// A row for each listed cgroup, one each for the rest, for cgroups beyond `--max-cgroups` and for
/// sockets without a cgroup, and their sums. States that no row has are left out.
#[must_use]
pub fn render(snapshot: &Snapshot, cgroups: &Cgroups, selection: &Selection) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _: fmt::Result = write(&mut text, snapshot, cgroups, selection);
    text
}

fn write(
    out: &mut String,
    snapshot: &Snapshot,
    cgroups: &Cgroups,
    selection: &Selection,
) -> fmt::Result {
    let listed = CgroupRows::new(snapshot, cgroups, selection);
    subject(out, snapshot)?;
    if let Some(why) = &snapshot.degraded {
        field(out, "DEGRADED", why)?;
    }
    let mut rows: Vec<_> = listed.cgroups.iter().map(|one| row(one)).collect();
    if let Some(rest) = &listed.rest {
        let word = if rest.cgroups == 1 {
            "cgroup"
        } else {
            "cgroups"
        };
        let name = format!("{} more {word}", rest.cgroups);
        rows.push(rows::Row::new(name, Some(rest.states)));
    }
    if let Some(other) = listed.other {
        rows.push(rows::Row::new("other", Some(other)));
    }
    rows.push(rows::Row::new("unattributed", Some(listed.unattributed)));
    rows::write(out, "cgroup", "path", rows)
}

fn row(one: &CgroupCounts) -> rows::Row {
    let name = name(one.id, &one.name);
    let mut row = rows::Row::new(name.clone(), Some(one.states));
    if let Some(path) = one.name.path.as_ref().filter(|path| **path != name) {
        row.note.clone_from(path);
    }
    row
}

/// What a table calls a cgroup: ids of containers are cut as their runtimes cut them.
#[must_use]
pub fn name(id: u64, name: &CgroupName) -> String {
    /// Digits of the id of a container.
    const SHOWN: usize = 12;
    let container = name.container.as_ref();
    let container = container.map(|id| id.chars().take(SHOWN).collect::<String>());
    match (&name.pod, container) {
        (Some(pod), Some(container)) => format!("{pod} {container}"),
        (None, Some(container)) => container,
        _ => match name.label() {
            Some(label) => label.to_owned(),
            None => format!("cgroup {id}, removed"),
        },
    }
}
