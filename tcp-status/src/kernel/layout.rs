//! What the programs must know about the running kernel, read from its BTF by name.
//! Nothing here knows a kernel version.

use std::{fs, io, path::Path, time::Duration};

use aya::{Btf, Endianness};
use aya_obj::btf::BtfKind;
use nix::{
    time::{ClockId, clock_getres},
    unistd::{SysconfVar, sysconf},
};
use tcp_status_common::kernel_layout::KernelLayout;

use super::{
    accept::AcceptHook,
    btf::{MemberLocation, Types},
};

/// Where the kernel shows its own types.
pub const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// The kernel's types cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is missing or unreadable.
    #[error("cannot read kernel types from {path}: {source}; {}", hint(source))]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file is there, but makes no sense.
    #[error(
        "cannot read kernel types from {path}: {why}; use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
    )]
    Malformed {
        /// The file.
        path: String,
        /// What the parser said.
        why: String,
    },
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::OutOfMemory => "raise the memory limit (ulimit -v, LimitAS=, MemoryMax=)",
        io::ErrorKind::PermissionDenied => "run as root or make it readable",
        _ => "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
    }
}

/// What the kernel's types say about the things that tcp-status needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTypes {
    /// Offsets for the programs, or the first member that this kernel does not have.
    pub layout: Result<KernelLayout, String>,
    /// Whether there is a typed tracepoint `inet_sock_set_state`.
    pub tracepoint: bool,
    /// Whether programs can iterate over TCP sockets (`iter/tcp`).
    pub tcp_iterator: bool,
    /// Whether the iterator passes over the first bucket of connections of a namespace without
    /// listeners (5.15 to 6.16: `tcp_seek_last_pos()` comes from the listeners with an offset of -1).
    pub tcp_iterator_skips: bool,
    /// Whether programs can see the running task as a typed pointer.
    pub current_task_btf: bool,
    /// The functions in which timewait minisockets are born, change and end, as far as this
    /// kernel lacks them.
    pub missing_timewait_hooks: Vec<&'static str>,
    /// What measuring time in accept queues needs, or why this kernel does not have it.
    pub accept: Result<AcceptHook, String>,
}

/// Where timewait minisockets are born, change and end.
const TIMEWAIT_HOOKS: [&str; 3] = [
    "inet_twsk_alloc",
    "tcp_timewait_state_process",
    "inet_twsk_kill",
];

impl KernelTypes {
    /// Reads the types at `path`. As aya has them, they come along: loading programs needs them.
    ///
    /// # Errors
    /// If the file cannot be read or parsed.
    pub fn read(path: &Path) -> Result<(Self, Btf), Error> {
        let shown = || path.display().to_string();
        let bytes = fs::read(path).map_err(|source| Error::Unreadable {
            path: shown(),
            source,
        })?;
        Self::parse(&bytes).map_err(|why| Error::Malformed { path: shown(), why })
    }

    fn parse(bytes: &[u8]) -> Result<(Self, Btf), String> {
        let types = Types::read(bytes)?;
        let btf = Btf::parse(bytes, Endianness::default()).map_err(|error| error.to_string())?;
        Ok((Self::of(&btf, &types), btf))
    }

    fn of(btf: &Btf, types: &Types<'_>) -> Self {
        let has = |name: &str, kind| btf.id_by_type_name_kind(name, kind).is_ok();
        Self {
            layout: kernel_layout(btf, types),
            tracepoint: has("btf_trace_inet_sock_set_state", BtfKind::Typedef),
            tcp_iterator: has("bpf_iter_tcp", BtfKind::Func),
            // The batches came with the fault; what they hold changed when it was mended.
            tcp_iterator_skips: has("bpf_tcp_iter_state", BtfKind::Struct)
                && !has("bpf_tcp_iter_batch_item", BtfKind::Union),
            current_task_btf: has("btf_bpf_get_current_task_btf", BtfKind::Typedef),
            missing_timewait_hooks: TIMEWAIT_HOOKS
                .into_iter()
                .filter(|hook| !has(hook, BtfKind::Func))
                .collect(),
            accept: AcceptHook::of(btf, types, jiffies_per_second()),
        }
    }
}

fn kernel_layout(btf: &Btf, types: &Types<'_>) -> Result<KernelLayout, String> {
    let find = |of: &str, member: &str| {
        let id = btf.id_by_type_name_kind(of, BtfKind::Struct).ok();
        id.and_then(|id| types.locate(id, member))
            .ok_or_else(|| format!("struct {of} has no member {member}"))
    };
    let bit_field = |of, member| format!("member {member} of struct {of} is a bit field");
    let offset = |of, member| match find(of, member)? {
        MemberLocation { bits, width: None } if bits % 8 == 0 => Ok(bits / 8),
        MemberLocation { .. } => Err(bit_field(of, member)),
    };
    // One byte among bit fields before 5.6, and in RHEL 8.
    let (sk_protocol, sk_protocol_mask) = match find("sock", "sk_protocol")? {
        MemberLocation { bits, width } if bits % 8 == 0 && matches!(width, None | Some(8)) => {
            (bits / 8, if width.is_none() { 0xffff } else { 0xff })
        }
        MemberLocation { .. } => return Err(bit_field("sock", "sk_protocol")),
    };
    // The function came with the guard in `__bpf_trace_run()`, which calls it.
    let recursion_guard = btf
        .id_by_type_name_kind("bpf_prog_inc_misses_counter", BtfKind::Func)
        .is_ok();
    // An atomic before 5.12, which is assigned when it is first asked for.
    let cookie_is_atomic = find("net", "net_cookie.counter").is_ok();
    // What counts the users of a namespace was part of it before 5.11.
    let net_count = [
        "ns.__ns_ref.refs.counter",
        "ns.count.refs.counter",
        "count.refs.counter",
    ]
    .into_iter()
    .find_map(|member| find("net", member).ok())
    .map(|location| location.bits / 8)
    .ok_or("struct net has no count of its users")?;
    let cgroups = cgroups(btf, types).unwrap_or_default();
    Ok(KernelLayout {
        sk_protocol,
        sk_protocol_mask,
        skc_family: offset("sock", "__sk_common.skc_family")?,
        skc_state: offset("sock", "__sk_common.skc_state")?,
        skc_net: offset("sock", "__sk_common.skc_net.net")?,
        net_inum: offset("net", "ns.inum")?,
        net_cookie: if cookie_is_atomic {
            0
        } else {
            offset("net", "net_cookie").unwrap_or(0)
        },
        net_hash_mix: offset("net", "hash_mix").unwrap_or(0),
        net_count,
        skc_num: offset("sock", "__sk_common.skc_num")?,
        skc_refcnt: offset("sock", "__sk_common.skc_refcnt")?,
        skc_prot: offset("sock", "__sk_common.skc_prot")?,
        skc_rcv_saddr: offset("sock", "__sk_common.skc_rcv_saddr")?,
        skc_v6_rcv_saddr: offset("sock", "__sk_common.skc_v6_rcv_saddr")?,
        skc_daddr: offset("sock", "__sk_common.skc_daddr")?,
        skc_v6_daddr: offset("sock", "__sk_common.skc_v6_daddr")?,
        skc_dport: offset("sock", "__sk_common.skc_dport")?,
        sk_ack_backlog: offset("sock", "sk_ack_backlog")?,
        sk_max_ack_backlog: offset("sock", "sk_max_ack_backlog")?,
        sk_drops: offset("sock", "sk_drops.counter")?,
        sk_reuseport_cb: offset("sock", "sk_reuseport_cb")?,
        skc_flags: offset("sock", "__sk_common.skc_flags")?,
        sk_err: offset("sock", "sk_err")?,
        inet_sport: offset("inet_sock", "inet_sport")?,
        packets_out: offset("tcp_sock", "packets_out")?,
        rcv_tstamp: offset("tcp_sock", "rcv_tstamp")?,
        tw_substate: offset("inet_timewait_sock", "tw_substate")?,
        icsk_qlen: offset("inet_connection_sock", "icsk_accept_queue.qlen")?,
        icsk_young: offset("inet_connection_sock", "icsk_accept_queue.young")?,
        skc_listener: offset("sock", "__sk_common.skc_listener")?,
        task_stack: offset("task_struct", "stack")?,
        task_pid: offset("task_struct", "pid")?,
        thread_size: thread_size(),
        recursion_guard: recursion_guard.into(),
        per_task_tokens: (!recursion_guard || tracepoints_preemptible(btf, types)).into(),
        // Other kernels have a lock that spins in there, whichever locks are debugged.
        bottom_halves_preemptible: find("spinlock", "rlock").is_err().into(),
        // The plan decides.
        two_copies: 0,
        timewait_events: 0,
        all_namespaces: 0,
        counts_cgroups: 0,
        sk_cgrp_data: cgroups.sk_cgrp_data,
        cgroup_is_tagged: cgroups.cgroup_is_tagged,
        cgroup_kn: cgroups.cgroup_kn,
        kernfs_id: cgroups.kernfs_id,
        hz: jiffies_per_second(),
        skc_nulls_node: offset("sock", "__sk_common.skc_nulls_node").unwrap_or(0),
        ..tables(btf, types).unwrap_or_default()
    })
}

/// Where a socket has its cgroup; none in a kernel without `CONFIG_SOCK_CGROUP_DATA`, and in one
/// whose ids are not 8 bytes in one place (before 5.5).
fn cgroups(btf: &Btf, types: &Types<'_>) -> Option<KernelLayout> {
    let id = |of: &str| btf.id_by_type_name_kind(of, BtfKind::Struct).ok();
    let offset = |of, member| match types.locate(id(of)?, member)? {
        MemberLocation { bits, width: None } if bits % 64 == 0 => Some(bits / 8),
        MemberLocation { .. } => None,
    };
    // A union with what the first version of cgroups has, before 5.15.
    let (sk_cgrp_data, cgroup_is_tagged) = match offset("sock", "sk_cgrp_data.cgroup") {
        Some(pointer) => (pointer, 0),
        None => (offset("sock", "sk_cgrp_data.val")?, 1),
    };
    if types.locate(id("kernfs_node")?, "id.id").is_some() {
        return None;
    }
    Some(KernelLayout {
        sk_cgrp_data,
        cgroup_is_tagged,
        cgroup_kn: offset("cgroup", "kn")?,
        kernfs_id: offset("kernfs_node", "id")?,
        ..KernelLayout::default()
    })
}

/// Where the kernel keeps its socket tables; none if this kernel has them in another form.
fn tables(btf: &Btf, types: &Types<'_>) -> Option<KernelLayout> {
    /// How much of a socket the program reads.
    const READ: u32 = 128;
    let id = |of: &str| btf.id_by_type_name_kind(of, BtfKind::Struct).ok();
    let offset = |of, member| match types.locate(id(of)?, member)? {
        MemberLocation { bits, width: None } if bits % 8 == 0 => Some(bits / 8),
        MemberLocation { .. } => None,
    };
    let read_at_once = [
        "__sk_common.skc_family",
        "__sk_common.skc_state",
        "__sk_common.skc_num",
        "__sk_common.skc_net.net",
    ];
    for member in read_at_once {
        if offset("sock", member)? + 8 > READ {
            return None;
        }
    }
    let skc_nulls_node = offset("sock", "__sk_common.skc_nulls_node")?;
    let death_row = "inet_timewait_death_row";
    let (death_row_timewait, death_row_none) = match offset(death_row, "tw_refcount.refs.counter") {
        Some(references) => (references, 1),
        None => (offset(death_row, "tw_count.counter")?, 0),
    };
    // One small array before 5.19.
    let listener_array = types
        .elements(id("inet_hashinfo")?, "listening_hash")
        .unwrap_or(0);
    let (hashinfo_listeners, hashinfo_lhash2_mask) = if listener_array > 0 {
        (offset("inet_hashinfo", "listening_hash")?, 0)
    } else {
        (
            offset("inet_hashinfo", "lhash2")?,
            offset("inet_hashinfo", "lhash2_mask")?,
        )
    };
    let listener_size = types.size(id("inet_listen_hashbucket")?)?;
    let listener_head = offset("inet_listen_hashbucket", "nulls_head")?;
    let listener_stride = listener_size / 8;
    let is_block = listener_size.is_power_of_two() && (8..=2048).contains(&listener_size);
    if !is_block
        || listener_head % 8 != 0
        || skc_nulls_node + 8 > READ
        || types.size(id("inet_ehash_bucket")?)? != 8
    {
        return None;
    }
    Some(KernelLayout {
        lists_tables: 1,
        task_nsproxy: offset("task_struct", "nsproxy")?,
        nsproxy_net: offset("nsproxy", "net_ns")?,
        net_death_row: offset("net", "ipv4.tcp_death_row")?,
        death_row_pointer: types.is_pointer(id("net")?, "ipv4.tcp_death_row")?.into(),
        death_row_hashinfo: offset(death_row, "hashinfo")?,
        death_row_timewait,
        death_row_none,
        hashinfo_ehash: offset("inet_hashinfo", "ehash")?,
        hashinfo_ehash_mask: offset("inet_hashinfo", "ehash_mask")?,
        hashinfo_listeners,
        hashinfo_lhash2_mask,
        listener_array,
        listener_stride,
        listener_head: listener_head / 8,
        sk_uid: offset("sock", "sk_uid")?,
        ..KernelLayout::default()
    })
}

/// Whether tracepoints may run with preemption on. Removing a program has to wait until those under
/// way have ended: where it does that by sleepable RCU as well, they may be preempted. The structure
/// that remembers what was waited for is there from 5.14 on; a kernel that does not have it is not
/// trusted.
fn tracepoints_preemptible(btf: &Btf, types: &Types<'_>) -> bool {
    let Ok(id) = btf.id_by_type_name_kind("tp_transition_snapshot", BtfKind::Struct) else {
        return true;
    };
    let waits_for = |kind| types.locate(id, kind).is_some();
    !waits_for("rcu") || waits_for("srcu_gp")
}

/// `CONFIG_HZ`, which no type shows: the coarse clocks advance once per jiffy.
fn jiffies_per_second() -> u32 {
    const USUAL: u32 = 250;
    let jiffy = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .map(Duration::from)
        .unwrap_or_default();
    u32::try_from(jiffy.as_nanos())
        .ok()
        .and_then(|jiffy| 1_000_000_000_u32.checked_div(jiffy))
        .unwrap_or(USUAL)
        .max(1)
}

/// `THREAD_SIZE` in bytes, which no type shows: 16 KiB on x86-64, arm64 and riscv64, but never
/// less than a page. Should a kernel have larger stacks, events near their top share the slots
/// of interrupts, and the audit corrects what that may cost.
fn thread_size() -> u32 {
    const SMALLEST: u32 = 16 * 1024;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    page.and_then(|bytes| u32::try_from(bytes).ok())
        .unwrap_or(0)
        .max(SMALLEST)
}

/// The kernel's types, whatever they are: read or refused.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    drop(KernelTypes::parse(bytes));
}
