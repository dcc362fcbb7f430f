//! One event, seen by two copies of a handler.
//!
//! The kernel skips a program that is already active on its CPU, so two copies are attached, one
//! behind the other. The one that runs first marks what it has seen, and the other passes over that.
//! Were both to look for the other's mark, the one that an event left which only the second copy saw
//! would hide the same change when it comes again.
//!
//! The mark belongs to the level of execution: an event that interrupts another between its two
//! copies must not overwrite the other's mark.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use tcp_status_common::{
    control::{ContextSlot, EventToken, TASK_SLOTS},
    per_cpu::{PerCpu, Writer},
};

use crate::{
    kernel_layout::{self, Task},
    maps::{self, TASK_TOKENS},
};

/// Whether this copy is the one that handles the event of a tracepoint, which runs its programs in
/// the order in which they were attached.
#[inline(always)]
pub(crate) fn claim_tracepoint_event(
    ctx: *const c_void,
    cpu: *mut PerCpu,
    writer: Writer,
    sock: *const u8,
    from: u32,
    to: u32,
) -> bool {
    if !kernel_layout::two_copies() {
        return true;
    }
    let token = token(sock, from, to);
    // A tracepoint runs the program that was attached first before the other.
    let is_first = writer == Writer::First;
    if kernel_layout::per_task_tokens() {
        return claim_in_task(ctx, is_first, token);
    }
    let context = context_slot(ctx, cpu, writer);
    // SAFETY: the map gave the pointer; nothing else uses the level of this CPU meanwhile.
    claim_slot(unsafe { &mut (*context).token }, is_first, token)
}

/// Whether a copy of the handler claims an event; `is_first` if it runs before the other.
#[inline(always)]
fn claim_slot(slot: &mut EventToken, is_first: bool, token: EventToken) -> bool {
    if is_first {
        *slot = token;
        return true;
    }
    if *slot == token {
        slot.sock = 0;
        return false;
    }
    true
}

/// The level of execution: that which runs on the stack where the event is. Only where a stack is
/// new to the CPU, the running task is asked, which costs more than everything else here.
#[inline(always)]
fn context_slot(ctx: *const c_void, cpu: *mut PerCpu, writer: Writer) -> *mut ContextSlot {
    let stack = launder_pointer(ctx, cpu, writer) & !(kernel_layout::thread_size() - 1);
    // SAFETY: the map gave the pointer.
    unsafe {
        let [task, interrupt] = [&raw mut (*cpu).contexts[0], &raw mut (*cpu).contexts[1]];
        if (*interrupt).stack == stack {
            return interrupt;
        }
        if (*task).stack != stack {
            if !is_on_task(ctx) {
                (*interrupt).stack = stack;
                return interrupt;
            }
            (*task).stack = stack;
        }
        task
    }
}

/// The address, which the verifier lets nobody calculate with: as a map gives it back. Each copy
/// has a place of its own, for one may interrupt the other.
#[inline(always)]
fn launder_pointer(ctx: *const c_void, cpu: *mut PerCpu, writer: Writer) -> u64 {
    // SAFETY: the map gave the pointer.
    unsafe {
        let slot = &raw mut (*cpu).stack_addresses[usize::from(writer != Writer::First)];
        slot.write_volatile(ctx as u64);
        slot.read_volatile()
    }
}

#[inline(never)]
fn is_on_task(ctx: *const c_void) -> bool {
    current_task().stack_contains(ctx.cast())
}

/// The same for a function, whose programs run on a task that may be preempted between them, or
/// moved to another CPU.
#[inline(always)]
pub(crate) fn claim_function_event(
    ctx: *const c_void,
    writer: Writer,
    sock: *const u8,
    from: u32,
    to: u32,
) -> bool {
    // A trampoline runs the program that was attached last before the other.
    let is_first = writer != Writer::First;
    !kernel_layout::two_copies() || claim_in_task(ctx, is_first, token(sock, from, to))
}

/// In the slot of the running task, or of the CPU's interrupts.
#[inline(always)]
fn claim_in_task(ctx: *const c_void, is_first: bool, token: EventToken) -> bool {
    let task = current_task();
    let slot = if task.stack_contains(ctx.cast()) {
        TASK_TOKENS.get_ptr_mut(task.pid() % TASK_SLOTS)
    } else {
        // SAFETY: the map gave the pointer.
        maps::per_cpu().map(|cpu| unsafe { &raw mut (*cpu).contexts[1].token })
    };
    // SAFETY: as above.
    slot.is_some_and(|slot| claim_slot(unsafe { &mut *slot }, is_first, token))
}

#[inline(always)]
fn current_task() -> Task {
    // SAFETY: no arguments; the kernel gives the running task.
    Task(unsafe { bpf_get_current_task_btf() } as *const u8)
}

#[inline(always)]
fn token(sock: *const u8, from: u32, to: u32) -> EventToken {
    EventToken {
        sock: sock as u64,
        change: u64::from(from) << 32 | u64::from(to),
    }
}
