//! What goes to standard output, as text or as JSON. Knows neither sockets nor options.

pub mod cgroups;
pub mod discovery;
mod field;
pub mod history;
pub mod listeners;
pub mod paint;
pub mod ports;
mod rows;
pub mod table;
mod time;
pub mod top;
pub mod verify;
pub mod who;

use std::io::{self, Write as _};

use serde::Serialize;

/// Standard output does not take what is printed.
#[derive(Debug, thiserror::Error)]
#[error("cannot print to standard output: {0}; make room or redirect it elsewhere")]
pub struct OutputError(#[from] io::Error);

/// Prints text as it is. A reader that has left is no error.
///
/// # Errors
/// [`OutputError`], for example on a full disk.
pub fn print(text: &str) -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

/// One line of JSON, its newline included.
///
/// # Errors
/// Never for the types of this crate.
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    Ok(line)
}

/// What a tracker answers, whatever it says: every output can be made of it, and none of them
/// moves a terminal.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(line: &[u8]) {
    use crate::{
        kernel::procfs::{Listing, PortListing},
        serve::protocol::{Response, encode},
        snapshot::{Cgroups, compare::Comparison},
    };

    const EVERYTHING: ports::Selection = ports::Selection {
        sort: ports::Sort::Total,
        limit: None,
        all: true,
    };
    let Ok(answer) = serde_json::from_slice::<Response>(line) else {
        return;
    };
    encode(&answer).expect("what was read can be written");
    let all = match answer {
        Response::Snapshots(all) => all,
        Response::History(found) => {
            let text = history::render(&found, None, &history::Plot::new(80, false));
            assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
            return;
        }
        _ => return,
    };
    json(&discovery::ports(&all)).expect("ports can be written");
    let cgroups = Cgroups::merge(&all).ok();
    let cgroups = cgroups.map(|found| cgroups::render(&all, &found, &EVERYTHING));
    for snapshot in &all {
        json(&listeners::Listeners::from(snapshot)).expect("listeners can be written");
        let listing = PortListing {
            all: Listing {
                ipv4: snapshot.ipv6,
                ipv6: snapshot.ipv4,
            },
            ..PortListing::default()
        };
        let compared = Comparison::new(&all[0], snapshot, &listing, &all[all.len() - 1]);
        for text in [
            table::render(snapshot, &table::Details::default()),
            table::render_all(&all, &table::Details::default()),
            listeners::render(snapshot),
            ports::render(snapshot, &EVERYTHING),
            cgroups.clone().unwrap_or_default(),
            verify::render(&compared),
        ] {
            let left = crate::printable::printable(&text);
            let lines = text.matches('\n').count();
            assert_eq!(left.len() + lines, text.len(), "{text:?}");
        }
    }
}
