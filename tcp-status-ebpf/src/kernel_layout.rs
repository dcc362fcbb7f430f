//! Reading the running kernel's structures at the offsets that its BTF gave.

use core::{mem::zeroed, ptr::read_volatile};

use aya_ebpf::helpers::{
    bpf_probe_read_kernel, bpf_probe_read_kernel_buf, generated::bpf_skc_to_tcp_sock,
};
use tcp_status_common::{
    counters::{ListenerRecord, ROOT_CGROUP},
    kernel_layout::KernelLayout,
    state::Family,
    table::Table,
};

/// Written by the loader before load; read-only and constant to the verifier afterwards.
#[unsafe(no_mangle)]
static KERNEL_LAYOUT: KernelLayout = KernelLayout {
    per_task_tokens: 1,
    bottom_halves_preemptible: 1,
    hz: 1,
    listener_stride: 1,
    // SAFETY: integers only.
    ..unsafe { zeroed() }
};

/// A member of [`KERNEL_LAYOUT`], not folded by the compiler: the loader changes it after the build.
macro_rules! layout {
    ($member:ident) => {
        // SAFETY: a static of this program.
        unsafe {
            core::ptr::read_volatile(core::ptr::addr_of!(
                $crate::kernel_layout::KERNEL_LAYOUT.$member
            ))
        }
    };
}

mod net;
mod tcp_sock;

pub(crate) use net::{Net, UntypedNet};
pub(crate) use tcp_sock::TcpSock;

/// Whether a program of ours may interrupt itself on one CPU.
#[inline(always)]
pub(crate) fn may_reenter() -> bool {
    layout!(recursion_guard) == 0
}

/// Whether the handlers are attached twice.
#[inline(always)]
pub(crate) fn two_copies() -> bool {
    layout!(two_copies) == 1
}

/// Size of a kernel stack in bytes, which it is aligned to.
#[inline(always)]
pub(crate) fn thread_size() -> u64 {
    layout!(thread_size).into()
}

/// Whether marks at a tracepoint are kept by task.
#[inline(always)]
pub(crate) fn per_task_tokens() -> bool {
    layout!(per_task_tokens) == 1
}

/// Whether a task that has bottom halves off may be preempted by another one.
#[inline(always)]
pub(crate) fn bottom_halves_preemptible() -> bool {
    layout!(bottom_halves_preemptible) == 1
}

/// Whether every network namespace is counted.
#[inline(always)]
pub(crate) fn all_namespaces() -> bool {
    layout!(all_namespaces) == 1
}

#[inline(always)]
pub(crate) fn counts_cgroups() -> bool {
    layout!(counts_cgroups) == 1
}

#[inline(always)]
pub(crate) fn lists_tables() -> bool {
    layout!(lists_tables) == 1
}

/// Words from one bucket of listeners to the next.
#[inline(always)]
pub(crate) fn listener_stride() -> u32 {
    layout!(listener_stride)
}

/// The word of a bucket of listeners that points to the first.
#[inline(always)]
pub(crate) fn listener_head() -> u32 {
    layout!(listener_head)
}

/// Offsets within `struct sock_common`, for those who read it as a whole.
#[inline(always)]
pub(crate) fn skc_nulls_node() -> u32 {
    layout!(skc_nulls_node)
}

#[inline(always)]
pub(crate) fn skc_family() -> u32 {
    layout!(skc_family)
}

#[inline(always)]
pub(crate) fn skc_state() -> u32 {
    layout!(skc_state)
}

#[inline(always)]
pub(crate) fn skc_net() -> u32 {
    layout!(skc_net)
}

#[inline(always)]
pub(crate) fn skc_num() -> u32 {
    layout!(skc_num)
}

/// Substate of the timewait minisocket at an address.
#[inline(always)]
pub(crate) fn substate_at(tw: u64) -> Result<u8, i32> {
    Sock(tw as *const u8).timewait_substate()
}

/// The network namespace of the `struct task_struct` at an address.
#[inline(always)]
pub(crate) fn net_of_task(task: u64) -> Result<UntypedNet, i32> {
    let nsproxy: u64 = Sock(task as *const u8).probe(layout!(task_nsproxy))?;
    let net = Sock(nsproxy as *const u8).probe(layout!(nsproxy_net))?;
    Ok(UntypedNet(net))
}

/// The address of a `struct inet_hashinfo`; the verifier does not know it.
#[derive(Clone, Copy)]
pub(crate) struct HashInfo(pub(crate) u64);

impl HashInfo {
    #[inline(always)]
    fn probe<T>(self, offset: u32) -> Result<T, i32> {
        Sock(self.0 as *const u8).probe(offset)
    }

    /// The table of connections.
    #[inline(always)]
    pub(crate) fn connections(self) -> Result<Table, i32> {
        let mask: u32 = self.probe(layout!(hashinfo_ehash_mask))?;
        Ok(Table {
            base: self.probe(layout!(hashinfo_ehash))?,
            buckets: u64::from(mask) + 1,
        })
    }

    /// The table of listeners.
    #[inline(always)]
    pub(crate) fn listeners(self) -> Result<Table, i32> {
        let buckets = layout!(listener_array);
        if buckets > 0 {
            return Ok(Table {
                base: self.0 + u64::from(layout!(hashinfo_listeners)),
                buckets: buckets.into(),
            });
        }
        let mask: u32 = self.probe(layout!(hashinfo_lhash2_mask))?;
        Ok(Table {
            base: self.probe(layout!(hashinfo_listeners))?,
            buckets: u64::from(mask) + 1,
        })
    }
}

/// A pointer that the verifier knows as `struct sock *` or `struct sock_common *`, which
/// begins with the same members.
#[derive(Clone, Copy)]
pub(crate) struct Sock(pub(crate) *const u8);

impl Sock {
    #[inline(always)]
    pub(crate) fn read<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the verifier knows the type behind the pointer, checks the member, and the
        // kernel turns a fault into a zero.
        unsafe { read_volatile(self.0.add(offset as usize).cast()) }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the mask has 16 bits at most"
    )]
    #[inline(always)]
    pub(crate) fn protocol(self) -> u16 {
        self.read::<u16>(layout!(sk_protocol)) & layout!(sk_protocol_mask) as u16
    }

    #[inline(always)]
    pub(crate) fn address_family(self) -> u16 {
        self.read(layout!(skc_family))
    }

    #[inline(always)]
    pub(crate) fn state(self) -> u8 {
        self.read(layout!(skc_state))
    }

    /// The network namespace.
    #[inline(always)]
    pub(crate) fn net(self) -> Net {
        Net(Sock(self.read(layout!(skc_net))))
    }

    /// The local port, or 0.
    #[inline(always)]
    pub(crate) fn port(self) -> u16 {
        self.read(layout!(skc_num))
    }

    /// Its error, or 0.
    #[inline(always)]
    pub(crate) fn error(self) -> u32 {
        self.read(layout!(sk_err))
    }

    /// Whether the peer's FIN came, or the program that closed it has left the rest to the kernel.
    #[inline(always)]
    pub(crate) fn is_dead_or_done(self) -> bool {
        const SOCK_DEAD: u64 = 1 << 0;
        const SOCK_DONE: u64 = 1 << 1;
        self.read::<u64>(layout!(skc_flags)) & (SOCK_DEAD | SOCK_DONE) != 0
    }

    /// The same socket with all that one of TCP has; none if it is no full socket.
    #[inline(always)]
    pub(crate) fn as_tcp(self) -> Option<TcpSock> {
        // SAFETY: the helper looks at the socket before it says that it is one of TCP.
        let tcp = unsafe { bpf_skc_to_tcp_sock(self.0.cast_mut().cast()) };
        (!tcp.is_null()).then(|| TcpSock(Sock(tcp.cast_const().cast())))
    }

    /// Id of the cgroup of a full socket that the verifier knows as `struct sock *`.
    #[inline(always)]
    pub(crate) fn cgroup(self) -> Result<u64, i32> {
        if layout!(cgroup_is_tagged) == 1 {
            return self.probe_cgroup();
        }
        let cgroup = Sock(self.read(layout!(sk_cgrp_data)));
        Ok(Sock(cgroup.read(layout!(cgroup_kn))).read(layout!(kernfs_id)))
    }

    /// The same of a `struct sock_common *`. What is the root for `sock_cgroup_ptr()` is tagged or null.
    #[inline(always)]
    pub(crate) fn probe_cgroup(self) -> Result<u64, i32> {
        let cgroup: u64 = self.probe(layout!(sk_cgrp_data))?;
        if cgroup == 0 || cgroup & 3 != 0 {
            return Ok(ROOT_CGROUP);
        }
        let node: u64 = Sock(cgroup as *const u8).probe(layout!(cgroup_kn))?;
        Sock(node as *const u8).probe(layout!(kernfs_id))
    }

    /// The listener of a request socket.
    #[inline(always)]
    pub(crate) fn listener(self) -> Result<UntypedSock, i32> {
        self.probe(layout!(skc_listener)).map(UntypedSock)
    }

    /// Substate of what the verifier knows as `struct inet_timewait_sock *`, which begins with a
    /// `struct sock_common` as well.
    #[inline(always)]
    pub(crate) fn substate(self) -> u8 {
        self.read(layout!(tw_substate))
    }

    /// Substate of a timewait minisocket that the verifier knows as `struct sock_common *`.
    #[inline(always)]
    pub(crate) fn timewait_substate(self) -> Result<u8, i32> {
        self.probe(layout!(tw_substate))
    }

    /// The local IPv4 address.
    #[inline(always)]
    pub(crate) fn address_v4(self) -> u32 {
        self.read(layout!(skc_rcv_saddr))
    }

    /// The local IPv6 address.
    #[inline(always)]
    pub(crate) fn address_v6(self) -> Result<[u8; 16], i32> {
        self.probe(layout!(skc_v6_rcv_saddr))
    }

    /// The peer's address, that of IPv4 mapped to IPv6, and its port: of a connection, or of a
    /// `connect()` that fails.
    #[inline(always)]
    pub(crate) fn peer(self, family: usize) -> Result<([u8; 16], u16), i32> {
        let address = if family == Family::V4.index() {
            let [a, b, c, d] = self.read::<u32>(layout!(skc_daddr)).to_ne_bytes();
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
        } else {
            self.probe(layout!(skc_v6_daddr))?
        };
        Ok((address, u16::from_be(self.read(layout!(skc_dport)))))
    }

    /// For members of what `struct sock_common` is the head of: the verifier refuses a
    /// direct load behind the end of the type that it knows.
    #[inline(always)]
    pub(crate) fn probe<T>(self, offset: u32) -> Result<T, i32> {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(self.0.add(offset as usize).cast()) }
    }
}

/// The address of what is, or was, a `struct inet_connection_sock`; the verifier does not know it.
#[derive(Clone, Copy)]
pub(crate) struct UntypedSock(pub(crate) u64);

impl UntypedSock {
    #[inline(always)]
    fn probe<T>(self, offset: u32) -> Result<T, i32> {
        Sock(self.0 as *const u8).probe(offset)
    }

    #[inline(always)]
    pub(crate) fn state(self) -> Result<u8, i32> {
        self.probe(layout!(skc_state))
    }

    /// Address of its network namespace.
    #[inline(always)]
    pub(crate) fn net(self) -> Result<u64, i32> {
        self.probe(layout!(skc_net))
    }

    /// Address of the operations of its protocol.
    #[inline(always)]
    pub(crate) fn operations(self) -> Result<u64, i32> {
        self.probe(layout!(skc_prot))
    }

    /// Whether it is a socket still. Of one that was freed, this much stays until its memory is used.
    #[inline(always)]
    pub(crate) fn is_referenced(self) -> bool {
        self.probe::<u32>(layout!(skc_refcnt))
            .is_ok_and(|references| references != 0)
    }

    /// Request sockets that refer to it as their listener. The kernel's number may be below zero,
    /// since it enters a request socket before it counts it.
    #[inline(always)]
    pub(crate) fn request_count(self) -> Result<u32, i32> {
        let count: i32 = self.probe(layout!(icsk_qlen))?;
        Ok(count.max(0).cast_unsigned())
    }

    /// Those of them whose SYN+ACK timer has expired. The kernel's two numbers do not change at once.
    #[inline(always)]
    fn retransmitted(self, requests: u32) -> Result<u32, i32> {
        let young: i32 = self.probe(layout!(icsk_young))?;
        Ok(requests.saturating_sub(young.max(0).cast_unsigned()))
    }

    /// Fills the record of a listener, in place, for it is too large for the stack: all but its port
    /// and family number.
    #[inline(always)]
    pub(crate) fn describe(self, family: Family, record: &mut ListenerRecord) -> Result<(), i32> {
        record.uid = self.probe(layout!(sk_uid))?;
        record.accept_queue = self.probe(layout!(sk_ack_backlog))?;
        record.accept_queue_limit = self.probe(layout!(sk_max_ack_backlog))?;
        record.requests = self.request_count()?;
        record.retransmitted = self.retransmitted(record.requests)?;
        record.drops = self.probe(layout!(sk_drops))?;
        record.reuseport = (self.probe::<u64>(layout!(sk_reuseport_cb))? != 0).into();
        record.address = [0; 16];
        let (address, bytes) = match family {
            Family::V4 => (layout!(skc_rcv_saddr), &mut record.address[..4]),
            Family::V6 => (layout!(skc_v6_rcv_saddr), &mut record.address[..]),
        };
        // SAFETY: the helper turns a fault into an error.
        unsafe { bpf_probe_read_kernel_buf((self.0 + u64::from(address)) as *const u8, bytes) }
    }
}

/// The running task: its pid, and its kernel stack.
pub(crate) struct Task(pub(crate) *const u8);

impl Task {
    #[inline(always)]
    pub(crate) fn pid(&self) -> u32 {
        Sock(self.0).read(layout!(task_pid))
    }

    /// Whether `address` lies on the task's own stack, rather than on an interrupt's.
    #[inline(always)]
    pub(crate) fn stack_contains(&self, address: *const u8) -> bool {
        let bottom: u64 = Sock(self.0).read(layout!(task_stack));
        let top = core::hint::black_box(bottom + thread_size());
        // Two comparisons: the verifier accepts them on a pointer, a subtraction it does not.
        address as u64 >= bottom && (address as u64) < top
    }
}
