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
    /// How many namespaces the rows are of: `netns` and others.
    namespaces: usize,
    degraded: Option<String>,
    cgroups: Vec<Row<'a>>,
    rest: Option<Rest>,
    other: Option<Counts>,
    unattributed: Counts,
    limit: u32,
}

/// A cgroup, and where it has sockets.
#[derive(Debug, Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    of: &'a CgroupCounts,
    /// Inode numbers of the namespaces.
    netns: Vec<u32>,
}

/// Cgroups that are not listed, together.
#[derive(Debug, Default, Serialize)]
struct Rest {
    cgroups: usize,
    states: Counts,
}

impl<'a> CgroupRows<'a> {
    /// The cgroups of some readings, which are [`Cgroups::merge`]d, as far as they are selected.
    #[must_use]
    pub fn new(snapshots: &'a [Snapshot], cgroups: &'a Cgroups, selection: &Selection) -> Self {
        let mut namespaces = Cgroups::namespaces(snapshots);
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
                rows.push(Row {
                    of: one,
                    netns: namespaces.remove(&one.id).unwrap_or_default(),
                });
            }
        }
        let first = &snapshots[0];
        Self {
            schema: first.schema,
            netns: first.netns,
            netns_name: first.netns_name.as_deref(),
            namespaces: snapshots.len(),
            degraded: degraded(snapshots),
            cgroups: rows,
            rest: (rest.cgroups > 0).then_some(rest),
            other: cgroups.other,
            unattributed: cgroups.unattributed,
            limit: cgroups.limit,
        }
    }
}

/// Why a count may be off, and in how many of several namespaces.
fn degraded(snapshots: &[Snapshot]) -> Option<String> {
    let reason = |one: &Snapshot| match (&one.degraded, &one.cgroups) {
        (None, None) => one.cgroups_reason.clone(),
        (degraded, _) => degraded.clone(),
    };
    let mut reasons = snapshots.iter().filter_map(reason);
    let first = reasons.next()?;
    Some(match snapshots.len() {
        1 => first,
        all => format!(
            "{first} ({} of {all} network namespaces)",
            1 + reasons.count()
        ),
    })
}

/// A row for each listed cgroup, one each for the rest, for cgroups beyond `--max-cgroups` and for
/// sockets without a cgroup, and their sums. States that no row has are left out.
#[must_use]
pub fn render(snapshots: &[Snapshot], cgroups: &Cgroups, selection: &Selection) -> String {
    let mut text = String::new();
    let listed = CgroupRows::new(snapshots, cgroups, selection);
    // Writing into a string cannot fail.
    let _: fmt::Result = write(&mut text, &snapshots[0], &listed);
    text
}

fn write(out: &mut String, first: &Snapshot, listed: &CgroupRows<'_>) -> fmt::Result {
    let more = listed.namespaces - 1;
    match more {
        0 => subject(out, first)?,
        _ => field(out, "netns", &format!("{} and {more} more", first.netns))?,
    }
    if let Some(why) = &listed.degraded {
        field(out, "DEGRADED", why)?;
    }
    let rows = listed.cgroups.iter();
    let mut rows: Vec<_> = rows.map(|one| row(one, more > 0)).collect();
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
    let note = match more {
        0 => "path".into(),
        _ => with_netns("netns", "path"),
    };
    rows::write(out, "cgroup", &note, rows)
}

fn row(Row { of: one, netns }: &Row<'_>, has_netns: bool) -> rows::Row {
    let name = name(one.id, &one.name);
    let path = one.name.path.as_deref().filter(|path| *path != name);
    let path = path.unwrap_or_default();
    rows::Row {
        note: if has_netns {
            with_netns(&netns_text(netns), path)
        } else {
            path.into()
        },
        ..rows::Row::new(name, Some(one.states))
    }
}

/// The namespace of a cgroup, or how many there are.
#[must_use]
pub fn netns_text(netns: &[u32]) -> String {
    match netns {
        [only] => only.to_string(),
        several => format!("{} netns", several.len()),
    }
}

fn with_netns(netns: &str, path: &str) -> String {
    let both = format!("{netns:<10}  {path}");
    both.trim_end().into()
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
