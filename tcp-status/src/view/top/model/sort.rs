//! Orders of rows, and how a panel is sorted and scrolled.

use std::cmp::{Ordering, Reverse};

use tcp_status_common::state::State;

use super::{cgroup_row::CgroupRow, port_row::PortRow};
use crate::snapshot::Group;

/// What an order is made of.
pub trait SortKey: Copy + Default + PartialEq + 'static {
    /// Every key, in the order in which they are gone through.
    const ALL: &'static [Self];

    /// What is put in order.
    type Row<'a>;

    /// As it is shown.
    fn name(self) -> &'static str;

    /// Which of two rows comes first.
    fn compare(self, a: &Self::Row<'_>, b: &Self::Row<'_>) -> Ordering;
}

/// Orders of listeners: what is worst off, or lowest, first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListenerSort {
    /// How full the queues are.
    #[default]
    Queue,
    /// How full it was.
    Peak,
    /// Half-open connections.
    Syn,
    /// Port, then address.
    Port,
}

impl SortKey for ListenerSort {
    const ALL: &'static [Self] = &[Self::Queue, Self::Peak, Self::Syn, Self::Port];

    type Row<'a> = Group<'a>;

    fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Peak => "peak",
            Self::Syn => "syn",
            Self::Port => "port",
        }
    }

    fn compare(self, a: &Group<'_>, b: &Group<'_>) -> Ordering {
        match self {
            // Where one socket of a group is full, the whole is not.
            Self::Queue => {
                let key = |of: &Group<'_>| (of.fullness(), of.taken(), of.accept_queue());
                key(b).cmp(&key(a))
            }
            Self::Peak => {
                let key = |of: &Group<'_>| {
                    let limit = of.accept_queue_limit() + 1;
                    of.accept_queue_peak().map(|peak| peak * 1_000_000 / limit)
                };
                key(b).cmp(&key(a))
            }
            Self::Syn => b.syn_queue().cmp(&a.syn_queue()),
            Self::Port => a.address().1.cmp(&b.address().1),
        }
    }
}

/// Orders of ports: the most connections, or the lowest number, first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortSort {
    /// All connections.
    #[default]
    Total,
    /// Those in one state.
    State(State),
    /// The number.
    Port,
}

impl SortKey for PortSort {
    const ALL: &'static [Self] = &[
        Self::Total,
        Self::State(State::Established),
        Self::State(State::CloseWait),
        Self::State(State::TimeWait),
        Self::State(State::SynRecv),
        Self::Port,
    ];

    type Row<'a> = PortRow;

    fn name(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::State(state) => state.name(),
            Self::Port => "port",
        }
    }

    fn compare(self, a: &PortRow, b: &PortRow) -> Ordering {
        let key = |row: &PortRow| match self {
            Self::Total => Reverse(row.states.total()),
            Self::State(state) => Reverse(row.states[state]),
            Self::Port => Reverse(0),
        };
        (key(a), a.local).cmp(&(key(b), b.local))
    }
}

/// Orders of cgroups: the most sockets, or the first name, first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupSort {
    /// All sockets.
    #[default]
    Total,
    /// Those in one state.
    State(State),
    /// The name.
    Name,
}

impl SortKey for CgroupSort {
    const ALL: &'static [Self] = &[
        Self::Total,
        Self::State(State::Established),
        Self::State(State::CloseWait),
        Self::State(State::SynSent),
        Self::State(State::SynRecv),
        Self::Name,
    ];

    type Row<'a> = CgroupRow;

    fn name(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::State(state) => state.name(),
            Self::Name => "name",
        }
    }

    fn compare(self, a: &CgroupRow, b: &CgroupRow) -> Ordering {
        let key = |row: &CgroupRow| match self {
            Self::Total => Reverse(row.states.total()),
            Self::State(state) => Reverse(row.states[state]),
            Self::Name => Reverse(0),
        };
        (key(a), &a.cgroup).cmp(&(key(b), &b.cgroup))
    }
}

/// How a panel is sorted, and where it is scrolled to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sorted<K> {
    pub(super) by: K,
    pub(super) reversed: bool,
    pub(super) offset: usize,
}

impl<K: SortKey> Sorted<K> {
    /// On to the next order.
    pub(super) fn next(&mut self) {
        let at = K::ALL.iter().position(|key| *key == self.by);
        self.by = K::ALL[at.map_or(0, |at| (at + 1) % K::ALL.len())];
        self.reversed = false;
        self.offset = 0;
    }

    /// Which of two rows comes first.
    pub(super) fn compare(&self, a: &K::Row<'_>, b: &K::Row<'_>) -> Ordering {
        let order = self.by.compare(a, b);
        if self.reversed {
            order.reverse()
        } else {
            order
        }
    }
}
