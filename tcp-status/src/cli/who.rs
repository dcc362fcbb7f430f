//! `who`: its options, and the report as text or JSON.

use super::query_args::WhoOptions;
use crate::{
    track::who::Walk,
    view::{json, print, who::render},
};

pub(super) fn who(options: &WhoOptions) -> anyhow::Result<()> {
    let walk = Walk {
        by: vec![options.by.into()],
        states: options.state.clone(),
        port: options.port,
        cgroup: None,
        remote: None,
        outgoing: false,
        prefixes: [options.prefix4, options.prefix6],
        limit: options.limit,
        netns: options.netns.clone(),
    };
    for found in walk.run()? {
        print(&if options.json {
            json(&found)?
        } else {
            render(&found)
        })?;
    }
    Ok(())
}
