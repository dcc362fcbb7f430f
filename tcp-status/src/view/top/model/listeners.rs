//! The table of listening sockets and their queues.

use std::net::SocketAddr;

use super::{
    Model,
    table::{Cell, PROBLEM, Row, Table, column, growing},
    tabs::{NAME, mark_cell},
};
use crate::{
    printable::printable,
    snapshot::{Group, Subject},
};

impl Model {
    pub(super) fn listeners(&self) -> Table {
        let columns = vec![
            column(PROBLEM, 8, 0),
            column("port", 5, 0),
            column("accept", 8, 6),
            column("queue", 6, 1),
            column("limit", 6, 1),
            column("peak", 6, 4),
            column("syn", 6, 5),
            column("of", 6, 8),
            column("retrans", 7, 10),
            column("drops", 6, 7),
            column("uid", 6, 9),
            growing("unit", NAME, 3),
            growing("address", 19, 2),
        ];
        let mut groups = self.reading.groups();
        if self.ungrouped {
            groups = groups.into_iter().flat_map(single).collect();
        }
        let rows = groups
            .iter()
            .enumerate()
            .map(|(at, group)| listener_row(at, group));
        let cookies = self.history.rates().and_then(|rates| rates.syncookies);
        let cookies = ["syncookies", "invalid syncookies"]
            .into_iter()
            .zip(cookies.unwrap_or_default());
        let cookies = cookies.filter(|(_, rate)| *rate > 0.0);
        let cookies: String = cookies
            .map(|(name, rate)| format!(", {rate:.1} {name}/s"))
            .collect();
        let ungrouped = if self.ungrouped { ", each socket" } else { "" };
        let title = format!(
            "Listeners {}{ungrouped}{cookies}",
            self.reading.listeners.len()
        );
        Table::new(title, columns, rows.collect())
    }
}

fn listener_row(at: usize, group: &Group<'_>) -> Row {
    let (address, port) = group.address();
    let mark = group
        .problem()
        .map(|problem| (problem.severity, problem.mark()));
    let uid = group
        .uid()
        .map_or_else(String::new, |uid| format!(" uid {uid}"));
    let (queue, limit) = (group.accept_queue(), group.accept_queue_limit());
    // The kernel admits one more.
    let room = limit + group.sockets.len() as u64;
    let several = match group.sockets.len() {
        1 => address.to_string(),
        count => format!("{address} ({count} sockets)"),
    };
    let half_open = group.syn_queue();
    Row {
        key: format!("{address} {port} {at}"),
        search: format!("{}{uid}", SocketAddr::new(address, port)),
        opens: Some(Subject::Port(port)),
        mark,
        cells: vec![
            mark_cell(mark),
            Cell::Text(port.to_string()),
            Cell::Bar(queue, room),
            Cell::number(queue),
            Cell::number(limit),
            Cell::Number(group.accept_queue_peak()),
            Cell::Number(half_open),
            Cell::Number(group.syn_queue_limit()),
            Cell::Number(group.syn_queue_retransmitted()),
            Cell::Number(group.drops()),
            Cell::Number(group.uid().map(u64::from)),
            Cell::Text(group.unit().map(printable).unwrap_or_default()),
            Cell::Text(several),
        ],
        weight: group.fullness() as u64 * 10_000_000 + group.taken(),
        idle: queue == 0
            && group.accept_queue_peak().unwrap_or(0) == 0
            && half_open.unwrap_or(0) == 0,
        rest: false,
    }
}

fn single(group: Group<'_>) -> impl Iterator<Item = Group<'_>> {
    group.sockets.into_iter().map(|socket| Group {
        sockets: vec![socket],
    })
}
