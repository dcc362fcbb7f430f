//! `get` and `show`: one question each.

use super::args::{GetOptions, ShowOptions};
use crate::{
    output::{json, print, table},
    server::{
        client::ask,
        protocol::{Answer, Get, Query, Refusal, Show},
    },
};

pub(super) fn get(options: GetOptions) -> anyhow::Result<()> {
    let query = Query::Get(Get {
        state: options.state.name().into(),
        port: options.port,
        family: options.family,
        netns: options.netns,
    });
    let path = &options.socket.socket;
    match ask(path, &query)? {
        Answer::Value(value) => Ok(print(&format!("{value}\n"))?),
        other => Err(unexpected(other)),
    }
}

pub(super) fn show(options: ShowOptions) -> anyhow::Result<()> {
    let query = Query::Show(Show {
        port: options.port,
        netns: options.netns,
        all_netns: options.all_netns,
        window: options.window,
    });
    let path = &options.socket.socket;
    let snapshots = match ask(path, &query)? {
        Answer::Snapshots(snapshots) => snapshots,
        other => return Err(unexpected(other)),
    };
    let text = match (snapshots.as_slice(), options.json) {
        (all, true) if options.all_netns => json(&all)?,
        (all, false) if options.all_netns => {
            let tables: Vec<_> = all.iter().map(table::render).collect();
            tables.join("\n")
        }
        ([one], true) => json(one)?,
        ([one], false) => table::render(one),
        _ => return Err(unexpected(Answer::Snapshots(snapshots))),
    };
    Ok(print(&text)?)
}

/// The error that an answer is which does not fit the question.
pub(super) fn unexpected(answer: Answer) -> anyhow::Error {
    let refusal = match answer {
        Answer::Error(refusal) => refusal,
        Answer::Value(_) | Answer::Snapshots(_) => Refusal::unavailable(
            "query, on the tracker: it answers another question; \
             use the same version of tcp-status on both sides"
                .into(),
        ),
    };
    refusal.into()
}
