//! Half-open connections whose listener was closed: reads the closed listeners that the programs
//! recorded, and forgets those without request sockets. The cost does not depend on connections.

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
};
use tcp_status_common::counters::{CLOSED_PER_READ, ClosedListener, ClosedQuery, ClosedTotals};

use super::{
    Bpf, BpfError,
    iterate::OnEagain,
    load::{READ_CLOSED, ignore_enoent, lock, map},
    pod::PodWrapper,
};

const LISTENERS: &str = "CLOSED_LISTENERS";
const QUERY: &str = "CLOSED_QUERY";
const TOTALS: &str = ".bss.closed";

/// The maps of closed listeners.
pub(super) struct Closed {
    listeners: HashMap<MapData, u64, PodWrapper<ClosedListener>>,
    query: Array<MapData, PodWrapper<ClosedQuery>>,
    totals: Array<MapData, PodWrapper<ClosedTotals>>,
    /// How many had been recorded when none was left.
    gone: u64,
}

impl Closed {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            listeners: map(ebpf, LISTENERS)?,
            query: map(ebpf, QUERY)?,
            totals: map(ebpf, TOTALS)?,
            gone: 0,
        })
    }

    fn totals(&self) -> Result<ClosedTotals, BpfError> {
        let totals = self.totals.get(&0, 0).map_err(error(TOTALS))?;
        Ok(totals.0)
    }
}

impl Bpf {
    /// How many closed listeners with request sockets there were since the programs were loaded.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn closed_totals(&self) -> Result<ClosedTotals, BpfError> {
        lock(&self.closed).totals()
    }

    /// Closed listeners that still have request sockets, of all namespaces.
    ///
    /// # Errors
    /// If the kernel refuses the walk.
    pub fn closed_listeners(&self) -> Result<Vec<ClosedListener>, BpfError> {
        let mut closed = lock(&self.closed);
        let recorded = closed.totals()?.recorded;
        let mut found = Vec::new();
        if recorded == closed.gone {
            return Ok(found);
        }
        let socks: Vec<u64> = closed
            .listeners
            .keys()
            .collect::<Result<_, _>>()
            .map_err(error(LISTENERS))?;
        for chunk in socks.chunks(CLOSED_PER_READ) {
            let mut query = ClosedQuery {
                socks: [0; CLOSED_PER_READ],
            };
            query.socks[..chunk.len()].copy_from_slice(chunk);
            closed
                .query
                .set(0, PodWrapper(query), 0)
                .map_err(error(QUERY))?;
            self.run(READ_CLOSED, OnEagain::Stop, &mut Vec::new())?;
            for sock in chunk {
                let read = closed.listeners.get(sock, 0).map_err(error(LISTENERS))?.0;
                if read.requests > 0 {
                    found.push(read);
                } else {
                    ignore_enoent(closed.listeners.remove(sock)).map_err(error(LISTENERS))?;
                }
            }
        }
        if found.is_empty() {
            closed.gone = recorded;
        }
        Ok(found)
    }
}

fn error(name: &'static str) -> impl Fn(MapError) -> BpfError {
    move |source| BpfError::Map { name, source }
}
