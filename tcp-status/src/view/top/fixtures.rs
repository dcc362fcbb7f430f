//! Readings for unit tests: those of the tracker that the tests of the binary ask.

#[path = "../../../tests/cli/rich.rs"]
mod rich;

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use tcp_status_common::state::State;

use super::model::{Model, PollResult, Settings};
use crate::{
    serve::{
        Source as _,
        protocol::{History, Show},
    },
    snapshot::{
        Snapshot,
        who::{Grouping, Groups, Socket, Who},
    },
    track::who::Walk,
};

pub(super) use rich::{FULL, HARMFUL, OTHER, OWN};

/// What the tracker says of a namespace after so many other readings.
pub(super) fn reading(netns: u32, step: u64) -> Snapshot {
    let query = Show {
        netns: Some(netns.to_string()),
        ..Show::default()
    };
    rich::Rich::after(step).show(&query).unwrap().remove(0)
}

/// A model with one reading of the tracker's own namespace.
pub(super) fn model(now: Instant) -> Model {
    let settings = Settings {
        interval: Duration::from_secs(1),
        netns: None,
        socket: "/run/tcp-status/tcp-status.sock".into(),
    };
    Model::new(settings, reading(OWN, 0), now)
}

/// The answer to what the model asks.
pub(super) fn deliver(model: &mut Model, result: Result<Vec<Snapshot>, String>, at: Instant) {
    let poll_query = model.poll_query();
    let history = History {
        state: None,
        since: Some(poll_query.span),
    };
    model.handle_poll_result(PollResult {
        result,
        history: rich::Rich::after(0).history(&history).ok(),
        walked: poll_query.walk.as_ref().map(|walk| Ok(walked(walk))),
        poll_query,
        at,
    });
}

/// 300 connections of three peers, held by one process.
fn walked(walk: &Walk) -> Vec<Who> {
    let report = |by| {
        let grouping = Grouping {
            by,
            prefixes: walk.prefixes,
            listening: [FULL].into(),
            ephemeral: None,
        };
        let mut groups = Groups::default();
        for number in 0..300_u16 {
            let host = [7, 7, 7, 8, 9][usize::from(number % 5)];
            let state = match number % 2 {
                0 => State::Established,
                _ => State::CloseWait,
            };
            let socket = Socket {
                state,
                local: (IpAddr::V4(Ipv4Addr::LOCALHOST), FULL),
                peer: (IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)), 40_000 + number),
                process: Some((4242, format!("orders{HARMFUL}"))),
                cgroup: None,
            };
            groups.add(socket, &grouping);
        }
        groups.report(OWN, &grouping, walk.limit, Duration::from_millis(12))
    };
    walk.by.iter().copied().map(report).collect()
}
