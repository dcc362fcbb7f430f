//! The listing of the kernel's socket tables: one pass over the hash tables of connections and of
//! listeners counts the sockets of every network namespace, without entering any.
//!
//! A program runs [`step`] again and again; each one finds the next bucket that is not empty, or
//! counts one socket. No lock is taken: a socket that moves meanwhile may be counted twice or not at
//! all, so that only what several passes agree on, in a namespace at rest, says anything.

use core::ptr::{addr_of_mut, read_volatile};

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_kernel};
use tcp_status_common::{
    counters::{OVERFLOW_NETNS, STATE_SLOTS},
    state::{Family, MINI_FIN_WAIT2, NEW_SYN_RECV, State},
    table::{
        BLOCK_WORDS, Block, Cursor, LISTED_STATES, ListedCgroup, ListedCgroupCounts, ListedPort,
        NetnsCounts, OTHER_NETS, Table, phase,
    },
};

use crate::{
    cells::{EINVAL, opaque},
    kernel_layout::{self, HashInfo, Sock, UntypedNet},
    maps::{self, CURSOR, LISTED, LISTED_CGROUPS, LISTED_PORTS, NAMESPACES, TABLE_BLOCK},
    netns_counters::BPF_NOEXIST,
};

const FIN_WAIT2: u8 = State::FinWait2.number();
const TIME_WAIT: u8 = State::TimeWait.number();

/// How many steps one run of the program takes.
pub(crate) const STEPS: u32 = 64;

/// What [`step`] gives while there is more to do.
pub(crate) const CONTINUE: i32 = 0;
/// The pass is complete.
pub(crate) const STOP: i32 = 1;

/// One step of a pass.
#[inline(always)]
pub(crate) fn step() -> i32 {
    let Some(cursor) = CURSOR.get_ptr_mut(0) else {
        return STOP;
    };
    // SAFETY: the map gave the pointer; one pass at a time, nothing else writes it meanwhile.
    let cursor = unsafe { &mut *cursor };
    if cursor.phase >= phase::DONE {
        return STOP;
    }
    let stepped = if cursor.node != 0 {
        visit(cursor)
    } else if cursor.phase != phase::START && cursor.bucket < cursor.table.buckets {
        find(cursor)
    } else {
        enter_next_table(cursor)
    };
    if stepped.is_err() {
        cursor.failed += 1;
        // A pass without tables would never end.
        if cursor.phase == phase::START {
            cursor.phase = phase::DONE;
        }
    }
    CONTINUE
}

#[inline(always)]
fn enter_next_table(cursor: &mut Cursor) -> Result<(), i32> {
    let hashinfo = hashinfo(cursor)?;
    cursor.table = match cursor.phase {
        phase::START => hashinfo.connections()?,
        phase::CONNECTIONS if cursor.without_listeners == 0 => hashinfo.listeners()?,
        _ => Table::default(),
    };
    cursor.bucket = 0;
    cursor.phase += 1;
    Ok(())
}

/// The tables of the pass: those of the reader's namespace, unless user space says others.
#[inline(always)]
pub(crate) fn hashinfo(cursor: &mut Cursor) -> Result<HashInfo, i32> {
    if cursor.hashinfo == 0 {
        // SAFETY: no arguments.
        let task = unsafe { bpf_get_current_task() };
        cursor.hashinfo = kernel_layout::net_of_task(task)?.hashinfo()?;
    }
    Ok(HashInfo(cursor.hashinfo))
}

/// Goes to the next bucket with a socket, within the next block of the table.
#[expect(clippy::cast_possible_truncation, reason = "a block has few words")]
#[inline(always)]
pub(crate) fn find(cursor: &mut Cursor) -> Result<(), i32> {
    let (stride, head) = match cursor.phase {
        phase::CONNECTIONS => (1, 0),
        _ => (
            kernel_layout::listener_stride(),
            kernel_layout::listener_head(),
        ),
    };
    let first = cursor.bucket;
    let per_block = BLOCK_WORDS as u64 / u64::from(stride.max(1));
    let left = cursor.table.buckets - first;
    let address = cursor.table.base + first * u64::from(stride) * 8;
    cursor.bucket = first + per_block;
    let block = TABLE_BLOCK.get_ptr_mut(0).ok_or(EINVAL)?;
    // Behind the end of the table there may be no memory.
    let size = left.min(per_block) as u32 * stride * 8;
    let size = core::hint::black_box(size);
    if size > size_of::<Block>() as u32 {
        return Err(EINVAL);
    }
    // SAFETY: the block has room for what is read.
    let read = unsafe { bpf_probe_read_kernel(block.cast(), size, address as *const _) };
    if read != 0 {
        return Err(EINVAL);
    }
    let words = (size / 8) as usize;
    for word in 0..BLOCK_WORDS {
        if word >= words {
            break;
        }
        // SAFETY: within the block.
        let node = unsafe { read_volatile(&raw const (*block).words[word]) };
        // What ends a list is odd.
        if node & 1 == 0 && word as u32 & (stride - 1) == head {
            cursor.node = node;
            cursor.bucket = first + word as u64 / u64::from(stride.max(1)) + 1;
            break;
        }
    }
    Ok(())
}

/// How much of a socket is read at once, in bytes.
const HEAD: usize = 128;

/// The beginning of a `struct sock_common`: in the map of blocks, for it is too large for the stack.
pub(crate) struct SocketHead(*const Block);

impl SocketHead {
    #[expect(clippy::cast_possible_truncation, reason = "128 bytes")]
    #[inline(always)]
    fn read(sock: u64) -> Result<Self, i32> {
        let head = TABLE_BLOCK.get_ptr_mut(0).ok_or(EINVAL)?;
        // SAFETY: the block has room for what is read; the helper turns a fault into an error.
        let read = unsafe { bpf_probe_read_kernel(head.cast(), HEAD as u32, sock as *const _) };
        if read == 0 {
            Ok(Self(head))
        } else {
            Err(EINVAL)
        }
    }

    /// The loader sees to it that `offset` is within.
    #[inline(always)]
    pub(crate) fn get<T: Copy>(&self, offset: u32) -> T {
        let offset = offset as usize & (HEAD - size_of::<T>());
        // SAFETY: within; members are aligned.
        unsafe { read_volatile(self.0.cast::<u8>().add(offset).cast()) }
    }
}

/// Reads the socket at the cursor, and goes to the next one of its bucket.
#[inline(always)]
pub(crate) fn next_socket(cursor: &mut Cursor) -> Result<(u64, SocketHead), i32> {
    let sock = cursor.node - u64::from(kernel_layout::skc_nulls_node());
    cursor.node = 0;
    let head = SocketHead::read(sock)?;
    let next: u64 = head.get(kernel_layout::skc_nulls_node());
    cursor.node = if next & 1 == 0 { next } else { 0 };
    cursor.sockets += 1;
    Ok((sock, head))
}

/// Counts the socket at the cursor, and goes to the next one of its bucket.
#[inline(always)]
fn visit(cursor: &mut Cursor) -> Result<(), i32> {
    let (sock, head) = next_socket(cursor)?;
    let family =
        Family::from_address_family(head.get(kernel_layout::skc_family())).ok_or(EINVAL)?;
    let state: u8 = head.get(kernel_layout::skc_state());
    let state = match state {
        TIME_WAIT if kernel_layout::substate_at(sock)? == FIN_WAIT2 => MINI_FIN_WAIT2,
        state => state,
    };
    let state = core::hint::black_box(usize::from(state));
    if state >= LISTED_STATES {
        return Err(EINVAL);
    }
    let net: u64 = head.get(kernel_layout::skc_net());
    let listed = listed(net, cursor.pass)?;
    // SAFETY: the map gave the pointer; both numbers are in range.
    unsafe {
        let cell = addr_of_mut!((*listed).counts[family.index() & 1][state]);
        *cell += 1;
        let key = ListedPort {
            netns: (*listed).netns,
            port: u64::from(head.get::<u16>(kernel_layout::skc_num())),
        };
        if let Some(port) = LISTED_PORTS.get_ptr_mut(key) {
            *addr_of_mut!((*port).counts[family.index() & 1][state]) += 1;
        }
        if cursor.by_cgroup == 1 && (*listed).inode != maps::own_inode() && is_full(state) {
            let id = Sock(sock as *const u8).probe_cgroup()?;
            let cgroup = ListedCgroup {
                netns: (*listed).netns,
                id,
            };
            count_in_cgroup(cgroup, state, cursor);
        }
    }
    Ok(())
}

/// Whether a socket that is listed in this state is a full one.
#[inline(always)]
fn is_full(state: usize) -> bool {
    const NONE: [u8; 4] = [
        MINI_FIN_WAIT2,
        TIME_WAIT,
        NEW_SYN_RECV,
        State::Closed.number(),
    ];
    !NONE.iter().any(|&none| state == usize::from(none))
}

/// One socket more of a cgroup, whose counts the first one of a pass empties.
#[inline(always)]
fn count_in_cgroup(cgroup: ListedCgroup, state: usize, cursor: &mut Cursor) {
    if LISTED_CGROUPS.get_ptr(cgroup).is_none() {
        // What is beyond the limit of namespaces takes no room from the others.
        if NAMESPACES.get_ptr(cgroup.netns).is_none() {
            return;
        }
        let _: Result<(), i32> =
            LISTED_CGROUPS.insert(cgroup, ListedCgroupCounts::default(), BPF_NOEXIST);
    }
    let Some(counted) = LISTED_CGROUPS.get_ptr_mut(cgroup) else {
        cursor.cgroups_left_out += 1;
        return;
    };
    let state = opaque(state);
    if state >= STATE_SLOTS {
        return;
    }
    // SAFETY: the map gave the pointer; one pass at a time; the state is in range.
    unsafe {
        if (*counted).pass != cursor.pass {
            *counted = ListedCgroupCounts {
                pass: cursor.pass,
                ..ListedCgroupCounts::default()
            };
        }
        *addr_of_mut!((*counted).counts[state]) += 1;
    }
}

/// Where the sockets of a namespace are counted, emptied by the first socket of a pass.
#[inline(always)]
fn listed(net: u64, pass: u32) -> Result<*mut NetnsCounts, i32> {
    let (found, is_other) = match LISTED.get_ptr_mut(net) {
        Some(found) => (found, false),
        None => insert_namespace(net)?,
    };
    // SAFETY: the map gave the pointer; one pass at a time.
    unsafe {
        if (*found).pass != pass {
            let mut fresh = NetnsCounts {
                netns: OVERFLOW_NETNS,
                pass,
                ..NetnsCounts::default()
            };
            if !is_other {
                (fresh.netns, fresh.inode) = UntypedNet(net).identity()?;
            }
            *found = fresh;
        }
    }
    Ok(found)
}

/// A namespace that was not met before, or where there is no room, what stands for all such.
#[inline(always)]
fn insert_namespace(net: u64) -> Result<(*mut NetnsCounts, bool), i32> {
    let _: Result<(), i32> = LISTED.insert(net, NetnsCounts::default(), BPF_NOEXIST);
    if let Some(opened) = LISTED.get_ptr_mut(net) {
        return Ok((opened, false));
    }
    LISTED
        .get_ptr_mut(OTHER_NETS)
        .map(|other| (other, true))
        .ok_or(EINVAL)
}
