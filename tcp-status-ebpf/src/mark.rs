//! One event, seen by two copies of a handler.
//!
//! The kernel skips a program that is already active on its CPU, so two copies are attached, one
//! behind the other. Each marks what it has seen, and passes over what the other has marked.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use tcp_status_common::{
    control::{Counted, TASK_SLOTS},
    counters::Writer,
};

use crate::{
    host::{self, Task},
    maps::{IRQ_COUNTED, TASK_COUNTED},
};

/// Whether this copy is the one that handles the event.
#[inline(always)]
pub(crate) fn first_to_see(
    ctx: *const c_void,
    writer: Writer,
    sock: *const u8,
    from: u32,
    to: u32,
) -> bool {
    !host::two_copies() || bears_no_mark(ctx, writer, sock, from, to)
}

#[inline(always)]
fn bears_no_mark(ctx: *const c_void, writer: Writer, sock: *const u8, from: u32, to: u32) -> bool {
    // SAFETY: no arguments; the kernel gives the running task.
    let task = Task(unsafe { bpf_get_current_task_btf() } as *const u8);
    // The mark belongs to the level of execution: an event that interrupts another between
    // its two copies must not overwrite the other's mark.
    let slot = if task.stack_holds(ctx.cast()) {
        TASK_COUNTED.get_ptr_mut(task.pid() % TASK_SLOTS)
    } else {
        IRQ_COUNTED.get_ptr_mut(0)
    };
    let Some(slot) = slot else { return false };
    let mark = |writer: Writer| Counted {
        sock: sock as u64,
        change: u64::from(from) << 32 | u64::from(to) << 8 | writer as u64,
    };
    let other = match writer {
        Writer::First => Writer::Second,
        _ => Writer::First,
    };
    // SAFETY: the map gave the pointer.
    let slot = unsafe { &mut *slot };
    // Whichever copy runs first: tracepoints run the one that was attached first, trampolines
    // the one that was attached last.
    if *slot == mark(other) {
        slot.sock = 0;
        return false;
    }
    *slot = mark(writer);
    true
}
