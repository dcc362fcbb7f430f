//! What is fixed about the running kernel: where it keeps what the programs read, and
//! how it runs them. Resolved from its BTF by the loader and written into read-only data
//! before load, so that the verifier sees constants. No offset is known at build time.

/// Byte offsets, named after the kernel's members, and constants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Host {
    // First what each event needs: together it is one cache line.
    /// `struct sock`: `sk_protocol`, 2 bytes.
    pub sk_protocol: u32,
    /// `struct sock_common`: `skc_family`, 2 bytes.
    pub skc_family: u32,
    /// `struct sock_common`: `skc_num`, the local port in the order of the host, 2 bytes; 0 where
    /// none is held.
    pub skc_num: u32,
    /// `struct sock_common`: `skc_net`, a pointer to `struct net`.
    pub skc_net: u32,
    /// `struct net`: `ns.inum`, 4 bytes.
    pub net_inum: u32,
    /// Size of a kernel stack in bytes (`THREAD_SIZE`).
    pub thread_size: u32,
    /// 1 where the kernel never runs a program inside itself on one CPU (from 5.11 on): then
    /// a counter of one copy has one writer per CPU and plain additions do; else 0.
    pub no_reentry: u32,
    /// 1 where the handlers are attached twice, and the second must pass over what the first saw.
    pub two_copies: u32,
    /// 1 where a task may be preempted, or moved to another CPU, between the two copies at a
    /// tracepoint.
    pub tracepoints_preemptible: u32,
    /// 1 where timewait minisockets are followed by events.
    pub timewait_events: u32,
    /// 1 where every network namespace is counted, not just the tracker's own.
    pub all_namespaces: u32,
    /// `struct sock_common`: `skc_state`, 1 byte.
    pub skc_state: u32,
    /// `struct sock_common`: `skc_rcv_saddr`, 4 bytes.
    pub skc_rcv_saddr: u32,
    /// `struct sock_common`: `skc_v6_rcv_saddr`, 16 bytes.
    pub skc_v6_rcv_saddr: u32,
    /// `struct sock`: `sk_ack_backlog`, 4 bytes.
    pub sk_ack_backlog: u32,
    /// `struct sock`: `sk_max_ack_backlog`, 4 bytes.
    pub sk_max_ack_backlog: u32,
    /// `struct sock`: `sk_reuseport_cb`, a pointer; null outside of groups.
    pub sk_reuseport_cb: u32,
    /// `struct inet_sock`: `inet_sport`, 2 bytes, in the order of the network; kept when the port
    /// is given back.
    pub inet_sport: u32,
    /// `struct tcp_sock`: `rcv_tstamp`, 4 bytes: jiffies at the peer's last acknowledgement.
    pub rcv_tstamp: u32,
    /// `struct inet_timewait_sock`: `tw_substate`, 1 byte.
    pub tw_substate: u32,
    /// `struct inet_connection_sock`: `icsk_accept_queue.qlen`, 4 bytes: request
    /// sockets of a listener.
    pub icsk_qlen: u32,
    /// `struct sock_common`: `skc_listener`, a request socket's pointer to its listener.
    pub skc_listener: u32,
    /// `struct task_struct`: `stack`, a pointer.
    pub task_stack: u32,
    /// `struct task_struct`: `pid`, 4 bytes.
    pub task_pid: u32,
    /// Jiffies per second (`CONFIG_HZ`).
    pub hz: u32,
}

const _: () = assert!(size_of::<Host>() == 100);
