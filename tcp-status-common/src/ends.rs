//! Why a connection was not made, and how one ended: what the kernel's error of a socket says when
//! it closes.

use crate::state::State;

/// What closed a full socket that was not listening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EndReason {
    /// `connect()`: the peer answered with a reset.
    Refused = 0,
    /// `connect()`: reset in another way; Linux says "refused" of a reset that answers a SYN.
    ConnectReset,
    /// `connect()`: no answer.
    ConnectTimedOut,
    /// `connect()`: a router, a firewall or the peer's host reported that it cannot be reached.
    Unreachable,
    /// `connect()`: given up by this side.
    Aborted,
    /// `connect()`: any other error.
    ConnectOther,
    /// `connect()`: every local port that it may choose is in use.
    NoLocalPort,
    /// A connection that both sides closed, or one did and the other was silent.
    Closed,
    /// A connection that the peer reset.
    ResetByPeer,
    /// A connection that this side reset: `SO_LINGER` of 0, unread data, an accept queue that was
    /// closed, or whoever destroyed it.
    ResetLocally,
    /// A connection whose peer no longer answered.
    TimedOut,
}

/// How many reasons there are.
pub const END_REASONS: usize = 11;

/// The first reason of a connection that ended; those before it are of connects that failed.
pub const FIRST_CONNECTION_END: usize = EndReason::Closed as usize;

/// How many reasons a connection may end for.
pub const CONNECTION_END_REASONS: usize = END_REASONS - FIRST_CONNECTION_END;

/// How many connections ended for each of these.
pub type ConnectionEndCounts = [u32; CONNECTION_END_REASONS];

/// How many full sockets were closed for each [`EndReason`].
pub type EndCounts = [u64; END_REASONS];

/// Errors of Linux, on all of its architectures but MIPS, PA-RISC, Alpha and SPARC.
const EACCES: u32 = 13;
const EPIPE: u32 = 32;
const ENONET: u32 = 64;
const ENETDOWN: u32 = 100;
const ENETUNREACH: u32 = 101;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;
const EHOSTDOWN: u32 = 112;
const EHOSTUNREACH: u32 = 113;

impl EndReason {
    /// Of a socket that was in state `from`, a number of the kernel, with its error (`sk_err`) and
    /// its local port. None if it was no connection.
    #[must_use]
    #[inline(always)]
    pub const fn of(from: u32, error: u32, local_port: u32) -> Option<Self> {
        const SYN_SENT: u32 = State::SynSent.number() as u32;
        const LISTEN: u32 = State::Listen.number() as u32;
        const CLOSE: u32 = State::Closed.number() as u32;
        if from == SYN_SENT {
            return Some(Self::of_connect(error, local_port));
        }
        if from == LISTEN || from == CLOSE {
            return None;
        }
        Some(match error {
            0 if is_open(from) => Self::ResetLocally,
            0 => Self::Closed,
            ECONNABORTED => Self::ResetLocally,
            ECONNRESET | EPIPE | ECONNREFUSED => Self::ResetByPeer,
            _ => Self::TimedOut,
        })
    }

    #[inline(always)]
    const fn of_connect(error: u32, local_port: u32) -> Self {
        match error {
            0 if local_port == 0 => Self::NoLocalPort,
            0 | ECONNABORTED => Self::Aborted,
            ECONNREFUSED => Self::Refused,
            ECONNRESET => Self::ConnectReset,
            ETIMEDOUT => Self::ConnectTimedOut,
            EACCES | ENONET | ENETDOWN | ENETUNREACH | EHOSTDOWN | EHOSTUNREACH => {
                Self::Unreachable
            }
            _ => Self::ConnectOther,
        }
    }
}

/// Whether closing a connection in this state without an error resets it: this side has not ended it in order,
/// or its end has not arrived.
#[inline(always)]
const fn is_open(state: u32) -> bool {
    state == State::Established.number() as u32
        || state == State::SynRecv.number() as u32
        || state == State::FinWait1.number() as u32
        || state == State::CloseWait.number() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn number(state: State) -> u32 {
        state.number() as u32
    }

    #[test]
    fn an_error_says_why_a_connect_failed() {
        let of = |error, port| EndReason::of(number(State::SynSent), error, port).unwrap();
        assert_eq!(of(ECONNREFUSED, 40_000), EndReason::Refused);
        assert_eq!(of(ETIMEDOUT, 40_000), EndReason::ConnectTimedOut);
        assert_eq!(of(EHOSTUNREACH, 40_000), EndReason::Unreachable);
        assert_eq!(of(0, 40_000), EndReason::Aborted);
        assert_eq!(of(EACCES, 40_000), EndReason::Unreachable);
        assert_eq!(of(0, 0), EndReason::NoLocalPort);
        assert_eq!(of(1, 40_000), EndReason::ConnectOther);
    }

    #[test]
    fn an_idle_close_is_no_failure() {
        let of = |from, error| EndReason::of(number(from), error, 80);
        for from in [State::LastAck, State::FinWait2, State::Closing] {
            assert_eq!(of(from, 0), Some(EndReason::Closed));
        }
        for from in [State::Established, State::CloseWait, State::FinWait1] {
            assert_eq!(of(from, 0), Some(EndReason::ResetLocally));
        }
        assert_eq!(
            of(State::Established, ECONNRESET),
            Some(EndReason::ResetByPeer)
        );
        assert_eq!(of(State::CloseWait, EPIPE), Some(EndReason::ResetByPeer));
        assert_eq!(of(State::Established, ETIMEDOUT), Some(EndReason::TimedOut));
        assert_eq!(of(State::Listen, 0), None);
    }
}
