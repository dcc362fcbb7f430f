//! Lets aya copy the shared types in and out of maps.

use tcp_status_common::{
    accept::{AcceptLayout, AcceptTimes},
    control::Control,
    counters::{
        Bank, CgroupCache, CgroupGauges, ClosedListener, ClosedQuery, ClosedTotals, FailureTotals,
        ListenerRecord, ListenerWalk, Namespace, NamespaceQuery, PortGauges, PortPage, SlotKey,
        SlotShares, WalkTotals,
    },
    kernel_layout::KernelLayout,
    no_local_port::{Destination, NoLocalPort},
    per_cpu::{Shards, WriterStats},
    table::{
        Cursor, ListedCgroup, ListedCgroupCounts, ListedListener, ListedPort, ListedPortCounts,
        NetnsCounts,
    },
};

/// A shared type as a map holds it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct PodWrapper<T>(pub(super) T);

macro_rules! plain_data {
    ($($shared:ty),+) => {
        $(
            // SAFETY: `repr(C)` with integers only and without implicit padding; any bytes are valid.
            unsafe impl aya::Pod for PodWrapper<$shared> {}
        )+
    };
}

plain_data!(
    Bank,
    AcceptLayout,
    AcceptTimes,
    CgroupCache,
    CgroupGauges,
    ClosedListener,
    ClosedQuery,
    ClosedTotals,
    Control,
    Cursor,
    Destination,
    FailureTotals,
    KernelLayout,
    NetnsCounts,
    NoLocalPort,
    ListedCgroup,
    ListedCgroupCounts,
    ListedListener,
    ListedPort,
    ListedPortCounts,
    ListenerRecord,
    ListenerWalk,
    Namespace,
    NamespaceQuery,
    PortGauges,
    PortPage,
    Shards,
    SlotKey,
    SlotShares,
    WalkTotals,
    WriterStats
);

/// The records that a program wrote to its reader.
pub(super) fn records<T>(bytes: &[u8]) -> Vec<T>
where
    PodWrapper<T>: aya::Pod,
{
    bytes
        .chunks_exact(size_of::<T>())
        // SAFETY: as long as a record, of which any bytes are valid; read without alignment.
        .map(|record| unsafe { record.as_ptr().cast::<T>().read_unaligned() })
        .collect()
}

/// What a walk over listeners writes: as many records as fit.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(bytes: &[u8]) -> Vec<ListenerRecord> {
    let records = records(bytes);
    assert_eq!(records.len(), bytes.len() / size_of::<ListenerRecord>());
    records
}
