//! Readings for unit tests: those of the tracker that the tests of the binary ask.

#[path = "../../../tests/cli/rich.rs"]
mod rich;

use std::time::{Duration, Instant};

use super::model::{Model, Settings};
use crate::{
    serve::{Source as _, protocol::Show},
    snapshot::Snapshot,
};

pub(super) use rich::{FLOODED, FULL, HARMFUL, OTHER, OWN, SHARED};

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
