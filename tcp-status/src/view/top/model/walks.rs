//! Walks over the sockets: which one a page needs, and what it found.

use super::{
    Model, Tab,
    table::{Cell, Table, column, growing, state_columns},
    tabs::{NAME, counts_row},
};
use crate::{
    printable::printable,
    snapshot::{
        Subject,
        who::{Group, GroupBy, Who},
    },
    track::who::Walk,
};

/// The most groups of a walk that are shown.
const GROUPS: usize = 100;

impl Model {
    /// The walk that the page needs.
    pub(super) fn walk(&self) -> Option<Walk> {
        let mut walk = Walk::new(vec![GroupBy::Remote, GroupBy::Process], GROUPS);
        walk.netns = Some(self.reading.netns.to_string());
        match self.details.last().map(|details| details.subject) {
            None if self.tab == Tab::Remotes => walk.by = vec![GroupBy::Remote],
            None => return None,
            Some(Subject::Port(port)) => walk.port = Some(port),
            Some(Subject::Outgoing) => {
                walk.by = vec![GroupBy::Destination, GroupBy::Process];
                walk.outgoing = true;
            }
            Some(Subject::Cgroup(id)) => walk.cgroup = Some(id),
            Some(Subject::Remote(remote)) => {
                walk.by = vec![GroupBy::Port, GroupBy::Process];
                walk.remote = Some(remote);
            }
            Some(Subject::State(state)) => walk.states = vec![state],
        }
        Some(walk)
    }

    /// The groups of one grouping of the walk.
    pub(super) fn who(&self, number: usize, what: &str) -> Table {
        let has_share = what == "Destinations";
        let name = match what {
            "Processes" => "process",
            _ => what.trim_end_matches('s'),
        };
        let mut columns = vec![growing(name.to_lowercase(), NAME, 0)];
        columns.extend(state_columns());
        if has_share {
            columns.push(column("% ports", 7, 1));
        }
        let found = match &self.walked {
            Some((_, Ok(found))) => found.get(number),
            Some((_, Err(why))) => {
                let title = format!("{what}: {}", printable(why));
                return Table::new(title, columns, Vec::new());
            }
            None => None,
        };
        let Some(found) = found else {
            let state = if self.paused { "paused" } else { "walking" };
            return Table::new(format!("{what}: {state}"), columns, Vec::new());
        };
        let row = |group: &Group| {
            let opens = match what {
                "Remotes" => group.key.parse().ok().map(Subject::Remote),
                "Ports" => group.key.parse().ok().map(Subject::Port),
                _ => None,
            };
            let mut row = counts_row(printable(&group.key), None, &group.states, opens, None);
            row.key = format!("{what} {}", row.key);
            row.idle = false;
            row.cells.remove(0);
            row.cells
                .extend(has_share.then_some(Cell::Rate(group.used_percent)));
            row
        };
        let mut rows: Vec<_> = found.groups.iter().map(row).collect();
        if found.rest > 0 {
            let name = format!("{} more", found.rest_groups);
            let mut rest = counts_row(name, None, &found.rest_states, None, None);
            rest.key = format!("{what} rest");
            rest.rest = true;
            rest.cells.remove(0);
            rows.push(rest);
        }
        Table::new(walked(what, found), columns, rows)
    }
}

fn walked(what: &str, found: &Who) -> String {
    let groups = found.groups.len() + found.rest_groups;
    format!(
        "{what} {groups}, {} sockets walked in {} ms",
        found.walked, found.milliseconds
    )
}
