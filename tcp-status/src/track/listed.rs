//! What the last pass over the kernel's socket tables counted in other namespaces.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tcp_status_common::{
    counters::NetnsId,
    state::{Family, MINI_FIN_WAIT2, NEW_SYN_RECV, State},
    table::ListedCounts,
};

use super::split::Split;

/// What the last pass counted.
#[derive(Debug, Default)]
pub(super) struct TableCounts {
    pub(super) taken: Option<Instant>,
    /// When ports were last counted apart.
    pub(super) ports_taken: Option<Instant>,
    pub(super) cost: Duration,
    pub(super) counts: ByNamespace,
}

/// What was listed in each namespace.
pub(super) type ByNamespace = BTreeMap<NetnsId, ListedCounts>;

/// What one pass counted of a namespace beside full sockets, by family.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Aside {
    /// Timewait minisockets in TIME_WAIT.
    pub(super) timewait: [u64; Family::COUNT],
    /// Timewait minisockets in FIN_WAIT2.
    pub(super) finwait2: [u64; Family::COUNT],
    /// Request sockets.
    pub(super) requests: [u64; Family::COUNT],
}

impl From<&ListedCounts> for Split {
    fn from(counts: &ListedCounts) -> Self {
        let Aside {
            timewait, finwait2, ..
        } = Aside::of(counts);
        Self { finwait2, timewait }
    }
}

impl Aside {
    pub(super) fn of(counts: &ListedCounts) -> Self {
        let all = |state: u8| [0, 1].map(|family| u64::from(counts[family][usize::from(state)]));
        let [timewait, finwait2] = [State::TimeWait.number(), MINI_FIN_WAIT2].map(all);
        Self {
            timewait,
            finwait2,
            requests: all(NEW_SYN_RECV),
        }
    }
}
