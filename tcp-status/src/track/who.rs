//! `who`: one walk over the kernel's tables by the caller, which sees what `ss` would show it.

use std::{io, net::IpAddr, time::Instant};

use tcp_status_common::state::State;

use crate::{
    kernel::{
        cgroups, netns, processes,
        sock_diag::{self, Entry},
        sysctl,
    },
    snapshot::who::{GroupBy, Grouping, Groups, Socket, Who},
};

/// Which sockets to group, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// One report each.
    pub by: Vec<GroupBy>,
    /// Only sockets in these states; all if empty.
    pub states: Vec<State>,
    /// Only sockets with this local port.
    pub port: Option<u16>,
    /// Only sockets of the cgroup with this id.
    pub cgroup: Option<u64>,
    /// Only connections with this peer.
    pub remote: Option<IpAddr>,
    /// Only sockets whose local port has no listener.
    pub outgoing: bool,
    /// Bits of an IPv4 and of an IPv6 address that make up a remote.
    pub prefixes: [u8; 2],
    /// At most so many groups.
    pub limit: usize,
    /// Name, inode number or PID of a network namespace; none for the caller's.
    pub netns: Option<String>,
}

/// There is no report.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The kernel refuses the walk.
    #[error(transparent)]
    SockDiag(#[from] sock_diag::Error),
    /// The caller's namespace is not known.
    #[error("cannot read the network namespace of this process: {0}; mount /proc")]
    OwnNetns(#[source] io::Error),
    /// There is no cgroup2 hierarchy.
    #[error("cannot group by cgroup: {0}; mount cgroup2 at /sys/fs/cgroup, or use --by process")]
    Cgroups(#[source] io::Error),
    /// The kernel does not report cgroups.
    #[error(
        "cannot group by cgroup: this kernel does not report the cgroup of a socket; use Linux 5.9 \
         or later with CONFIG_SOCK_CGROUP_DATA, or --by process"
    )]
    NoCgroups,
}

impl Walk {
    /// Over all sockets of the caller's namespace, each address by itself.
    #[must_use]
    pub const fn new(by: Vec<GroupBy>, limit: usize) -> Self {
        Self {
            by,
            states: Vec::new(),
            port: None,
            cgroup: None,
            remote: None,
            outgoing: false,
            prefixes: [32, 128],
            limit,
            netns: None,
        }
    }

    /// Walks once, and returns a report for each grouping, in their order.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn run(&self) -> Result<Vec<Who>, WalkError> {
        let own = netns::own().map_err(WalkError::OwnNetns);
        match self.netns.as_deref() {
            Some(named) if own.as_ref().is_ok_and(|own| own.to_string() == named) => {
                self.walk(own?)
            }
            Some(named) => {
                let target = netns::resolve(named)?;
                netns::within(&target, || self.walk(target.inode()))?
            }
            None => self.walk(own?),
        }
    }

    /// Walks the calling thread's namespace.
    fn walk(&self, netns: u32) -> Result<Vec<Who>, WalkError> {
        let started = Instant::now();
        let has = |by| self.by.contains(&by);
        let listening = if self.outgoing || has(GroupBy::Destination) {
            sock_diag::listeners()?.iter().map(|one| one.port).collect()
        } else {
            Default::default()
        };
        let mut grouping = Grouping {
            by: GroupBy::Port,
            prefixes: self.prefixes,
            listening,
            ephemeral: sysctl::ephemeral_range().zip(sysctl::settings().ephemeral_ports),
        };
        let owners = if has(GroupBy::Process) {
            processes::by_socket()
        } else {
            Default::default()
        };
        let paths = if has(GroupBy::Cgroup) {
            cgroups::paths().map_err(WalkError::Cgroups)?
        } else {
            Default::default()
        };
        let states = if self.states.is_empty() {
            &State::ALL[..]
        } else {
            &self.states
        };
        // Whether there were sockets that have a cgroup, and whether the kernel reported one.
        let (mut full, mut reported) = (false, false);
        let groups = sock_diag::sockets(states, self.port, |all: &mut Vec<Groups>, entry| {
            full |= !entry.minisocket && entry.state != State::SynRecv;
            reported |= entry.cgroup.is_some();
            if !self.includes(&entry) || (self.outgoing && grouping.listening.contains(&entry.port))
            {
                return;
            }
            let path = |id| match paths.get(&id) {
                Some(path) => path.clone(),
                None => format!("cgroup {id}, removed"),
            };
            all.resize_with(self.by.len(), Groups::default);
            for (groups, by) in all.iter_mut().zip(&self.by) {
                grouping.by = *by;
                let process = owners.get(&entry.inode).filter(|_| *by == GroupBy::Process);
                let socket = Socket {
                    state: entry.state,
                    local: (entry.address, entry.port),
                    peer: (entry.peer, entry.peer_port),
                    process: process.map(|process| (process.pid, process.comm.clone())),
                    cgroup: entry.cgroup.filter(|_| *by == GroupBy::Cgroup).map(path),
                };
                groups.add(socket, &grouping);
            }
        })?;
        if has(GroupBy::Cgroup) && full && !reported {
            return Err(WalkError::NoCgroups);
        }
        let mut groups = groups.into_iter();
        let report = |by: &GroupBy| {
            grouping.by = *by;
            let groups = groups.next().unwrap_or_default();
            groups.report(netns, &grouping, self.limit, started.elapsed())
        };
        Ok(self.by.iter().map(report).collect())
    }

    fn includes(&self, entry: &Entry) -> bool {
        self.cgroup.is_none_or(|id| entry.cgroup == Some(id))
            && self
                .remote
                .is_none_or(|remote| entry.peer.to_canonical() == remote)
    }
}
