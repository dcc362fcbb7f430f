//! `get`, `show`, `history`, `listeners`, `ports`, `discover` and `wait`: one query each.

use std::{
    io::{self, Write as _},
    iter,
    path::Path,
    time::Duration,
};

use tcp_status_common::state::{Family, State};

use super::{
    exit::Verdict,
    query_args::{
        CgroupsOptions, DiscoverOptions, FamilyOption, GetOptions, HistoryOptions,
        ListenersOptions, PortsOptions, ScopeOptions, ShowOptions, WaitOptions,
    },
};
use crate::{
    serve::{
        client::request,
        protocol::{ApiError, Get, History, Query, Response, Show, Wait},
    },
    snapshot::{Cgroups, Snapshot},
    view::{
        cgroups::{self, CgroupRows},
        discovery,
        history::{self, Plot},
        json,
        listeners::{self, Listeners},
        paint::Paint,
        ports::{self, Ports, Selection},
        print,
        table::{self, Details},
    },
};

pub(super) fn get(options: &GetOptions) -> anyhow::Result<()> {
    let (scope, path) = (&options.scope, &options.scope.socket.socket);
    let arguments = iter::once(&options.state).chain(&options.more);
    let states: Vec<_> = arguments.flat_map(|one| one.states()).collect();
    if let &[state] = states.as_slice() {
        return match request(path, &Query::Get(count(state, scope)))? {
            Response::Value(value) => Ok(print(&format!("{value}\n"))?),
            other => Err(unexpected(other)),
        };
    }
    if scope.cgroup.is_some() {
        let why = "cannot get several states of a cgroup; use one, or tcp-status cgroups --json";
        return Err(ApiError::bad_argument(why.into()).into());
    }
    let query = Show {
        port: scope.port,
        netns: scope.netns.clone(),
        ..Show::default()
    };
    let one = reading(path, query)?;
    let counts = match scope.family {
        None => &one.states,
        Some(FamilyOption::V4) => &one.ipv4,
        Some(FamilyOption::V6) => &one.ipv6,
    };
    let lines = states.iter().map(|&state| format!("{}\n", counts[state]));
    Ok(print(&lines.collect::<String>())?)
}

/// A query for one count.
fn count(state: State, scope: &ScopeOptions) -> Get {
    Get {
        state: state.name().into(),
        port: scope.port,
        family: scope.family.map(|family| Family::from(family).number()),
        netns: scope.netns.clone(),
        cgroup: scope.cgroup.clone(),
    }
}

pub(super) fn wait(options: &WaitOptions) -> anyhow::Result<Verdict> {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (state, path) = (options.state, &options.scope.socket.socket);
    let query = Query::Wait(Wait {
        of: count(state, &options.scope),
        above: options.above,
        below: options.below,
        hold: options.hold.map_or(0, milliseconds),
        timeout: options.timeout.map(milliseconds),
    });
    match request(path, &query)? {
        Response::Waited { met: true, .. } => Ok(Verdict::Yes),
        Response::Waited { met: false, value } => {
            let bound = match (options.above, options.below) {
                (Some(bound), _) => format!("above {bound}"),
                (_, bound) => format!("below {}", bound.unwrap_or_default()),
            };
            // Standard error may be closed.
            let _: io::Result<()> = writeln!(
                io::stderr(),
                "tcp-status: {state} is {value} and was not {bound} for long enough"
            );
            Ok(Verdict::No)
        }
        other => Err(unexpected(other)),
    }
}

pub(super) fn show(options: ShowOptions) -> anyhow::Result<()> {
    let (all_netns, as_json) = (options.all_netns, options.json);
    let query = Show {
        port: options.port,
        netns: options.netns,
        all_netns,
        window: options.window,
    };
    let path = &options.socket.socket;
    if as_json {
        return Ok(print(&if all_netns {
            json(&readings(path, query)?)?
        } else {
            json(&reading(path, query)?)?
        })?);
    }
    let mut details = Details {
        verbose: options.verbose,
        last_minute: None,
        paint: Paint::from_environment(),
    };
    if all_netns {
        return Ok(print(&table::render_all(
            &readings(path, query)?,
            &details,
        ))?);
    }
    let one = reading(path, query)?;
    // A scan keeps none, and of other namespaces there is none.
    let last = Query::History(History {
        state: None,
        since: Some(180),
    });
    let history = match request(path, &last) {
        Ok(Response::History(history)) => Some(history).filter(|of| of.netns == one.netns),
        _ => None,
    };
    details.last_minute = history.as_ref().and_then(|of| of.last_whole_minute());
    Ok(print(&table::render(&one, &details))?)
}

pub(super) fn listeners(options: ListenersOptions) -> anyhow::Result<()> {
    let query = Show {
        port: options.port,
        netns: options.netns,
        all_netns: false,
        window: options.window,
    };
    let one = reading(&options.socket.socket, query)?;
    let text = if options.json {
        json(&Listeners::from(&one))?
    } else {
        listeners::render(&one)
    };
    Ok(print(&text)?)
}

pub(super) fn ports(options: PortsOptions) -> anyhow::Result<()> {
    let query = Show {
        netns: options.netns,
        ..Show::default()
    };
    let one = reading(&options.socket.socket, query)?;
    let selection = Selection {
        sort: options.sort,
        limit: options.limit,
        all: options.all,
    };
    let text = if options.json {
        json(&Ports::new(&one, &selection))?
    } else {
        ports::render(&one, &selection)
    };
    Ok(print(&text)?)
}

pub(super) fn history(options: &HistoryOptions) -> anyhow::Result<()> {
    let query = Query::History(History {
        state: options.state.map(|state| state.name().into()),
        since: Some(options.since),
    });
    let history = match request(&options.socket.socket, &query)? {
        Response::History(history) => history,
        other => return Err(unexpected(other)),
    };
    let text = if options.json {
        json(&history)?
    } else {
        history::render(&history, options.state, &Plot::from_environment())
    };
    Ok(print(&text)?)
}

pub(super) fn cgroups(options: CgroupsOptions) -> anyhow::Result<()> {
    let (snapshots, found) = cgroups_of(&options.socket.socket, options.netns)?;
    let selection = Selection {
        sort: options.sort,
        limit: options.limit,
        all: options.all,
    };
    let text = if options.json {
        json(&CgroupRows::new(&snapshots, &found, &selection))?
    } else {
        cgroups::render(&snapshots, &found, &selection)
    };
    Ok(print(&text)?)
}

/// Readings of one namespace, or of all that are counted, and their cgroups together.
fn cgroups_of(path: &Path, netns: Option<String>) -> anyhow::Result<(Vec<Snapshot>, Cgroups)> {
    let all_netns = netns.is_none();
    let query = Show {
        netns,
        all_netns,
        ..Show::default()
    };
    let snapshots = readings(path, query)?;
    match Cgroups::merge(&snapshots) {
        Ok(found) => Ok((snapshots, found)),
        Err(reason) => Err(ApiError::unavailable(format!(
            "cannot list cgroups: {reason}; use tcp-status who --by cgroup"
        ))
        .into()),
    }
}

pub(super) fn discover(options: DiscoverOptions) -> anyhow::Result<()> {
    let path = &options.socket.socket;
    if options.cgroups {
        let (_, found) = cgroups_of(path, options.netns)?;
        return Ok(print(&json(&discovery::cgroups(&found))?)?);
    }
    let query = Show {
        netns: options.netns,
        all_netns: options.all_netns,
        ..Show::default()
    };
    let all = readings(path, query)?;
    Ok(print(&json(&discovery::ports(&all))?)?)
}

/// What the tracker reads.
fn readings(path: &Path, query: Show) -> anyhow::Result<Vec<Snapshot>> {
    match request(path, &Query::Show(query))? {
        Response::Snapshots(snapshots) => Ok(snapshots),
        other => Err(unexpected(other)),
    }
}

/// What the tracker reads of one namespace.
pub(super) fn reading(path: &Path, query: Show) -> anyhow::Result<Snapshot> {
    let mut all = readings(path, query)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(unexpected(Response::Snapshots(all))),
    }
}

/// The error that an answer is which does not fit the question.
pub(super) fn unexpected(answer: Response) -> anyhow::Error {
    let refusal = match answer {
        Response::Error(refusal) => refusal,
        _ => ApiError::unavailable(
            "cannot query the tracker: it answers another question; \
             use the same version of tcp-status on both sides"
                .into(),
        ),
    };
    refusal.into()
}
