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
    control::{Level, Mark, TASK_SLOTS},
    counters::{Cpu, Writer},
};

use crate::{
    host::{self, Task},
    maps::{self, TASK_MARKS},
};

/// Whether this copy is the one that handles the event of a tracepoint, which runs its programs in
/// the order in which they were attached.
#[inline(always)]
pub(crate) fn first_at_tracepoint(
    ctx: *const c_void,
    cpu: *mut Cpu,
    writer: Writer,
    sock: *const u8,
    from: u32,
    to: u32,
) -> bool {
    if !host::two_copies() {
        return true;
    }
    let mark = mark(sock, from, to);
    // A tracepoint runs the program that was attached first before the other.
    let is_first = writer == Writer::First;
    if host::task_marks() {
        return claim_in_task_slot(ctx, is_first, mark);
    }
    let level = level(ctx, cpu, writer);
    // SAFETY: the map gave the pointer; nothing else uses the level of this CPU meanwhile.
    claim(unsafe { &mut (*level).mark }, is_first, mark)
}

/// Whether a copy of the handler claims an event; `is_first` if it runs before the other.
#[inline(always)]
fn claim(slot: &mut Mark, is_first: bool, mark: Mark) -> bool {
    if is_first {
        *slot = mark;
        return true;
    }
    if *slot == mark {
        slot.sock = 0;
        return false;
    }
    true
}

/// The level of execution: that which runs on the stack where the event is. Only where a stack is
/// new to the CPU, the running task is asked, which costs more than everything else here.
#[inline(always)]
fn level(ctx: *const c_void, cpu: *mut Cpu, writer: Writer) -> *mut Level {
    let stack = number(ctx, cpu, writer) & !(host::thread_size() - 1);
    // SAFETY: the map gave the pointer.
    unsafe {
        let [task, interrupt] = [&raw mut (*cpu).levels[0], &raw mut (*cpu).levels[1]];
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
fn number(ctx: *const c_void, cpu: *mut Cpu, writer: Writer) -> u64 {
    // SAFETY: the map gave the pointer.
    unsafe {
        let place = &raw mut (*cpu).addresses[usize::from(writer != Writer::First)];
        place.write_volatile(ctx as u64);
        place.read_volatile()
    }
}

#[inline(never)]
fn is_on_task(ctx: *const c_void) -> bool {
    running().stack_holds(ctx.cast())
}

/// The same for a function, whose programs run on a task that may be preempted between them, or
/// moved to another CPU.
#[inline(always)]
pub(crate) fn first_at_function(
    ctx: *const c_void,
    writer: Writer,
    sock: *const u8,
    from: u32,
    to: u32,
) -> bool {
    // A trampoline runs the program that was attached last before the other.
    let is_first = writer != Writer::First;
    !host::two_copies() || claim_in_task_slot(ctx, is_first, mark(sock, from, to))
}

/// In the slot of the running task, or of the CPU's interrupts.
#[inline(always)]
fn claim_in_task_slot(ctx: *const c_void, is_first: bool, mark: Mark) -> bool {
    let task = running();
    let slot = if task.stack_holds(ctx.cast()) {
        TASK_MARKS.get_ptr_mut(task.pid() % TASK_SLOTS)
    } else {
        // SAFETY: the map gave the pointer.
        maps::cpu().map(|cpu| unsafe { &raw mut (*cpu).levels[1].mark })
    };
    // SAFETY: as above.
    slot.is_some_and(|slot| claim(unsafe { &mut *slot }, is_first, mark))
}

#[inline(always)]
fn running() -> Task {
    // SAFETY: no arguments; the kernel gives the running task.
    Task(unsafe { bpf_get_current_task_btf() } as *const u8)
}

#[inline(always)]
fn mark(sock: *const u8, from: u32, to: u32) -> Mark {
    Mark {
        sock: sock as u64,
        change: u64::from(from) << 32 | u64::from(to),
    }
}
