//! The programs that the kernel runs for tcp-status. One file per hook family;
//! each entry point here only names its hook and hands over.
#![no_std]
#![no_main]
// For the atomic addition in `count`.
#![feature(asm_experimental_arch)]

mod accept;
mod cells;
mod cgroups;
mod closed_listeners;
mod dedup;
mod ends;
mod kernel_layout;
mod listed_listeners;
mod listeners;
mod maps;
mod netns_counters;
mod ports;
mod seed;
mod set_state;
mod slots;
mod table;
mod timewait;
mod walk;

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, fexit},
    programs::{BtfTracePointContext, FEntryContext, FExitContext},
};
use tcp_status_common::per_cpu::Writer;

use crate::kernel_layout::Sock;

/// Hook: `trace_inet_sock_set_state(const struct sock *sk, const int oldstate, const int
/// newstate)`, called before the state is stored. Process context with interrupts on, or softirq.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn set_state_first(ctx: BtfTracePointContext) -> i32 {
    set_state::handle(&ctx, Writer::First);
    0
}

/// The same hook once more, attached after the first: sees what the first was skipped for.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn set_state_second(ctx: BtfTracePointContext) -> i32 {
    set_state::handle(&ctx, Writer::Second);
    0
}

/// Hook: `struct inet_timewait_sock *inet_twsk_alloc(const struct sock *sk, struct
/// inet_timewait_death_row *dr, const int state)`. Process context, or softirq.
#[fexit(function = "inet_twsk_alloc")]
fn tw_create_first(ctx: FExitContext) -> i32 {
    timewait::created(&ctx, Writer::First);
    0
}

/// The same hook once more, attached after the first.
#[fexit(function = "inet_twsk_alloc")]
fn tw_create_second(ctx: FExitContext) -> i32 {
    timewait::created(&ctx, Writer::Second);
    0
}

/// Hook: `enum tcp_tw_status tcp_timewait_state_process(struct inet_timewait_sock *tw, ...)`.
/// Bottom halves off.
#[fentry(function = "tcp_timewait_state_process")]
fn tw_segment_entry(ctx: FEntryContext) -> i32 {
    timewait::segment_entry(&ctx);
    0
}

/// The same function, when it returns.
#[fexit(function = "tcp_timewait_state_process")]
fn tw_segment_exit(ctx: FExitContext) -> i32 {
    timewait::segment_exit(&ctx);
    0
}

/// Hook: `static void inet_twsk_kill(struct inet_timewait_sock *tw)`. Bottom halves off.
#[fentry(function = "inet_twsk_kill")]
fn tw_destroy(ctx: FEntryContext) -> i32 {
    timewait::destroyed(&ctx);
    0
}

/// Hook: `struct sock *inet_csk_accept(struct sock *sk, struct proto_accept_arg *arg)`, from 6.10 on.
/// Process context.
#[fexit(function = "inet_csk_accept")]
fn accept_exit(ctx: FExitContext) -> i32 {
    accept::returned(Sock(ctx.arg(0)), Sock(ctx.arg(2)));
    0
}

/// Hook: `struct sock *inet_csk_accept(struct sock *sk, int flags, int *err, bool kern)`, before 6.10.
#[fexit(function = "inet_csk_accept")]
fn accept_exit_with_flags(ctx: FExitContext) -> i32 {
    accept::returned(Sock(ctx.arg(0)), Sock(ctx.arg(4)));
    0
}

/// Hook: `bpf_iter_tcp(struct bpf_iter_meta *meta, struct sock_common *sk_common, uid_t uid)`,
/// called for each entry of the opener's namespace: full sockets, minisockets, request sockets.
/// Process context; from 5.15 on with the socket locked, before that with its bucket locked.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn walk_sockets(ctx: *const walk::TcpIterContext) -> i32 {
    // SAFETY: the kernel calls an iterator program with a valid context.
    unsafe { walk::visit(&*ctx) };
    0
}

/// The same hook, for a walk that ends behind the last listener; it returns 1 to end it.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn walk_listeners(ctx: *const walk::TcpIterContext) -> i32 {
    // SAFETY: as above.
    unsafe { listeners::visit(&*ctx) }
}

/// Hook: `bpf_iter_bpf_map(struct bpf_iter_meta *meta, struct bpf_map *map)`: any iterator that
/// calls its program at least once would do. Returns 1 to end after the first call.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map")]
extern "C" fn read_closed_listeners(_ctx: *const u8) -> i32 {
    closed_listeners::read();
    1
}

/// The same hook.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map")]
extern "C" fn check_namespaces(_ctx: *const u8) -> i32 {
    netns_counters::check_namespaces();
    1
}

/// The same hook; called as often as there are maps, each time for some steps.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map")]
extern "C" fn list_tables(_ctx: *const u8) -> i32 {
    for _ in 0..table::STEPS {
        if table_step() != table::CONTINUE {
            return 1;
        }
    }
    0
}

/// One step of [`list_tables`]. A function that the verifier checks once, however often it is called.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn table_step() -> i32 {
    table::step()
}

/// The same hook; writes what it finds to the reader.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map")]
extern "C" fn list_listeners(ctx: *const listed_listeners::MapIterContext) -> i32 {
    // SAFETY: the kernel calls an iterator program with a valid context.
    unsafe { listed_listeners::run(&*ctx) }
}

/// No panic can be reached; if one ever could, the verifier refuses the endless loop at load.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";
