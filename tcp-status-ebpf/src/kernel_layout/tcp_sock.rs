//! What only a socket of TCP has.

use aya_ebpf::helpers::generated::bpf_jiffies64;

use super::Sock;

/// A pointer that the verifier knows as `struct tcp_sock *`: everything can be loaded directly.
#[derive(Clone, Copy)]
pub(crate) struct TcpSock(pub(crate) Sock);

impl TcpSock {
    /// The local port that it has, or had last.
    #[inline(always)]
    pub(crate) fn last_port(self) -> u16 {
        u16::from_be(self.0.read(layout!(inet_sport)))
    }

    /// Segments that the peer has not acknowledged, a SYN included.
    #[inline(always)]
    pub(crate) fn packets_out(self) -> u32 {
        self.0.read(layout!(packets_out))
    }

    /// Request sockets that wait at a listener. The kernel's number may be below zero, as above.
    #[inline(always)]
    pub(crate) fn request_count(self) -> u32 {
        self.0
            .read::<i32>(layout!(icsk_qlen))
            .max(0)
            .cast_unsigned()
    }

    /// Those of `requests` whose SYN+ACK timer has expired, as above.
    #[inline(always)]
    pub(crate) fn retransmitted(self, requests: u32) -> u32 {
        let young: i32 = self.0.read(layout!(icsk_young));
        requests.saturating_sub(young.max(0).cast_unsigned())
    }

    /// Connections that wait at a listener.
    #[inline(always)]
    pub(crate) fn accept_queue(self) -> u32 {
        self.0.read(layout!(sk_ack_backlog))
    }

    /// How many may wait.
    #[inline(always)]
    pub(crate) fn accept_queue_limit(self) -> u32 {
        self.0.read(layout!(sk_max_ack_backlog))
    }

    /// Segments and handshakes that a listener dropped.
    #[inline(always)]
    pub(crate) fn drops(self) -> u32 {
        self.0.read(layout!(sk_drops))
    }

    /// Whether a listener belongs to a group at one address.
    #[inline(always)]
    pub(crate) fn is_reuseport(self) -> bool {
        self.0.read::<u64>(layout!(sk_reuseport_cb)) != 0
    }

    /// Whole seconds since the peer's last acknowledgement.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel keeps the lower half of its jiffies"
    )]
    #[inline(always)]
    pub(crate) fn idle_seconds(self) -> u32 {
        let last: u32 = self.0.read(layout!(rcv_tstamp));
        // SAFETY: no arguments.
        let now = unsafe { bpf_jiffies64() } as u32;
        let since = now.wrapping_sub(last);
        // Acknowledged while this was read.
        if since > u32::MAX / 2 {
            return 0;
        }
        // The loader never leaves a zero; the verifier wants to be told.
        since / layout!(hz).max(1)
    }
}
