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

use crate::track::minisockets::split::Split;

/// What the last pass counted.
#[derive(Debug, Default)]
pub(crate) struct TableCounts {
    pub(crate) taken: Option<Instant>,
    /// When ports were last counted apart.
    pub(crate) ports_taken: Option<Instant>,
    pub(crate) cost: Duration,
    pub(crate) counts: ByNamespace,
}

/// What was listed in each namespace.
pub(crate) type ByNamespace = BTreeMap<NetnsId, ListedCounts>;

/// What one pass counted of a namespace beside full sockets, by family.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Aside {
    /// Timewait minisockets in TIME_WAIT.
    pub(crate) timewait: [u64; Family::COUNT],
    /// Timewait minisockets in FIN_WAIT2.
    pub(crate) finwait2: [u64; Family::COUNT],
    /// Request sockets.
    pub(crate) requests: [u64; Family::COUNT],
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
    pub(crate) fn of(counts: &ListedCounts) -> Self {
        let all = |state: u8| [0, 1].map(|family| u64::from(counts[family][usize::from(state)]));
        let [timewait, finwait2] = [State::TimeWait.number(), MINI_FIN_WAIT2].map(all);
        Self {
            timewait,
            finwait2,
            requests: all(NEW_SYN_RECV),
        }
    }
}
