//! What is fixed about the running kernel: where it keeps what the programs read, and
//! how it runs them. Resolved from its BTF by the loader and written into read-only data
//! before load, so that the verifier sees constants. No offset is known at build time.

/// Byte offsets, named after the kernel's members, and constants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KernelLayout {
    // First what each event needs: together it is one cache line.
    /// `struct sock`: `sk_protocol`, of which 2 bytes are read.
    pub sk_protocol: u32,
    /// Which bits of these belong to it: the lower 8 where it is a bit field of one byte.
    pub sk_protocol_mask: u32,
    /// `struct sock_common`: `skc_family`, 2 bytes.
    pub skc_family: u32,
    /// `struct sock_common`: `skc_num`, the local port in the order of the host, 2 bytes; 0 where
    /// none is held.
    pub skc_num: u32,
    /// `struct sock_common`: `skc_net`, a pointer to `struct net`.
    pub skc_net: u32,
    /// `struct net`: `ns.inum`, 4 bytes.
    pub net_inum: u32,
    /// `struct net`: `net_cookie`, 8 bytes; 0 where the kernel assigns it only when it is asked for.
    pub net_cookie: u32,
    /// `struct net`: `hash_mix`, 4 random bytes; 0 where there are none (RHEL 8), and the address
    /// stands in for them.
    pub net_hash_mix: u32,
    /// `struct net`: what counts its users, 4 bytes: 0 once it is being destroyed.
    pub net_count: u32,
    /// Size of a kernel stack in bytes (`THREAD_SIZE`).
    pub thread_size: u32,
    /// 1 where it is proven that the kernel never runs a tracing program inside itself on one CPU:
    /// a counter of one copy then has one writer per CPU, and plain additions suffice. Else 0.
    pub recursion_guard: u32,
    /// 1 where the handlers are attached twice, and the second must pass over what the first saw.
    pub two_copies: u32,
    /// 1 where marks at a tracepoint are kept by task: where a task may be preempted, or moved to
    /// another CPU, between the two copies, or a copy may interrupt itself.
    pub per_task_tokens: u32,
    /// 1 where a task that has bottom halves off may be preempted by another one (`PREEMPT_RT`).
    pub bottom_halves_preemptible: u32,
    /// 1 where the hooks of timewait minisockets are loaded; `control::Mode` says when they count.
    pub timewait_events: u32,
    /// 1 where every network namespace is counted, not just the tracker's own.
    pub all_namespaces: u32,
    /// 1 where sockets are counted by cgroup, by the members below, else 0.
    pub counts_cgroups: u32,
    /// `struct sock`: `sk_cgrp_data`, a pointer to `struct cgroup`, 8 bytes.
    pub sk_cgrp_data: u32,
    /// 1 where these 8 bytes may be something else, as their lower bits say (before 5.15), else 0.
    pub cgroup_is_tagged: u32,
    /// `struct cgroup`: `kn`, a pointer to `struct kernfs_node`.
    pub cgroup_kn: u32,
    /// `struct kernfs_node`: `id`, 8 bytes.
    pub kernfs_id: u32,
    /// `struct sock_common`: `skc_state`, 1 byte.
    pub skc_state: u32,
    /// `struct sock_common`: `skc_refcnt`, 4 bytes: 0 in memory that was a socket.
    pub skc_refcnt: u32,
    /// `struct sock_common`: `skc_prot`, a pointer that says which protocol's socket this is.
    pub skc_prot: u32,
    /// `struct sock_common`: `skc_rcv_saddr`, 4 bytes.
    pub skc_rcv_saddr: u32,
    /// `struct sock_common`: `skc_v6_rcv_saddr`, 16 bytes.
    pub skc_v6_rcv_saddr: u32,
    /// `struct sock_common`: `skc_daddr`, 4 bytes: the peer's address.
    pub skc_daddr: u32,
    /// `struct sock_common`: `skc_v6_daddr`, 16 bytes: the same of IPv6, IPv4 mapped.
    pub skc_v6_daddr: u32,
    /// `struct sock_common`: `skc_dport`, 2 bytes: the peer's port, in the order of the network.
    pub skc_dport: u32,
    /// `struct sock`: `sk_ack_backlog`, 4 bytes.
    pub sk_ack_backlog: u32,
    /// `struct sock`: `sk_max_ack_backlog`, 4 bytes.
    pub sk_max_ack_backlog: u32,
    /// `struct sock`: `sk_drops.counter`, 4 bytes: of a listener, what it dropped.
    pub sk_drops: u32,
    /// `struct sock`: `sk_reuseport_cb`, a pointer; null outside of groups.
    pub sk_reuseport_cb: u32,
    /// `struct sock_common`: `skc_flags`, 8 bytes: `enum sock_flags`, of a full socket.
    pub skc_flags: u32,
    /// `struct sock`: `sk_err`, 4 bytes.
    pub sk_err: u32,
    /// `struct inet_sock`: `inet_sport`, 2 bytes, in the order of the network; kept when the port
    /// is given back.
    pub inet_sport: u32,
    /// `struct tcp_sock`: `packets_out`, 4 bytes: segments that are not acknowledged, a SYN included.
    pub packets_out: u32,
    /// `struct tcp_sock`: `rcv_tstamp`, 4 bytes: jiffies at the peer's last acknowledgement.
    pub rcv_tstamp: u32,
    /// `struct inet_timewait_sock`: `tw_substate`, 1 byte.
    pub tw_substate: u32,
    /// `struct inet_connection_sock`: `icsk_accept_queue.qlen`, 4 bytes: request
    /// sockets of a listener.
    pub icsk_qlen: u32,
    /// `struct inet_connection_sock`: `icsk_accept_queue.young`, 4 bytes: those of them whose timer has not
    /// expired yet.
    pub icsk_young: u32,
    /// `struct sock_common`: `skc_listener`, a request socket's pointer to its listener.
    pub skc_listener: u32,
    /// `struct task_struct`: `stack`, a pointer.
    pub task_stack: u32,
    /// `struct task_struct`: `pid`, 4 bytes.
    pub task_pid: u32,
    /// Jiffies per second (`CONFIG_HZ`).
    pub hz: u32,
    /// 1 where the kernel's socket tables can be listed by the members below, else 0.
    pub lists_tables: u32,
    /// `struct task_struct`: `nsproxy`, a pointer.
    pub task_nsproxy: u32,
    /// `struct nsproxy`: `net_ns`, a pointer to `struct net`.
    pub nsproxy_net: u32,
    /// `struct net`: `ipv4.tcp_death_row`, or the pointer to it.
    pub net_death_row: u32,
    /// 1 where that is a pointer (5.18 to 6.0), else 0.
    pub death_row_pointer: u32,
    /// `struct inet_timewait_death_row`: `hashinfo`, a pointer.
    pub death_row_hashinfo: u32,
    /// `struct inet_timewait_death_row`: its number of timewait minisockets, 4 bytes.
    pub death_row_timewait: u32,
    /// What that number is where there are none: 1 where it counts references, else 0.
    pub death_row_none: u32,
    /// `struct inet_hashinfo`: `ehash`, a pointer.
    pub hashinfo_ehash: u32,
    /// `struct inet_hashinfo`: `ehash_mask`, 4 bytes.
    pub hashinfo_ehash_mask: u32,
    /// `struct inet_hashinfo`: `lhash2`, a pointer; before 5.19 `listening_hash`, an array.
    pub hashinfo_listeners: u32,
    /// `struct inet_hashinfo`: `lhash2_mask`, 4 bytes; unused where it is an array.
    pub hashinfo_lhash2_mask: u32,
    /// How many buckets that array has; 0 where it is a pointer.
    pub listener_array: u32,
    /// Words of 8 bytes from one bucket of listeners to the next, a power of two.
    pub listener_stride: u32,
    /// The word of a bucket of listeners that points to the first.
    pub listener_head: u32,
    /// `struct sock_common`: `skc_nulls_node`, whose first member points to the next one.
    pub skc_nulls_node: u32,
    /// `struct sock`: `sk_uid`, 4 bytes: the owner.
    pub sk_uid: u32,
}

const _: () = assert!(size_of::<KernelLayout>() == 248);
