//! Half-open connections whose listener was closed: reads the closed listeners that the programs
//! recorded, and forgets those without request sockets. The cost does not depend on connections.

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
};
use tcp_status_common::counters::{ClosedListener, ClosedQuery, ClosedTotals};

use super::{BpfError, object::map, pod::PodWrapper};

pub(super) const LISTENERS: &str = "CLOSED_LISTENERS";
pub(super) const QUERY: &str = "CLOSED_QUERY";
const TOTALS: &str = ".bss.closed";

/// The maps of closed listeners.
pub(super) struct Closed {
    pub(super) listeners: HashMap<MapData, u64, PodWrapper<ClosedListener>>,
    pub(super) query: Array<MapData, PodWrapper<ClosedQuery>>,
    pub(super) totals: Array<MapData, PodWrapper<ClosedTotals>>,
    /// How many had been recorded when none was left.
    pub(super) gone: u64,
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

    pub(super) fn totals(&self) -> Result<ClosedTotals, BpfError> {
        let totals = self.totals.get(&0, 0).map_err(error(TOTALS))?;
        Ok(totals.0)
    }
}

pub(super) fn error(name: &'static str) -> impl Fn(MapError) -> BpfError {
    move |source| BpfError::Map { name, source }
}
