//! How many sockets of which kind and family are to be held.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{Family, oracle::st};

/// What can be held. Where a kind takes a connection, its other end is listed as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// A listener.
    Listen,
    /// Both ends of an open connection.
    Established,
    /// A client of a listener whose accept queue is full.
    SynSent,
    /// A request socket; its client is established.
    SynRecv,
    /// Shut down behind a full window; the peer is established.
    FinWait1,
    /// Shut down, a full socket; the peer is in CLOSE_WAIT.
    FinWait2,
    /// Closed, a minisocket; the peer is in CLOSE_WAIT.
    FinWait2Mini,
    /// Closed by both: a minisocket without a peer.
    TimeWait,
    /// Shut down by the peer, which is in FIN_WAIT2.
    CloseWait,
    /// Shut down after the peer, behind a full window; the peer is in FIN_WAIT2.
    LastAck,
    /// Shut down by both at once, behind a full window; the peer is in FIN_WAIT2.
    Closing,
}

impl SocketKind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::Listen,
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::FinWait2Mini,
        Self::TimeWait,
        Self::CloseWait,
        Self::LastAck,
        Self::Closing,
    ];

    /// The state in which the kernel lists it.
    #[must_use]
    pub const fn st(self) -> usize {
        match self {
            Self::Listen => st::LISTEN,
            Self::Established => st::ESTABLISHED,
            Self::SynSent => st::SYN_SENT,
            Self::SynRecv => st::SYN_RECV,
            Self::FinWait1 => st::FIN_WAIT1,
            Self::FinWait2 | Self::FinWait2Mini => st::FIN_WAIT2,
            Self::TimeWait => st::TIME_WAIT,
            Self::CloseWait => st::CLOSE_WAIT,
            Self::LastAck => st::LAST_ACK,
            Self::Closing => st::CLOSING,
        }
    }
}

/// Numbers by family and kind, and the seed of whatever is left to chance.
#[derive(Clone, Debug)]
pub struct SocketPlan {
    numbers: [[u32; SocketKind::ALL.len()]; Family::ALL.len()],
    seed: u64,
}

impl SocketPlan {
    /// Nothing yet.
    #[must_use]
    pub const fn empty(seed: u64) -> Self {
        let numbers = [[0; SocketKind::ALL.len()]; Family::ALL.len()];
        Self { numbers, seed }
    }

    /// The same number of each.
    #[must_use]
    pub const fn uniform(number: u32, seed: u64) -> Self {
        let numbers = [[number; SocketKind::ALL.len()]; Family::ALL.len()];
        Self { numbers, seed }
    }

    /// From 1 to `most` of each, by chance.
    #[must_use]
    pub fn random(most: u32, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut plan = Self::empty(seed);
        for number in plan.numbers.iter_mut().flatten() {
            *number = rng.random_range(1..=most.max(1));
        }
        plan
    }

    /// This plan with another number of one kind.
    #[must_use]
    pub const fn with(mut self, family: Family, kind: SocketKind, number: u32) -> Self {
        self.numbers[family as usize][kind as usize] = number;
        self
    }

    /// How many of one kind.
    #[must_use]
    pub const fn number(&self, family: Family, kind: SocketKind) -> u32 {
        self.numbers[family as usize][kind as usize]
    }

    /// The seed.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }
}
