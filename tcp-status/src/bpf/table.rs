//! Listing the kernel's socket tables, without entering a namespace.

use std::os::fd::OwnedFd;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
};
use tcp_status_common::{
    counters::NetnsId,
    table::{
        Cursor, ListedCgroup, ListedCgroupCounts, ListedCounts, ListedListener, ListedPort,
        ListedPortCounts, NetnsCounts, OTHER_NETS, phase,
    },
};

use super::{
    BpfError, batch,
    cgroup_slots::CgroupsOfNetns,
    error::ignore_enoent,
    object::{descriptor, map},
    pod::{self, PodWrapper},
};

const CURSOR: &str = "CURSOR";
const LISTED: &str = "LISTED";
const LISTED_PORTS: &str = "LISTED_PORTS";
const LISTED_CGROUPS: &str = "LISTED_CGROUPS";

/// Lists the socket tables. One pass at a time.
pub(super) struct Lister {
    cursor: Array<MapData, PodWrapper<Cursor>>,
    listed: HashMap<MapData, u64, PodWrapper<NetnsCounts>>,
    ports: HashMap<MapData, PodWrapper<ListedPort>, PodWrapper<ListedPortCounts>>,
    cgroups: HashMap<MapData, PodWrapper<ListedCgroup>, PodWrapper<ListedCgroupCounts>>,
    /// The same map, to list.
    listed_cgroups: OwnedFd,
    pass: u32,
}

/// What one pass counted.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// By address of the namespace, the tracker's own included.
    pub namespaces: Vec<(u64, NetnsCounts)>,
    /// At the ports that were asked for.
    pub ports: Vec<((NetnsId, u16), ListedCounts)>,
    /// Full sockets by cgroup of other namespaces; none if that was not asked for, or there was no room for
    /// some.
    pub cgroups: Option<CgroupsOfNetns>,
    /// Sockets met.
    pub sockets: u64,
    /// Sockets or buckets that could not be read or counted, for they changed meanwhile.
    pub failed: u64,
}

/// The listeners that one pass met.
#[derive(Clone, Debug, Default)]
pub struct ListenerListing {
    /// Those of all namespaces, the tracker's own included.
    pub listeners: Vec<ListedListener>,
    /// Listeners or buckets that could not be read, for they changed meanwhile.
    pub failed: u64,
}

impl Lister {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        let mut lister = Self {
            cursor: map(ebpf, CURSOR)?,
            listed: map(ebpf, LISTED)?,
            ports: map(ebpf, LISTED_PORTS)?,
            listed_cgroups: descriptor(ebpf, LISTED_CGROUPS)?,
            cgroups: map(ebpf, LISTED_CGROUPS)?,
            pass: 0,
        };
        let other = PodWrapper(NetnsCounts::default());
        let entered = lister.listed.insert(OTHER_NETS, other, 0);
        entered.map_err(map_error(LISTED))?;
        Ok(lister)
    }

    /// `run` runs the program some times.
    pub(super) fn list(
        &mut self,
        run: &dyn Fn() -> Result<(), BpfError>,
        hashinfos: &[u64],
        ports: &[(NetnsId, u16)],
        by_cgroup: bool,
    ) -> Result<Listing, BpfError> {
        self.pass = self.pass.checked_add(1).unwrap_or(1);
        for &port in ports {
            let none = PodWrapper(ListedPortCounts::default());
            let entered = self.ports.insert(key(port), none, 0);
            entered.map_err(map_error(LISTED_PORTS))?;
        }
        let mut found = Listing::default();
        let cursor = self.pass_through(run, 0, by_cgroup, &mut found)?;
        let (own, mut left_out) = (cursor.hashinfo, cursor.cgroups_left_out);
        for &hashinfo in hashinfos {
            if hashinfo != own && hashinfo != 0 {
                let cursor = self.pass_through(run, hashinfo, by_cgroup, &mut found)?;
                left_out += cursor.cgroups_left_out;
            }
        }
        let mut gone = Vec::new();
        for entry in self.listed.iter() {
            let (net, PodWrapper(listed)) = entry.map_err(map_error(LISTED))?;
            if listed.pass == self.pass {
                found.namespaces.push((net, listed));
            } else if net != OTHER_NETS {
                gone.push(net);
            }
        }
        for net in gone {
            ignore_enoent(self.listed.remove(&net)).map_err(map_error(LISTED))?;
        }
        for &port in ports {
            let PodWrapper(counted) = self
                .ports
                .get(&key(port), 0)
                .map_err(map_error(LISTED_PORTS))?;
            found.ports.push((port, counted.counts));
            ignore_enoent(self.ports.remove(&key(port))).map_err(map_error(LISTED_PORTS))?;
        }
        if by_cgroup {
            found.cgroups = Some(self.take_cgroups()?).filter(|_| left_out == 0);
        }
        Ok(found)
    }

    /// What the pass counted by cgroup. Forgets what it did not meet.
    fn take_cgroups(&mut self) -> Result<CgroupsOfNetns, BpfError> {
        let (mut found, mut gone) = (CgroupsOfNetns::new(), Vec::new());
        let none = (
            PodWrapper(ListedCgroup::default()),
            PodWrapper(ListedCgroupCounts::default()),
        );
        let listed = batch::for_each(&self.listed_cgroups, none, |&PodWrapper(key), counted| {
            if counted.0.pass == self.pass {
                found.insert((key.netns, key.id), counted.0.counts.map(i64::from));
            } else {
                gone.push(key);
            }
        });
        listed.map_err(|error| map_error(LISTED_CGROUPS)(MapError::IoError(error)))?;
        for key in gone {
            let removed = ignore_enoent(self.cgroups.remove(&PodWrapper(key)));
            removed.map_err(map_error(LISTED_CGROUPS))?;
        }
        Ok(found)
    }

    /// The listeners of all namespaces, which `run` adds to the bytes that it is given.
    pub(super) fn list_listeners(
        &mut self,
        run: &dyn Fn(&mut Vec<u8>) -> Result<(), BpfError>,
    ) -> Result<ListenerListing, BpfError> {
        let mut written = Vec::new();
        let cursor = self.run_through(Cursor::default(), || run(&mut written))?;
        Ok(ListenerListing {
            listeners: pod::records(&written),
            failed: cursor.failed,
        })
    }

    /// Goes through both tables of one `struct inet_hashinfo`. Where it came to.
    fn pass_through(
        &mut self,
        run: &dyn Fn() -> Result<(), BpfError>,
        hashinfo: u64,
        by_cgroup: bool,
        found: &mut Listing,
    ) -> Result<Cursor, BpfError> {
        let start = Cursor {
            hashinfo,
            pass: self.pass,
            // `inet_pernet_hashinfo_alloc()` gives a namespace connections of its own, no more.
            without_listeners: u32::from(hashinfo != 0),
            by_cgroup: by_cgroup.into(),
            ..Cursor::default()
        };
        let cursor = self.run_through(start, run)?;
        found.sockets += cursor.sockets;
        found.failed += cursor.failed;
        Ok(cursor)
    }

    /// Runs a program until the pass that begins at `start` is complete.
    fn run_through(
        &mut self,
        start: Cursor,
        mut run: impl FnMut() -> Result<(), BpfError>,
    ) -> Result<Cursor, BpfError> {
        /// Far more than the largest tables need.
        const SESSIONS: u32 = 1 << 20;
        let start = PodWrapper(start);
        self.cursor.set(0, start, 0).map_err(map_error(CURSOR))?;
        let mut cursor = start.0;
        for _ in 0..SESSIONS {
            run()?;
            cursor = self.cursor.get(&0, 0).map_err(map_error(CURSOR))?.0;
            if cursor.phase >= phase::DONE {
                break;
            }
        }
        Ok(cursor)
    }
}

fn key((netns, port): (NetnsId, u16)) -> PodWrapper<ListedPort> {
    PodWrapper(ListedPort {
        netns,
        port: port.into(),
    })
}

fn map_error(name: &'static str) -> impl Fn(MapError) -> BpfError {
    move |source| BpfError::Map { name, source }
}
