//! Timewait minisockets: born, changed from FIN_WAIT2 to TIME_WAIT, ended. The tracepoint tells
//! nothing of them.

use aya_ebpf::{
    EbpfContext as _,
    helpers::bpf_get_current_pid_tgid,
    programs::{FEntryContext, FExitContext},
};
use tcp_status_common::{
    control::{Segment, TASK_SLOTS},
    per_cpu::Writer,
    state::{Family, MINI_FIN_WAIT2, State},
};

use crate::{
    cells::{CLOSE, CounterCell, bump_stat},
    dedup,
    kernel_layout::{self, Sock},
    maps::{self, SEGMENTS, TASK_SEGMENTS},
    netns_counters::NetnsCounters,
    ports,
    seed::{self, SeededBank},
    set_state::IPPROTO_TCP,
};

const FIN_WAIT2: u8 = State::FinWait2.number();
const TIME_WAIT: u8 = State::TimeWait.number();

/// The place in the counters of a minisocket in this substate.
#[inline(always)]
fn cell_state(substate: u32) -> u32 {
    u32::from(if substate == u32::from(FIN_WAIT2) {
        MINI_FIN_WAIT2
    } else {
        TIME_WAIT
    })
}

/// After `inet_twsk_alloc(sk, dr, state)`. Attached twice, since a softirq may interrupt it.
#[inline(always)]
pub(crate) fn created(ctx: &FExitContext, writer: Writer) {
    const RETURNED: usize = 3;
    let (sock, tw) = (Sock(ctx.arg(0)), ctx.arg::<*const u8>(RETURNED));
    // No memory, or net.ipv4.tcp_max_tw_buckets reached: the connection ends without one.
    if tw.is_null() {
        return;
    }
    let to = cell_state(ctx.arg::<i32>(2).cast_unsigned());
    if !dedup::claim_function_event(ctx.as_ptr(), writer, tw, CLOSE, to) {
        return;
    }
    if sock.protocol() == IPPROTO_TCP {
        transition(writer, sock, tw, CLOSE, to);
    }
}

/// Before `tcp_timewait_state_process(tw, ...)`: the substate to come from.
#[inline(always)]
pub(crate) fn segment_entry(ctx: &FEntryContext) {
    let tw = Sock(ctx.arg(0));
    if let Some(slot) = segment() {
        // SAFETY: the map gave the pointer; nothing else writes the slot meanwhile.
        unsafe {
            *slot = Segment {
                timewait: tw.0 as u64,
                substate: tw.substate().into(),
            };
        }
    }
}

/// The slot of the segment that is being processed. Bottom halves are off: nothing else processes
/// one on this CPU, unless tasks preempt each other there.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is the pid")]
#[inline(always)]
fn segment() -> Option<*mut Segment> {
    if !kernel_layout::bottom_halves_preemptible() {
        return SEGMENTS.get_ptr_mut(0);
    }
    TASK_SEGMENTS.get_ptr_mut(bpf_get_current_pid_tgid() as u32 % TASK_SLOTS)
}

/// After `tcp_timewait_state_process(tw, ...)`.
#[inline(always)]
pub(crate) fn segment_exit(ctx: &FExitContext) {
    let tw = Sock(ctx.arg(0));
    let Some(slot) = segment() else { return };
    let before = Segment {
        timewait: tw.0 as u64,
        substate: FIN_WAIT2.into(),
    };
    // The slot is another one's where the program at the entry was skipped or not attached yet.
    // SAFETY: as above.
    if unsafe { *slot } == before && tw.substate() == TIME_WAIT {
        transition(
            Writer::Timewait,
            tw,
            tw.0,
            cell_state(FIN_WAIT2.into()),
            cell_state(TIME_WAIT.into()),
        );
    }
}

/// Before `inet_twsk_kill(tw)`.
#[inline(always)]
pub(crate) fn destroyed(ctx: &FEntryContext) {
    let tw = Sock(ctx.arg(0));
    transition(
        Writer::Timewait,
        tw,
        tw.0,
        cell_state(tw.substate().into()),
        CLOSE,
    );
}

/// `sock` is what tells the namespace, the family and the port: at the birth, the socket that it replaces.
#[inline(always)]
fn transition(writer: Writer, sock: Sock, tw: *const u8, from: u32, to: u32) {
    let (Some(mode), Some(cpu)) = (maps::mode(), maps::per_cpu()) else {
        return;
    };
    let Some(counters) = NetnsCounters::of(sock, cpu, writer) else {
        return;
    };
    let Some(family) = Family::from_address_family(sock.address_family()) else {
        return;
    };
    let (Some(from), Some(to)) = (
        CounterCell::new(family.index(), from),
        CounterCell::new(family.index(), to),
    ) else {
        return;
    };
    let (port, mode) = (sock.port(), counters.mode(mode));
    if let Some(bank) = mode.live()
        && mode.counts_timewait(bank)
    {
        counters.count_transition(bank, from, to);
        ports::count_transition(writer, ports::slot(counters, bank, port), bank, from, to);
        bump_stat!(cpu, writer, counted_minisockets);
    }
    if let Some(bank) = SeededBank::of_minisockets(mode)
        && mode.counts_timewait(bank.index())
    {
        seed::minisocket_transition(counters, bank, Sock(tw), to.pack(), port);
    }
}
