//! The listener walk: adds up the request sockets that wait at listeners, writes a record of each
//! listener to the reader, and ends behind the last, so that its cost does not grow with
//! connections. As a part of a seeding it enters ports; as the second walk of one, it counts the
//! listeners that the first has not met.

use core::ptr::{from_ref, read_volatile};

use aya_ebpf::helpers::generated::bpf_seq_write;
use tcp_status_common::{
    control::Mode,
    counters::{ListenerRecord, ListenerWalk},
    per_cpu::Writer,
    state::Family,
};

use crate::{
    cells::{CounterCell, LISTEN},
    kernel_layout::{self, Sock, TcpSock},
    maps::{self, LISTENER_WALK},
    netns_counters::NetnsCounters,
    ports,
    slots::Slot,
    walk::{self, TcpIterContext},
};

/// Length of a record.
#[expect(clippy::cast_possible_truncation, reason = "48 bytes")]
const RECORD_SIZE: u32 = size_of::<ListenerRecord>() as u32;

const CONTINUE: i32 = 0;
/// Ends the walk: the reader gets what was found and then EAGAIN.
const STOP: i32 = 1;

#[inline(always)]
pub(crate) fn visit(ctx: &TcpIterContext) -> i32 {
    if ctx.sk_common.is_null() {
        return CONTINUE;
    }
    let sock = Sock(ctx.sk_common);
    let Some(found) = LISTENER_WALK.get_ptr_mut(0) else {
        return STOP;
    };
    // SAFETY: the map gave the pointer; one listener walk at a time.
    let found = unsafe { &mut *found };
    // The kernel lists all listeners before anything else, and shows the last entry again to a
    // reader who goes on. In a namespace with no connection, what follows the last is the whole
    // table of the host.
    if u32::from(sock.state()) != LISTEN || found.listeners >= found.expected {
        return STOP;
    }
    let (Some(family), Some(listener)) = (
        Family::from_address_family(sock.address_family()),
        sock.as_tcp(),
    ) else {
        return CONTINUE;
    };
    let is_last = found.listeners + 1 >= found.expected;
    if found.wanted == 1 && !write_record(ctx, sock, family, listener, is_last, found) {
        // No room left in the reader's buffer: the kernel shows the listener again.
        return CONTINUE;
    }
    if found.seeding == 1 {
        register_port(sock);
        if maps::mode().is_some_and(Mode::is_second_pass) && seed_listener(sock, family) {
            found.unseen += 1;
        }
    }
    found.requests[family.index()] += u64::from(listener.request_count());
    found.listeners += 1;
    if is_last { STOP } else { CONTINUE }
}

/// Tells the reader. False if the reader has no room.
#[inline(always)]
fn write_record(
    ctx: &TcpIterContext,
    sock: Sock,
    family: Family,
    listener: TcpSock,
    is_last: bool,
    found: &mut ListenerWalk,
) -> bool {
    let mut address = [0; 16];
    match family {
        Family::V4 => address[..4].copy_from_slice(&sock.address_v4().to_ne_bytes()),
        Family::V6 => address = sock.address_v6().unwrap_or_default(),
    }
    let requests = listener.request_count();
    let record = ListenerRecord {
        address,
        address_family: family.address_family(),
        reuseport: listener.is_reuseport().into(),
        port: sock.port(),
        uid: ctx.uid,
        accept_queue: listener.accept_queue(),
        accept_queue_limit: listener.accept_queue_limit(),
        requests,
        retransmitted: listener.retransmitted(requests),
        drops: listener.drops(),
        padding: 0,
        cgroup: if kernel_layout::counts_cgroups() {
            sock.probe_cgroup().unwrap_or(0)
        } else {
            0
        },
    };
    if is_last {
        found.last = record;
        return true;
    }
    // SAFETY: the kernel gives a valid `struct bpf_iter_meta`, whose first member is the file.
    let file = unsafe { read_volatile(ctx.meta.cast::<*mut _>()) };
    // SAFETY: the record is on the stack.
    unsafe { bpf_seq_write(file, from_ref(&record).cast(), RECORD_SIZE) == 0 }
}

/// In the bank that is being seeded, unless it is there. Whether it was not.
#[inline(always)]
fn seed_listener(sock: Sock, family: Family) -> bool {
    CounterCell::new(family.index(), LISTEN).is_some_and(|cell| walk::seed_socket(sock, cell))
}

/// In the bank for which ports are being entered. One that finds no room there is scanned for.
#[inline(always)]
fn register_port(sock: Sock) {
    let (Some(mode), Some(cpu)) = (maps::mode(), maps::per_cpu()) else {
        return;
    };
    let Some(counters) = NetnsCounters::of(sock, cpu, Writer::Walk) else {
        return;
    };
    let (mode, port) = (counters.mode(mode), sock.port());
    if let Some(bank) = mode.ports() {
        let live = mode.live();
        let live = live.map_or(Slot::NONE, |live| ports::slot(counters, live, port));
        ports::register(counters, bank, port, live);
    }
}
