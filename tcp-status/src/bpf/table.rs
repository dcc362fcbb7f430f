//! Listing the kernel's socket tables, without entering a namespace.

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
};
use tcp_status_common::{
    counters::NetnsId,
    table::{Cursor, ListedCounts, ListedPort, ListedPortCounts, NetnsCounts, OTHER_NETS, phase},
};

use super::{BpfError, error::ignore_enoent, object::map, pod::PodWrapper};

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

    /// Goes through both tables of one `struct inet_hashinfo`, whose address this gives.
    fn pass_through(
        &mut self,
        run: &dyn Fn() -> Result<(), BpfError>,
        hashinfo: u64,
        found: &mut Listing,
    ) -> Result<u64, BpfError> {
        /// Far more than the largest tables need.
        const SESSIONS: u32 = 1 << 20;
        let start = PodWrapper(Cursor {
            hashinfo,
            pass: self.pass,
            ..Cursor::default()
        });
        self.cursor.set(0, start, 0).map_err(map_error(CURSOR))?;
        let mut cursor = start.0;
        for _ in 0..SESSIONS {
            run()?;
            cursor = self.cursor.get(&0, 0).map_err(map_error(CURSOR))?.0;
            if cursor.phase >= phase::DONE {
                break;
            }
        }
        found.sockets += cursor.sockets;
        found.failed += cursor.failed;
        Ok(cursor.hashinfo)
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
