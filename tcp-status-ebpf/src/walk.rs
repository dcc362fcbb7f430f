//! The walk over all sockets: visits every entry of the namespace once, and counts those that no
//! event has shown, if it is part of a seeding.

use core::ptr::{from_ref, read_volatile};

use aya_ebpf::helpers::generated::bpf_seq_write;
use tcp_status_common::{
    control::Mode,
    counters::{AGES, Failure, IDLE_CLOSE_WAIT, IDLE_FIN_WAIT2, WalkTotals},
    per_cpu::Writer,
    state::{Family, MINI_FIN_WAIT2, NEW_SYN_RECV, State},
};

use crate::{
    cells::{self, CounterCell},
    closed_listeners,
    kernel_layout::{self, Sock},
    maps::{self, WALK_TOTALS},
    netns_counters::NetnsCounters,
    seed::{self, SeededBank},
    slots::Slot,
};

const LISTEN: u8 = State::Listen.number();
const SYN_SENT: u8 = State::SynSent.number();
const FIN_WAIT2: u8 = State::FinWait2.number();
const TIME_WAIT: u8 = State::TimeWait.number();
const CLOSE_WAIT: u8 = State::CloseWait.number();

/// `struct bpf_iter__tcp`.
#[repr(C)]
pub(crate) struct TcpIterContext {
    /// `struct bpf_iter_meta *`.
    pub(crate) meta: *const u8,
    /// Null once, behind the last entry.
    pub(crate) sk_common: *const u8,
    /// Owner of the socket.
    pub(crate) uid: u32,
}

/// Entries after which the walk goes back to user space: kernels without preemption give the CPU to
/// nobody else before, and a million entries take a second.
const AT_ONCE: u64 = 1024;

#[inline(always)]
pub(crate) fn visit(ctx: &TcpIterContext) {
    if ctx.sk_common.is_null() {
        return;
    }
    let Some(walked) = WALK_TOTALS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the map gave the pointer; one walk at a time, nothing else writes it.
    let walked = unsafe { &mut *walked };
    let sock = Sock(ctx.sk_common);
    count(sock, walked);
    walked.uninterrupted += 1;
    if walked.uninterrupted >= AT_ONCE && ends_bucket(sock) {
        walked.uninterrupted = 0;
        interrupt(ctx);
    }
}

/// Whether nothing follows a connection in its bucket; never where BTF does not tell.
#[inline(always)]
fn ends_bucket(sock: Sock) -> bool {
    let node = kernel_layout::skc_nulls_node();
    let is_end = |next: u64| next & 1 == 1;
    node != 0 && sock.state() != LISTEN && sock.probe(node).is_ok_and(is_end)
}

/// The reader has room for one byte: with it, the kernel returns from `read()`. The next one goes on at
/// the first entry of the next bucket, however buckets change meanwhile.
#[inline(always)]
fn interrupt(ctx: &TcpIterContext) {
    // SAFETY: the kernel gives a valid `struct bpf_iter_meta`, whose first member is the file.
    let file = unsafe { read_volatile(ctx.meta.cast::<*mut _>()) };
    let byte = 0_u8;
    // SAFETY: the byte is on the stack.
    unsafe { bpf_seq_write(file, from_ref(&byte).cast(), 1) };
}

#[inline(always)]
fn count(sock: Sock, walked: &mut WalkTotals) {
    let Some(family) = Family::from_address_family(sock.address_family()) else {
        return;
    };
    let seeding = walked.seeding == 1;
    if seeding && maps::mode().is_some_and(Mode::is_second_pass) && !may_be_unlisted(sock.state()) {
        return;
    }
    match sock.state() {
        TIME_WAIT => minisocket(sock, family.index(), walked),
        NEW_SYN_RECV => closed_listeners::visit(sock, family.index()),
        state => {
            match state {
                CLOSE_WAIT => record_idle_age(sock, &mut walked.idle[IDLE_CLOSE_WAIT]),
                FIN_WAIT2 => record_idle_age(sock, &mut walked.idle[IDLE_FIN_WAIT2]),
                _ => {}
            }
            if seeding
                && let Some(cell) = CounterCell::new(family.index(), u32::from(state))
                && !cell.is_closed()
                && seed_socket(sock, cell)
            {
                walked.sockets += 1;
            }
        }
    }
}

/// Whether a socket in this state is reported before it is listed, by a task that may be preempted
/// in between. Later states are reported when they come.
#[inline(always)]
fn may_be_unlisted(state: u8) -> bool {
    state == LISTEN || state == SYN_SENT
}

/// Counted like full sockets where events follow them, else only looked at.
#[inline(always)]
fn minisocket(tw: Sock, family: usize, walked: &mut WalkTotals) {
    let substate = match tw.timewait_substate() {
        Ok(substate) => substate,
        Err(errno) => return cells::record_failure(Failure::Invalid, errno),
    };
    let cell = if substate == FIN_WAIT2 {
        walked.finwait2[family] += 1;
        MINI_FIN_WAIT2
    } else {
        walked.timewait[family] += 1;
        TIME_WAIT
    };
    if walked.seeding == 1
        && let Some(cell) = CounterCell::new(family, u32::from(cell))
    {
        visit_in_bank(tw, cell, true);
    }
}

/// One socket more of its age.
#[inline(always)]
fn record_idle_age(sock: Sock, ages: &mut [u64; AGES]) {
    if let Some(tcp) = sock.as_tcp() {
        // A mask as well, which the verifier follows.
        ages[(tcp.idle_seconds() as usize).min(AGES - 1) & (AGES - 1)] += 1;
    }
}

/// Counts a full socket in the bank that is being seeded, unless it is there. Whether it was not.
#[inline(always)]
pub(crate) fn seed_socket(sock: Sock, cell: CounterCell) -> bool {
    visit_in_bank(sock, cell, false)
}

#[inline(always)]
fn visit_in_bank(sock: Sock, cell: CounterCell, is_minisocket: bool) -> bool {
    let (Some(mode), Some(cpu)) = (maps::mode(), maps::per_cpu()) else {
        return false;
    };
    let Some(counters) = NetnsCounters::of(sock, cpu, Writer::Walk) else {
        return false;
    };
    let mode = counters.mode(mode);
    match SeededBank::of(counters, mode) {
        Some(bank) if !is_minisocket => {
            let cgroup = bank.cgroup_slot(counters, || sock.probe_cgroup());
            seed::visit(counters, bank, sock, cell, cgroup)
        }
        Some(bank) if mode.counts_timewait(bank.index()) => {
            seed::visit(counters, bank, sock, cell, Slot::NONE)
        }
        _ => false,
    }
}
