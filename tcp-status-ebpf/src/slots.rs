//! What is counted apart, a port or a cgroup, has a slot, in which its gauges are: the same one in both
//! banks.

use core::{hint::black_box, ptr::read_volatile};

use tcp_status_common::counters::{
    NetnsId, OTHER_SLOT, OWN_NETNS, SLOT_SHARES, SlotKey, SlotShares,
};

use crate::{
    cells,
    maps::{FreeSlots, Shares, Slots},
    netns_counters::BPF_NOEXIST,
};

/// The number of a slot plus one, or none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(u32);

impl Slot {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const OTHER: Self = Self::new(OTHER_SLOT);

    #[inline(always)]
    const fn new(index: u32) -> Self {
        Self(index + 1)
    }

    /// Whether it is of one port, or cgroup.
    #[inline(always)]
    pub(crate) fn is_individual(self) -> bool {
        self != Self::NONE && self != Self::OTHER
    }

    /// Where its gauges are.
    #[inline(always)]
    pub(crate) fn index(self) -> Option<u32> {
        self.0.checked_sub(1)
    }

    /// As an argument of a global function.
    #[inline(always)]
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub(crate) fn from_number(number: u32) -> Self {
        Self(number)
    }
}

/// The maps that slots of one kind are kept in.
pub(crate) struct Pool {
    pub(crate) slots: &'static Slots,
    pub(crate) free: &'static FreeSlots,
    pub(crate) shares: &'static Shares,
}

impl Pool {
    /// The slot that something has.
    #[inline(always)]
    pub(crate) fn find(&self, key: SlotKey) -> Option<Slot> {
        // SAFETY: the map gave the pointer; an entry never changes.
        self.slots
            .get_ptr(key)
            .map(|index| Slot::new(unsafe { *index }))
    }

    /// The slot that something has or gets now: if it has one in the other bank, the same. Without room,
    /// what is of the tracker's own namespace shares one, and keeps to it.
    ///
    /// # Errors
    /// Why it could not be entered; it has no slot then.
    #[inline(always)]
    pub(crate) fn find_or_take(&self, key: SlotKey, elsewhere: Slot) -> Result<Slot, i32> {
        if let Some(slot) = self.find(key) {
            return Ok(slot);
        }
        let (slot, taken) = if elsewhere.is_individual() {
            (elsewhere, false)
        } else if let Some(index) = self.take_free(key.netns) {
            (Slot::new(index), true)
        } else if key.netns == OWN_NETNS {
            (Slot::OTHER, false)
        } else {
            return Ok(Slot::NONE);
        };
        let index = slot.0 - 1;
        match self.slots.insert(key, index, BPF_NOEXIST) {
            Ok(()) => Ok(slot),
            Err(errno) => {
                // Another CPU was first, or there is no room.
                if taken {
                    self.count_taken(key.netns, -1);
                    let _: Result<(), i32> = self.free.push(index, 0);
                }
                self.find(key).ok_or(errno)
            }
        }
    }

    /// Whether something of another namespace ever found no slot.
    #[inline(always)]
    pub(crate) fn has_refused(&self) -> bool {
        let shares = self.shares.get_ptr(0);
        // SAFETY: the map gave the pointer; others write at any time.
        shares.is_some_and(|shares| unsafe { read_volatile(&raw const (*shares).refused) } != 0)
    }

    /// Says so.
    #[inline(always)]
    pub(crate) fn refuse(&self) {
        if let Some(shares) = self.shares.get_ptr_mut(0) {
            // SAFETY: as above.
            unsafe { (&raw mut (*shares).refused).write_volatile(1) };
        }
    }

    /// A slot that is free, unless the namespace has its share.
    #[inline(always)]
    fn take_free(&self, netns: NetnsId) -> Option<u32> {
        if netns != OWN_NETNS {
            let shares = self.shares.get_ptr(0)?;
            // SAFETY: as above; the index is in range.
            let (taken, free, reserved) = unsafe {
                (
                    read_volatile(&raw const (*shares).taken[share_index(netns)]),
                    read_volatile(&raw const (*shares).free),
                    read_volatile(&raw const (*shares).reserved),
                )
            };
            if !SlotShares::may_take(taken, free, reserved) {
                return None;
            }
        }
        let index = self.free.pop().ok()??;
        self.count_taken(netns, 1);
        Some(index)
    }

    /// The namespace has one slot more (`by` 1) or less (-1).
    #[inline(always)]
    fn count_taken(&self, netns: NetnsId, by: i32) {
        let Some(shares) = self.shares.get_ptr_mut(0) else {
            return;
        };
        // SAFETY: as above.
        unsafe {
            cells::add_u32_atomic(&raw mut (*shares).free, (-by).cast_unsigned());
            if netns != OWN_NETNS {
                let taken = &raw mut (*shares).taken[share_index(netns)];
                cells::add_u32_atomic(taken, by.cast_unsigned());
            }
        }
    }
}

/// Masked, as a port is: before 6.7 the verifier forgets the bounds of a number that lay on the stack, and
/// the compiler would leave out a mask that changes nothing.
#[inline(always)]
fn share_index(netns: NetnsId) -> usize {
    black_box(SlotShares::index(netns)) & (SLOT_SHARES - 1)
}
