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

    /// Gives something that has no slot one: if it has one in the other bank, the same. None where there is no
    /// room.
    ///
    /// # Errors
    /// Why it could not be entered.
    #[inline(always)]
    pub(crate) fn take(&self, key: SlotKey, elsewhere: Slot) -> Result<Option<Slot>, i32> {
        if elsewhere.is_individual() {
            return self.enter(key, elsewhere).map(Some);
        }
        let Some(index) = self.take_free(key.netns) else {
            return Ok(None);
        };
        let slot = Slot::new(index);
        let entered = self.enter(key, slot);
        if entered != Ok(slot) {
            self.count_taken(key.netns, -1);
            let _: Result<(), i32> = self.free.push(index, 0);
        }
        entered.map(Some)
    }

    /// Enters something at a slot. That which it has, for another CPU may have been first.
    ///
    /// # Errors
    /// Why it could not be entered.
    #[inline(always)]
    pub(crate) fn enter(&self, key: SlotKey, slot: Slot) -> Result<Slot, i32> {
        match self.slots.insert(key, slot.0.wrapping_sub(1), BPF_NOEXIST) {
            Ok(()) => Ok(slot),
            Err(errno) => self.find(key).ok_or(errno),
        }
    }

    /// Whether a cgroup of the namespace found no slot, in this bank if it is the tracker's own.
    #[inline(always)]
    pub(crate) fn has_refused(&self, netns: NetnsId, bank: u32) -> bool {
        // SAFETY: the map gave the pointer, the index is in range; others write at any time.
        refusal(self.shares, netns, bank)
            .is_some_and(|refused| unsafe { read_volatile(refused) } != 0)
    }

    /// Says so.
    #[inline(always)]
    pub(crate) fn refuse(&self, netns: NetnsId, bank: u32) {
        if let Some(refused) = refusal(self.shares, netns, bank) {
            // SAFETY: as above.
            unsafe { refused.write_volatile(1) };
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

#[inline(always)]
fn refusal(shares: &Shares, netns: NetnsId, bank: u32) -> Option<*mut u32> {
    let shares = shares.get_ptr_mut(0)?;
    // SAFETY: the map gave the pointer, the indices are in range.
    Some(unsafe {
        if netns != OWN_NETNS {
            &raw mut (*shares).refused[share_index(netns)]
        } else if bank & 1 == 0 {
            &raw mut (*shares).own_refused[0]
        } else {
            &raw mut (*shares).own_refused[1]
        }
    })
}

/// Masked, as a port is: before 6.7 the verifier forgets the bounds of a number that lay on the stack, and
/// the compiler would leave out a mask that changes nothing.
#[inline(always)]
fn share_index(netns: NetnsId) -> usize {
    black_box(SlotShares::index(netns)) & (SLOT_SHARES - 1)
}
