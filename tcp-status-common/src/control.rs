//! What user space tells the programs while they run, and the marks by which the
//! two copies of the event handler recognise one event.

/// Which banks the events go to. One byte is all that changes, and it is read once per
/// event, so that every event falls wholly before or wholly after a switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Mode(u32);

impl Mode {
    /// Nothing is counted: the state of a fresh map.
    pub const OFF: Self = Self(0);

    /// Counts into bank `live` (0 or 1), and seeds bank `seed`, if given.
    #[must_use]
    pub const fn new(live: Option<u32>, seed: Option<u32>) -> Self {
        Self(Self::encode(live) | Self::encode(seed) << 4 | Self::encode(seed) << 8)
    }

    /// Counts into bank `live`, if given, and only enters the ports of new listeners into `bank`:
    /// what comes before seeding it, so that no connection meets a port that is not entered yet.
    #[must_use]
    pub const fn registering_ports(live: Option<u32>, bank: u32) -> Self {
        Self(Self::encode(live) | Self::encode(Some(bank)) << 8)
    }

    /// The same, but the next event wakes user space.
    #[must_use]
    pub const fn armed(self) -> Self {
        Self(self.0 | Self::ARMED)
    }

    /// Whether an event is to wake user space.
    #[must_use]
    pub const fn is_armed(self) -> bool {
        self.0 & Self::ARMED != 0
    }

    /// The same, but the walk looks only for what a task may have reported before the seeding, and
    /// listed after the first walk.
    #[must_use]
    pub const fn second_pass(self) -> Self {
        Self(self.0 | Self::SECOND_PASS)
    }

    /// Whether the walk is the second one of a seeding.
    #[must_use]
    pub const fn is_second_pass(self) -> bool {
        self.0 & Self::SECOND_PASS != 0
    }

    /// The same, where timewait minisockets are counted in those of the two banks that `counted`
    /// names.
    #[must_use]
    pub const fn with_timewait(self, counted: [bool; 2]) -> Self {
        Self(
            self.0
                | (counted[0] as u32) << Self::TIMEWAIT
                | (counted[1] as u32) << (Self::TIMEWAIT + 1),
        )
    }

    /// Whether timewait minisockets are counted in `bank`.
    #[must_use]
    pub const fn counts_timewait(self, bank: u32) -> bool {
        self.0 >> (Self::TIMEWAIT + (bank & 1)) & 1 == 1
    }

    /// The same, where events of namespaces other than the tracker's own go where `others` says.
    #[must_use]
    pub const fn with_others(self, others: OtherNamespaces) -> Self {
        let live = match self.live() {
            Some(_) => Some(others.live),
            None => None,
        };
        let mut mode = Self(Self::encode(live));
        if others.seeded {
            mode.0 |= self.0 & 0xff0;
        }
        Self(self.0 | mode.with_timewait(others.timewait).0 << Self::OTHERS)
    }

    /// The mode of other namespaces. What concerns all of them is in the whole mode alone.
    #[inline(always)]
    #[must_use]
    pub const fn of_others(self) -> Self {
        Self(self.0 >> Self::OTHERS)
    }

    /// Where the mode of other namespaces begins.
    const OTHERS: u32 = 16;
    const ARMED: u32 = 1 << 12;
    const SECOND_PASS: u32 = 1 << 13;
    /// The bit of bank 0; that of bank 1 follows.
    const TIMEWAIT: u32 = 14;

    const fn encode(bank: Option<u32>) -> u32 {
        match bank {
            Some(bank) => (bank & 1) + 1,
            None => 0,
        }
    }

    const fn decode(bits: u32) -> Option<u32> {
        match bits & 3 {
            0 => None,
            bits => Some((bits - 1) & 1),
        }
    }

    /// The bank whose flows count events.
    #[must_use]
    pub const fn live(self) -> Option<u32> {
        Self::decode(self.0)
    }

    /// The bank that a walk is seeding.
    #[must_use]
    pub const fn seed(self) -> Option<u32> {
        Self::decode(self.0 >> 4)
    }

    /// The bank, beside the live one, that the ports of new listeners are entered into.
    #[must_use]
    pub const fn ports(self) -> Option<u32> {
        Self::decode(self.0 >> 8)
    }
}

/// Where events of namespaces other than the tracker's own are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtherNamespaces {
    /// The bank, while events are counted at all.
    pub live: u32,
    /// Whether a seeding seeds them too.
    pub seeded: bool,
    /// The banks that count their timewait minisockets.
    pub timewait: [bool; 2],
}

/// The one record that user space writes while the programs run.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Control {
    /// Where events are counted.
    pub mode: Mode,
    /// Inode number of the network namespace that is counted.
    pub netns: u32,
}

const _: () = assert!(size_of::<Control>() == 8);

impl Control {
    /// What a fresh map holds.
    pub const OFF: Self = Self {
        mode: Mode::OFF,
        netns: 0,
    };
}

/// What one copy of a handler leaves for the other: the event that it has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EventToken {
    /// Address of the socket; 0 where nothing is left.
    pub sock: u64,
    /// Old state in bits 32 to 63, new state in bits 0 to 31.
    pub change: u64,
}

const _: () = assert!(size_of::<EventToken>() == 16);

/// What the program at the entry of a function leaves for the one at its exit: the minisocket that
/// a segment is processed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Address of the minisocket; 0 where nothing is left.
    pub timewait: u64,
    /// Its substate at the entry.
    pub substate: u64,
}

const _: () = assert!(size_of::<Segment>() == 16);

/// One level of execution of a CPU.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ContextSlot {
    /// Address of the stack that it was last seen to run on; 0 before.
    pub stack: u64,
    /// The last event on it.
    pub token: EventToken,
}

const _: () = assert!(size_of::<ContextSlot>() == 24);

/// How many slots for [`EventToken`] or [`Segment`] there are by task, indexed by pid.
pub const TASK_SLOTS: u32 = 65_536;

#[cfg(test)]
mod tests {
    use super::{Mode, OtherNamespaces};

    #[test]
    fn other_namespaces_have_a_bank_of_their_own() {
        for live in [0, 1] {
            for seeded in [false, true] {
                let timewait = [!seeded, seeded];
                let others = OtherNamespaces {
                    live,
                    seeded,
                    timewait,
                };
                let mode = Mode::new(Some(1), Some(0)).with_others(others);
                assert_eq!((mode.live(), mode.seed()), (Some(1), Some(0)));
                let mode = mode.of_others();
                assert_eq!(
                    (mode.live(), mode.seed()),
                    (Some(live), seeded.then_some(0))
                );
                assert_eq!(mode.ports(), mode.seed());
                let counted = [0, 1].map(|bank| mode.counts_timewait(bank));
                assert_eq!(counted, timewait);
            }
        }
        let others = OtherNamespaces {
            live: 1,
            ..OtherNamespaces::default()
        };
        let before = Mode::new(None, Some(0)).with_others(others);
        assert_eq!(before.of_others().live(), None);
    }

    #[test]
    fn modes_keep_both_banks() {
        assert_eq!(Mode::OFF, Mode::new(None, None));
        for live in [None, Some(0), Some(1)] {
            for seed in [None, Some(0), Some(1)] {
                let mode = Mode::new(live, seed);
                assert_eq!((mode.live(), mode.seed()), (live, seed));
                assert_eq!(mode.ports(), seed);
                let armed = mode.armed();
                assert_eq!((armed.live(), armed.seed()), (live, seed));
                assert!(armed.is_armed() && !mode.is_armed());
                let second = mode.second_pass();
                assert_eq!((second.live(), second.seed()), (live, seed));
                assert!(second.is_second_pass() && !second.is_armed() && !armed.is_second_pass());
                let timewait = armed.with_timewait([false, true]);
                assert_eq!((timewait.live(), timewait.seed()), (live, seed));
                assert!(timewait.is_armed() && !timewait.is_second_pass());
                assert_eq!(
                    [0, 1].map(|bank| timewait.counts_timewait(bank)),
                    [false, true]
                );
            }
            let mode = Mode::registering_ports(live, 1);
            assert_eq!(
                (mode.live(), mode.seed(), mode.ports()),
                (live, None, Some(1))
            );
        }
    }
}
