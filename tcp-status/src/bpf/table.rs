//! Listing the kernel's socket tables, without entering a namespace.

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
};
use tcp_status_common::{
    counters::NetnsId,
    table::{
        Cursor, ListedCounts, ListedListener, ListedPort, ListedPortCounts, NetnsCounts,
        OTHER_NETS, phase,
    },
};

use super::{
    BpfError,
    error::ignore_enoent,
    object::map,
    pod::{self, PodWrapper},
};

const CURSOR: &str = "CURSOR";
const LISTED: &str = "LISTED";
const LISTED_PORTS: &str = "LISTED_PORTS";

/// Lists the socket tables. One pass at a time.
pub(super) struct Lister {
    cursor: Array<MapData, PodWrapper<Cursor>>,
    listed: HashMap<MapData, u64, PodWrapper<NetnsCounts>>,
    ports: HashMap<MapData, PodWrapper<ListedPort>, PodWrapper<ListedPortCounts>>,
    pass: u32,
}

/// What one pass counted.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// By address of the namespace, the tracker's own included.
    pub namespaces: Vec<(u64, NetnsCounts)>,
    /// At the ports that were asked for.
    pub ports: Vec<((NetnsId, u16), ListedCounts)>,
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
    ) -> Result<Listing, BpfError> {
        self.pass = self.pass.checked_add(1).unwrap_or(1);
        for &port in ports {
            let none = PodWrapper(ListedPortCounts::default());
            let entered = self.ports.insert(key(port), none, 0);
            entered.map_err(map_error(LISTED_PORTS))?;
        }
        let mut found = Listing::default();
        let own = self.pass_through(run, 0, &mut found)?;
        for &hashinfo in hashinfos {
            if hashinfo != own && hashinfo != 0 {
                self.pass_through(run, hashinfo, &mut found)?;
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

    /// Goes through both tables of one `struct inet_hashinfo`, whose address this gives.
    fn pass_through(
        &mut self,
        run: &dyn Fn() -> Result<(), BpfError>,
        hashinfo: u64,
        found: &mut Listing,
    ) -> Result<u64, BpfError> {
        let start = Cursor {
            hashinfo,
            pass: self.pass,
            // `inet_pernet_hashinfo_alloc()` gives a namespace connections of its own, no more.
            without_listeners: u64::from(hashinfo != 0),
            ..Cursor::default()
        };
        let cursor = self.run_through(start, run)?;
        found.sockets += cursor.sockets;
        found.failed += cursor.failed;
        Ok(cursor.hashinfo)
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

fn map_error(name: &'static str) -> impl Fn(aya::maps::MapError) -> BpfError {
    move |source| BpfError::Map { name, source }
}
