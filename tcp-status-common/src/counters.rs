//! Layout of the counters: per CPU, per copy of the handler, per bank.

use crate::state::Family;

/// Rows and columns of the flows: the kernel's state numbers 1 to 11, and
/// [`MINI_FIN_WAIT2`](crate::state::MINI_FIN_WAIT2).
pub const STATE_SLOTS: usize = 12;

/// One bank of counters, of one copy of the handler, on one CPU.
///
/// A gauge is the sum over copies and CPUs of `seeded`, plus what `flows` brought
/// in, minus what they took out.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Bank {
    /// State changes counted, `[family][from][to]`.
    pub flows: [[[u64; STATE_SLOTS]; STATE_SLOTS]; Family::COUNT],
    /// Sockets that the seeding counted, `[family][state]`, net of the moves it has seen.
    pub seeded: [[i64; STATE_SLOTS]; Family::COUNT],
}

const _: () = assert!(size_of::<Bank>() == 2496);

impl Bank {
    /// An empty bank.
    pub const ZERO: Self = Self {
        flows: [[[0; STATE_SLOTS]; STATE_SLOTS]; Family::COUNT],
        seeded: [[0; STATE_SLOTS]; Family::COUNT],
    };
}

/// Who writes a bank. Each writer has its own, since an interrupt may bring one
/// in while another is half-way through an addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Writer {
    /// The first copy of the event handler.
    First = 0,
    /// The second copy: counts what the first was skipped for.
    Second = 1,
    /// The walk that seeds.
    Walk = 2,
    /// What happens to timewait minisockets after their birth, always with bottom halves off.
    Timewait = 3,
}

impl Writer {
    /// How many writers there are.
    pub const COUNT: u32 = 4;
    /// All writers.
    pub const ALL: [Self; 4] = [Self::First, Self::Second, Self::Walk, Self::Timewait];

    /// The index of this writer's part of `bank` (0 or 1) in the map of banks.
    #[must_use]
    pub const fn bank(self, bank: u32) -> u32 {
        self as u32 * 2 + bank
    }
}

/// How many banks the map holds: two per writer.
pub const BANKS: u32 = Writer::COUNT * 2;

/// What a writer says of itself since it was loaded, on one CPU.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct WriterStats {
    /// Events that this copy was the first to see, of any protocol and namespace.
    pub events: u64,
    /// Events that were counted into a live bank.
    pub counted: u64,
    /// Map updates that failed: the seeding in progress is void.
    pub failures: u64,
    /// State numbers that do not exist.
    pub impossible: u64,
    /// Half-open connections whose listener was closed: they stay listed until their timers fire.
    pub abandoned: u64,
}

const _: () = assert!(size_of::<WriterStats>() == 40);

/// What a walk met that is no full socket, on one CPU.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Walked {
    /// Timewait minisockets in substate TIME_WAIT, by family.
    pub timewait: [u64; Family::COUNT],
    /// Timewait minisockets in substate FIN_WAIT2, by family.
    pub finwait2: [u64; Family::COUNT],
    /// Request sockets, by family.
    pub requests: [u64; Family::COUNT],
    /// Full sockets that the walk was the first to see.
    pub sockets: u64,
}

const _: () = assert!(size_of::<Walked>() == 56);

/// What a listener walk is to find, and what it found.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Listeners {
    /// Request sockets that wait at listeners, by the listener's family.
    pub requests: [u64; Family::COUNT],
    /// Listeners met.
    pub listeners: u64,
    /// How many there should be: the walk ends there. Written by user space.
    pub expected: u64,
}

const _: () = assert!(size_of::<Listeners>() == 32);

impl WriterStats {
    /// The sums of both.
    #[must_use]
    pub const fn plus(self, other: &Self) -> Self {
        Self {
            events: self.events + other.events,
            counted: self.counted + other.counted,
            failures: self.failures + other.failures,
            impossible: self.impossible + other.impossible,
            abandoned: self.abandoned + other.abandoned,
        }
    }
}

impl Walked {
    /// The sums of both.
    #[must_use]
    pub const fn plus(self, other: &Self) -> Self {
        const fn sum(a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
            [a[0] + b[0], a[1] + b[1]]
        }
        Self {
            timewait: sum(self.timewait, other.timewait),
            finwait2: sum(self.finwait2, other.finwait2),
            requests: sum(self.requests, other.requests),
            sockets: self.sockets + other.sockets,
        }
    }
}
