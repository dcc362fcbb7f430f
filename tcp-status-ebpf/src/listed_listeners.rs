//! The listing of listeners: one pass over the kernel's table of them writes a record of each one,
//! of all network namespaces, to the reader. Enters none.
//!
//! No lock is taken: user space compares how many there are with what is counted, and repeats a pass
//! that was disturbed.

use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_seq_write;
use tcp_status_common::{
    state::{Family, State},
    table::{Cursor, ListedListener, phase},
};

use crate::{
    cells::EINVAL,
    kernel_layout::{self, Sock, UntypedNet, UntypedSock},
    maps::{CURSOR, LISTED_LISTENER},
    table::{self, STEPS},
};

/// What [`step`] gives when it has found a listener.
const FOUND: i32 = 2;

/// Length of a record.
#[expect(clippy::cast_possible_truncation, reason = "64 bytes")]
const RECORD_SIZE: u32 = size_of::<ListedListener>() as u32;

/// `struct bpf_iter__bpf_map`.
#[repr(C)]
pub(crate) struct MapIterContext {
    /// `struct bpf_iter_meta *`.
    meta: *const u8,
}

/// Some steps of a pass. Not 0 when it is complete; then nothing was written.
#[inline(always)]
pub(crate) fn run(ctx: &MapIterContext) -> i32 {
    let (Some(cursor), Some(began), Some(record)) = (
        CURSOR.get_ptr_mut(0),
        CURSOR.get_ptr_mut(1),
        LISTED_LISTENER.get_ptr_mut(0),
    ) else {
        return table::STOP;
    };
    // SAFETY: the map gave the pointers; one pass at a time, nothing else writes them meanwhile.
    unsafe {
        if (*cursor).phase >= phase::DONE {
            return table::STOP;
        }
        *began = *cursor;
    }
    // SAFETY: the kernel gives a valid `struct bpf_iter_meta`, whose first member is the file.
    let file = unsafe { read_volatile(ctx.meta.cast::<*mut _>()) };
    for _ in 0..STEPS {
        match listener_step() {
            table::CONTINUE => {}
            // SAFETY: the map gave the pointer.
            FOUND => unsafe {
                if bpf_seq_write(file, record.cast(), RECORD_SIZE) != 0 {
                    // The kernel throws away what this run wrote, and runs it again.
                    *cursor = *began;
                    return table::CONTINUE;
                }
            },
            _ => return table::CONTINUE,
        }
    }
    table::CONTINUE
}

/// One step. A function that the verifier checks once, however often it is called.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn listener_step() -> i32 {
    let Some(cursor) = CURSOR.get_ptr_mut(0) else {
        return table::STOP;
    };
    // SAFETY: as above.
    let cursor = unsafe { &mut *cursor };
    let stepped = if cursor.node != 0 {
        visit(cursor)
    } else if cursor.phase == phase::START {
        enter_table(cursor)
    } else if cursor.bucket < cursor.table.buckets {
        table::find(cursor).map(|()| table::CONTINUE)
    } else {
        cursor.phase = phase::DONE;
        return table::STOP;
    };
    stepped.unwrap_or_else(|_| {
        cursor.failed += 1;
        // A pass without a table would never end.
        if cursor.phase == phase::START {
            cursor.phase = phase::DONE;
        }
        table::CONTINUE
    })
}

#[inline(always)]
fn enter_table(cursor: &mut Cursor) -> Result<i32, i32> {
    cursor.table = table::hashinfo(cursor)?.listeners()?;
    cursor.bucket = 0;
    cursor.phase = phase::LISTENERS;
    Ok(table::CONTINUE)
}

/// Has the listener at the cursor in the record, and goes to the next one of its bucket.
#[inline(always)]
fn visit(cursor: &mut Cursor) -> Result<i32, i32> {
    let (sock, head) = table::next_socket(cursor)?;
    // One that was closed meanwhile may be in no list any more, or in another.
    if head.get::<u8>(kernel_layout::skc_state()) != State::Listen.number() {
        return Err(EINVAL);
    }
    let address_family: u16 = head.get(kernel_layout::skc_family());
    let family = Family::from_address_family(address_family).ok_or(EINVAL)?;
    let found = LISTED_LISTENER.get_ptr_mut(0).ok_or(EINVAL)?;
    // SAFETY: the map gave the pointer.
    let found = unsafe { &mut *found };
    (found.netns, found.inode) = UntypedNet(head.get(kernel_layout::skc_net())).identity()?;
    found.record.address_family = family.address_family();
    found.record.port = head.get(kernel_layout::skc_num());
    UntypedSock(sock).describe(family, &mut found.record)?;
    found.record.cgroup = if kernel_layout::counts_cgroups() {
        Sock(sock as *const u8).probe_cgroup()?
    } else {
        0
    };
    Ok(FOUND)
}
