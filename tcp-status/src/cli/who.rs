//! `who`: one walk over the kernel's tables by the caller, who learns what `ss` would show.

use std::{io, time::Instant};

use anyhow::{Context as _, bail};

use super::args::WhoOptions;
use crate::{
    kernel::{
        cgroups, netns, processes,
        sock_diag::{self, Entry},
        sysctl,
    },
    snapshot::who::{GroupBy, Grouping, Groups, Socket, Who},
    view::{json, print, who::render},
};
use tcp_status_common::state::State;

pub(super) fn who(options: &WhoOptions) -> anyhow::Result<()> {
    let found = match options.netns.as_deref() {
        Some(named) => {
            let target = netns::resolve(named)?;
            netns::within(&target, || walk(options, target.inode()))??
        }
        None => walk(options, netns::own().context(NO_NETNS)?)?,
    };
    Ok(print(&if options.json {
        json(&found)?
    } else {
        render(&found)
    })?)
}

const NO_NETNS: &str = "cannot read the network namespace of this process; mount /proc";

/// Walks the calling thread's namespace.
fn walk(options: &WhoOptions, netns: u32) -> anyhow::Result<Who> {
    let started = Instant::now();
    let by = options.by.into();
    let settings = sysctl::settings();
    let grouping = Grouping {
        by,
        prefixes: [options.prefix4, options.prefix6],
        listening: match by {
            GroupBy::Destination => sock_diag::listeners()?.iter().map(|one| one.port).collect(),
            _ => Default::default(),
        },
        ephemeral: sysctl::ephemeral_range().zip(settings.ephemeral_ports),
    };
    let owners = match by {
        GroupBy::Process => processes::by_socket(),
        _ => Default::default(),
    };
    let paths = match by {
        GroupBy::Cgroup => cgroups::paths().map_err(|error| no_cgroups(&error))?,
        _ => Default::default(),
    };
    let states = if options.state.is_empty() {
        &State::ALL[..]
    } else {
        &options.state
    };
    // Whether there were sockets that have a cgroup, and whether the kernel reported one.
    let (mut full, mut reported) = (false, false);
    let groups = sock_diag::sockets(states, options.port, |groups: &mut Groups, entry: Entry| {
        full |= !entry.minisocket && entry.state != State::SynRecv;
        reported |= entry.cgroup.is_some();
        let path = |id| match paths.get(&id) {
            Some(path) => path.clone(),
            None => format!("cgroup {id}, removed"),
        };
        let socket = Socket {
            state: entry.state,
            local: (entry.address, entry.port),
            peer: (entry.peer, entry.peer_port),
            process: owners
                .get(&entry.inode)
                .map(|process| (process.pid, process.comm.clone())),
            cgroup: entry.cgroup.filter(|_| by == GroupBy::Cgroup).map(path),
        };
        groups.add(socket, &grouping);
    })?;
    if by == GroupBy::Cgroup && full && !reported {
        bail!(
            "cannot group by cgroup: this kernel does not report the cgroup of a socket; use \
             Linux 5.9 or later with CONFIG_SOCK_CGROUP_DATA, or --by process"
        );
    }
    Ok(groups.report(netns, &grouping, options.limit, started.elapsed()))
}

fn no_cgroups(error: &io::Error) -> anyhow::Error {
    anyhow::anyhow!(
        "cannot group by cgroup: {error}; mount cgroup2 at /sys/fs/cgroup, or use --by process"
    )
}
