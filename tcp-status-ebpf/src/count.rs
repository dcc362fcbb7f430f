//! Additions to the counters: which cell, and how.

use core::{arch::asm, hint::black_box};

use aya_ebpf::{EbpfContext, cty::c_void};
use aya_log_ebpf::warn;
use tcp_status_common::counters::{Bank, STATE_SLOTS, Writer, WriterStats};

use crate::{
    host,
    maps::{COUNTERS, WRITERS},
};

/// The kernel's number for a closed socket: where every socket comes from and goes to.
pub(crate) const CLOSE: u32 = 7;
/// The kernel's number of a listener.
pub(crate) const LISTEN: u32 = 10;

/// A family's index in the counters and a state number: in range by construction.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    family: usize,
    state: usize,
}

impl Place {
    #[inline(always)]
    pub(crate) fn new(family: usize, state: u32) -> Option<Self> {
        // Opaque, so that what is compared is what is used: the verifier follows one register.
        let state = black_box(state as usize);
        (family < 2 && state < STATE_SLOTS).then_some(Self { family, state })
    }

    /// As a value of the map of seen sockets.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a place is in range by construction"
    )]
    #[inline(always)]
    pub(crate) fn pack(self) -> u32 {
        (self.family << 16 | self.state) as u32
    }

    #[inline(always)]
    pub(crate) fn unpack(packed: u32) -> Option<Self> {
        Self::new((packed >> 16) as usize, packed & 0xffff)
    }

    #[inline(always)]
    pub(crate) fn is_closed(self) -> bool {
        self.state == CLOSE as usize
    }
}

/// One more state change from `from` to `to` in the live `bank`.
#[inline(always)]
pub(crate) fn flow(writer: Writer, bank: u32, family: usize, from: u32, to: u32) -> Option<()> {
    let (from, to) = (Place::new(family, from)?, Place::new(family, to)?);
    let bank: *mut Bank = COUNTERS.get_ptr_mut(writer.bank(bank))?;
    // SAFETY: the map gave the pointer, a place is in range.
    add(
        unsafe { &raw mut (*bank).flows[from.family][from.state][to.state] },
        1,
    );
    Some(())
}

/// One socket more (`by` 1) or less (-1) in the `bank` that is being seeded.
#[inline(always)]
pub(crate) fn seed(writer: Writer, bank: u32, place: Place, by: i64) -> Option<()> {
    let bank: *mut Bank = COUNTERS.get_ptr_mut(writer.bank(bank))?;
    // SAFETY: as above. Adding the two's complement subtracts.
    let cell = unsafe { &raw mut (*bank).seeded[place.family][place.state] }.cast::<u64>();
    add(cell, by.cast_unsigned());
    Some(())
}

/// Adds to a counter that only this copy writes, on this CPU.
#[inline(always)]
pub(crate) fn add(cell: *mut u64, by: u64) {
    if host::reentry() {
        // The target has no atomics in Rust, but the kernel has had this instruction always.
        // SAFETY: callers pass an aligned cell of a map.
        unsafe { asm!("lock *(u64 *)({cell} + 0) += {by}", cell = in(reg) cell, by = in(reg) by) }
    } else {
        // SAFETY: as above.
        unsafe { *cell = (*cell).wrapping_add(by) };
    }
}

/// A figure that a writer keeps of itself.
macro_rules! tell {
    ($writer:expr, $member:ident) => {
        if let Some(stats) = WRITERS.get_ptr_mut($writer as u32) {
            // SAFETY: the map gave the pointer.
            $crate::count::add(unsafe { &raw mut (*stats).$member }, 1);
        }
    };
}
pub(crate) use tell;

/// A map update failed: the seeding in progress cannot be trusted.
#[inline(never)]
pub(crate) fn failed(writer: Writer) {
    tell!(writer, failures);
    if let Some(times) = rarely(writer, |stats| stats.failures) {
        warn!(
            &NoContext,
            "a map update failed, {} times on this cpu", times
        );
    }
}

/// The kernel reported a state that does not exist.
#[inline(never)]
pub(crate) fn impossible(writer: Writer, from: u32, to: u32) {
    tell!(writer, impossible);
    if let Some(times) = rarely(writer, |stats| stats.impossible) {
        warn!(
            &NoContext,
            "impossible state change from {} to {}, {} times on this cpu", from, to, times
        );
    }
}

/// The figure, at the first, second, fourth, eighth, ... time: an anomaly must be seen, but must
/// not cost.
#[inline(always)]
fn rarely(writer: Writer, figure: impl Fn(&WriterStats) -> u64) -> Option<u64> {
    let stats = WRITERS.get(writer as u32)?;
    let times = figure(stats);
    (times & times.wrapping_sub(1) == 0).then_some(times)
}

/// The log macros want the context of a program, and do nothing with it.
struct NoContext;

impl EbpfContext for NoContext {
    fn as_ptr(&self) -> *mut c_void {
        core::ptr::null_mut()
    }
}
