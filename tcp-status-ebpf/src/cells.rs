//! Additions to cells of maps, places in the counters, and what each writer counts of its own work.

use core::{arch::asm, hint::black_box, ptr::read_volatile};

use aya_ebpf::{EbpfContext, cty::c_void};
use aya_log_ebpf::warn;
use tcp_status_common::{
    counters::{Failure, STATE_SLOTS},
    per_cpu::{PerCpu, Writer, WriterStats},
};

use crate::{kernel_layout, maps};

/// The kernel's number for a closed socket: where every socket comes from and goes to.
pub(crate) const CLOSE: u32 = 7;
/// The kernel's number of a listener.
pub(crate) const LISTEN: u32 = 10;
/// The kernel's number of a connection that this side begins.
pub(crate) const SYN_SENT: u32 = 2;
/// The kernel's number of a half-open connection that is a full socket.
pub(crate) const SYN_RECV: u32 = 3;
/// The kernel's number of a connection whose end this side has sent.
pub(crate) const FIN_WAIT1: u32 = 4;
/// The kernel's number of a connection whose end the peer has acknowledged.
pub(crate) const FIN_WAIT2: u32 = 5;

/// A family's index in the counters and a state number: in range by construction.
#[derive(Clone, Copy)]
pub(crate) struct CounterCell {
    family: usize,
    state: usize,
}

impl CounterCell {
    #[inline(always)]
    pub(crate) fn new(family: usize, state: u32) -> Option<Self> {
        // Opaque, so that what is compared is what is used: the verifier follows one register.
        let state = black_box(state as usize);
        (family < 2 && state < STATE_SLOTS).then_some(Self { family, state })
    }

    /// The same, with its state compared again: the verifier of 5.10 does not know the bounds of
    /// what lay on the stack.
    #[inline(always)]
    pub(crate) fn recheck_bounds(self) -> Option<Self> {
        // Opaque as above, but in a register: what is compared must not go back to the stack.
        let (state, family) = (opaque(self.state), opaque(self.family));
        (family < 2 && state < STATE_SLOTS).then_some(Self { family, state })
    }

    /// As the lower 16 bits of a value of the map of seen sockets.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a place is in range by construction"
    )]
    #[inline(always)]
    pub(crate) fn pack(self) -> u32 {
        (self.family << 8 | self.state) as u32
    }

    /// The kernel's number of the state.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a place is in range by construction"
    )]
    #[inline(always)]
    pub(crate) fn number(self) -> u32 {
        self.state as u32
    }

    #[inline(always)]
    pub(crate) fn unpack(packed: u32) -> Option<Self> {
        Self::new((packed >> 8 & 0xff) as usize, packed & 0xff)
    }

    #[inline(always)]
    pub(crate) fn family(self) -> usize {
        self.family
    }

    #[inline(always)]
    pub(crate) fn state(self) -> usize {
        self.state
    }

    #[inline(always)]
    pub(crate) fn is_closed(self) -> bool {
        self.state == CLOSE as usize
    }

    #[inline(always)]
    pub(crate) fn is_listening(self) -> bool {
        self.state == LISTEN as usize
    }

    #[inline(always)]
    pub(crate) fn is_half_open(self) -> bool {
        self.state == SYN_RECV as usize
    }
}

/// The same number, of which the compiler knows nothing, in a register. By an instruction, because the
/// kernel refuses two source lines at the same one.
#[inline(always)]
pub(crate) fn opaque(mut number: usize) -> usize {
    // SAFETY: it changes nothing.
    unsafe { asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack)) };
    number
}

/// Adds to a counter that only this writer writes, on this CPU.
#[inline(always)]
pub(crate) fn add(writer: Writer, cell: *mut u64, by: u64) {
    // Those that are attached to functions only once rely on bottom halves being off.
    if kernel_layout::may_reenter()
        || (writer == Writer::Timewait && kernel_layout::bottom_halves_preemptible())
    {
        add_atomic(cell, by);
    } else {
        // SAFETY: callers pass an aligned cell of a map.
        unsafe { *cell = (*cell).wrapping_add(by) };
    }
}

/// The same, to one of 32 bits, which may be `shared` by CPUs.
#[inline(always)]
pub(crate) fn add_u32(cell: *mut u32, by: u32, shared: bool) {
    if shared || kernel_layout::may_reenter() {
        add_u32_atomic(cell, by);
    } else {
        // SAFETY: as above.
        unsafe { *cell = (*cell).wrapping_add(by) };
    }
}

/// Adds to a counter that others write at the same time.
#[inline(always)]
pub(crate) fn add_atomic(cell: *mut u64, by: u64) {
    // The target has no atomics in Rust, but the kernel has had this instruction always.
    // SAFETY: callers pass an aligned cell of a map.
    unsafe { asm!("lock *(u64 *)({cell} + 0) += {by}", cell = in(reg) cell, by = in(reg) by) }
}

/// The same, to one of 32 bits.
#[inline(always)]
pub(crate) fn add_u32_atomic(cell: *mut u32, by: u32) {
    // SAFETY: as above.
    unsafe { asm!("lock *(u32 *)({cell} + 0) += {by}", cell = in(reg) cell, by = in(reg) by) }
}

/// What a writer says of itself.
#[inline(always)]
pub(crate) fn writer_stats(cpu: *mut PerCpu, writer: Writer) -> *mut WriterStats {
    // SAFETY: the map gave the pointer; all writers are in range.
    unsafe { &raw mut (*cpu).writers[writer as usize] }
}

/// A figure that a writer keeps of itself.
macro_rules! bump_stat {
    ($cpu:expr, $writer:expr, $member:ident) => {{
        // SAFETY: the map gave the pointer.
        let figure = unsafe { &raw mut (*$crate::cells::writer_stats($cpu, $writer)).$member };
        $crate::cells::add($writer, figure, 1);
    }};
}
pub(crate) use bump_stat;

/// `-E2BIG`: the map is full.
pub(crate) const E2BIG: i32 = -7;
/// `-EEXIST`: there is an entry already.
pub(crate) const EEXIST: i32 = -17;
/// `-EINVAL`: of what fails in no helper.
pub(crate) const EINVAL: i32 = -22;

/// Something failed: the seeding in progress cannot be trusted. `errno` is as helpers return it.
#[inline(always)]
pub(crate) fn record_failure(failure: Failure, errno: i32) {
    report_failure(failure as u32, errno);
}

/// A function of its own: the verifier checks a global one once, and a local one at every path that
/// leads to it. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn report_failure(failure: u32, errno: i32) -> i32 {
    if let Some(times) = count_failure(failure, errno) {
        warn!(
            &NoContext,
            "failure of kind {} with error {}, {} times", failure, errno, times
        );
    }
    0
}

/// The kernel reported a state that does not exist. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn record_invalid_state(from: u32, to: u32) -> i32 {
    if let Some(times) = count_failure(Failure::Invalid as u32, EINVAL) {
        warn!(
            &NoContext,
            "impossible state change from {} to {}, {} times", from, to, times
        );
    }
    0
}

/// Counts a failure. How many there were, at the first, second, fourth, eighth, ... one: an anomaly
/// must be seen, but must not cost.
#[inline(always)]
fn count_failure(failure: u32, errno: i32) -> Option<u64> {
    let totals = maps::failures();
    // SAFETY: a static of these programs.
    let times = unsafe {
        let failures = if failure == Failure::Seen as u32 {
            &raw mut (*totals).seen
        } else if failure == Failure::Namespaces as u32 {
            &raw mut (*totals).namespaces
        } else if failure == Failure::Cgroups as u32 {
            &raw mut (*totals).cgroups
        } else {
            &raw mut (*totals).invalid
        };
        (*failures).errno = u64::from(errno.unsigned_abs());
        if errno == E2BIG {
            add_atomic(&raw mut (*failures).full, 1);
        }
        // After what it belongs to, which is read after it.
        add_atomic(&raw mut (*failures).count, 1);
        read_volatile(&raw const (*failures).count)
    };
    (times & times.wrapping_sub(1) == 0).then_some(times)
}

/// The log macros want the context of a program, and do nothing with it.
struct NoContext;

impl EbpfContext for NoContext {
    fn as_ptr(&self) -> *mut c_void {
        core::ptr::null_mut()
    }
}
