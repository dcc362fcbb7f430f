//! Time that connections wait for `accept()`, by local port of the tracker's own namespace.

use core::{
    hint::black_box,
    ptr::{addr_of, read_volatile},
};

use aya_ebpf::helpers::generated::bpf_jiffies64;
use tcp_status_common::{
    accept::{AcceptLayout, AcceptTimes, BOUNDS, BUCKETS, OTHER_PORT},
    per_cpu::Writer,
};

use crate::{
    cells,
    kernel_layout::Sock,
    maps::{self, ACCEPT_TIMES},
    netns_counters::{BPF_NOEXIST, NetnsCounters},
    ports,
};

/// Written by the loader before load, as the layout of everything else.
#[unsafe(no_mangle)]
static ACCEPT_LAYOUT: AcceptLayout = AcceptLayout::NONE;

macro_rules! layout {
    ($($member:tt)+) => {
        // SAFETY: a static of this program; indices are in range.
        unsafe { read_volatile(addr_of!(ACCEPT_LAYOUT.$($member)+)) }
    };
}

/// After `inet_csk_accept(listener, ...)`, which returned `child`.
#[inline(always)]
pub(crate) fn returned(listener: Sock, child: Sock) {
    // An error, such as an empty queue of a listener that does not block.
    if child.0.is_null() {
        return;
    }
    let (Some(mode), Some(cpu)) = (maps::mode(), maps::per_cpu()) else {
        return;
    };
    let Some(counters) = NetnsCounters::of(listener, cpu, Writer::Second) else {
        return;
    };
    let (Some(bank), true) = (mode.live(), counters.is_own()) else {
        return;
    };
    // None of DCCP, which had the same function before 6.16.
    let Some(child) = child.as_tcp() else {
        return;
    };
    // A Fast Open child is queued before its handshake ends, which sets `lsndtime` anew.
    let flags = child.0.read::<u8>(layout!(syn_data_acked));
    if u32::from(flags) & layout!(syn_data_acked_mask) != 0 {
        return;
    }
    // A child that was reset in the queue has given its port back: the listener's is the same.
    let port = listener.port();
    let has_own_row = ports::slot(counters, bank, port).is_individual();
    let key = if has_own_row { port.into() } else { OTHER_PORT };
    count(key, waited(child.0.read(layout!(lsndtime))));
}

/// Jiffies since then.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel keeps the lower half of its jiffies"
)]
#[inline(always)]
fn waited(queued: u32) -> u32 {
    // SAFETY: no arguments.
    let now = unsafe { bpf_jiffies64() } as u32;
    now.wrapping_sub(queued)
}

#[inline(always)]
fn count(key: u32, jiffies: u32) -> Option<()> {
    let times = entry(key)?;
    let mut bucket = 0;
    // Most connections wait for less than the first bound.
    while bucket < BOUNDS.len() && jiffies > layout!(bounds[bucket]) {
        bucket += 1;
    }
    // Opaque, so that the comparison stays: the verifier wants to see it.
    let bucket = black_box(bucket);
    if bucket < BUCKETS {
        // SAFETY: the map gave the pointer; the index is in range.
        unsafe {
            cells::add_atomic((&raw mut (*times).buckets).cast::<u64>().add(bucket), 1);
            cells::add_atomic(&raw mut (*times).jiffies, jiffies.into());
        }
    }
    Some(())
}

/// What is counted of a port; without room for one more, that of all others.
#[inline(always)]
fn entry(key: u32) -> Option<*mut AcceptTimes> {
    if let Some(times) = ACCEPT_TIMES.get_ptr_mut(key) {
        return Some(times);
    }
    // Another CPU may be first.
    let _: Result<(), i32> = ACCEPT_TIMES.insert(key, AcceptTimes::NONE, BPF_NOEXIST);
    ACCEPT_TIMES
        .get_ptr_mut(key)
        .or_else(|| ACCEPT_TIMES.get_ptr_mut(OTHER_PORT))
}
