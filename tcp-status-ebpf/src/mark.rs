//! One event, seen by two copies of a handler.
//!
//! The kernel skips a program that is already active on its CPU, so two copies are attached, one
//! behind the other. Each marks what it has seen, and passes over what the other has marked.
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
    if host::task_marks() {
        return bears_no_mark(ctx, writer, sock, from, to);
    }
    let mark = mark(Writer::First, sock, from, to);
    let level = level(ctx, cpu, writer);
    // SAFETY: the map gave the pointer; nothing else uses the level of this CPU meanwhile.
    let slot = unsafe { &mut (*level).mark };
    if writer == Writer::First {
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
    !host::two_copies() || bears_no_mark(ctx, writer, sock, from, to)
}

#[inline(always)]
fn bears_no_mark(ctx: *const c_void, writer: Writer, sock: *const u8, from: u32, to: u32) -> bool {
    let task = running();
    let slot = if task.stack_holds(ctx.cast()) {
        TASK_MARKS.get_ptr_mut(task.pid() % TASK_SLOTS)
    } else {
        // SAFETY: the map gave the pointer.
        maps::cpu().map(|cpu| unsafe { &raw mut (*cpu).levels[1].mark })
    };
    let Some(slot) = slot else { return false };
    let other = match writer {
        Writer::First => Writer::Second,
        _ => Writer::First,
    };
    // SAFETY: as above.
    let slot = unsafe { &mut *slot };
    // Whichever copy runs first: tracepoints run the one that was attached first, trampolines
    // the one that was attached last.
    if *slot == mark(other, sock, from, to) {
        slot.sock = 0;
        return false;
    }
    *slot = mark(writer, sock, from, to);
    true
}

#[inline(always)]
fn running() -> Task {
    // SAFETY: no arguments; the kernel gives the running task.
    Task(unsafe { bpf_get_current_task_btf() } as *const u8)
}

#[inline(always)]
fn mark(writer: Writer, sock: *const u8, from: u32, to: u32) -> Mark {
    Mark {
        sock: sock as u64,
        change: u64::from(from) << 32 | u64::from(to) << 8 | writer as u64,
    }
}
