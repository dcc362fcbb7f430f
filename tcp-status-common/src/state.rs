//! The eleven states, their kernel numbers, and every spelling that users have for them.

use core::{error, fmt, str::FromStr};

/// A TCP state as the `st` column of `/proc/net/tcp` has it.
///
/// The discriminants are the kernel's (`include/net/tcp_states.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Open connection.
    Established = 1,
    /// Active open, waiting for the peer.
    SynSent = 2,
    /// Half-open: request sockets and Fast Open children.
    SynRecv = 3,
    /// Closed by us, not yet acknowledged.
    FinWait1 = 4,
    /// Closed by us and acknowledged: full sockets and timewait minisockets.
    FinWait2 = 5,
    /// Timewait minisockets whose substate is `TIME_WAIT`.
    TimeWait = 6,
    /// What the kernel lists as closed: 0 at rest.
    Closed = 7,
    /// Closed by the peer, not yet by us.
    CloseWait = 8,
    /// Closed by the peer, then by us, not yet acknowledged.
    LastAck = 9,
    /// Listening.
    Listen = 10,
    /// Closed by both sides at once.
    Closing = 11,
}

/// The kernel's number of a request socket (`TCP_NEW_SYN_RECV`), listed as SYN_RECV.
pub const NEW_SYN_RECV: u8 = 12;

/// The place in the counters of timewait minisockets whose substate is FIN_WAIT2: a number that
/// is no state. Those whose substate is TIME_WAIT have that state's own place, since no full
/// socket is ever in it.
pub const MINI_FIN_WAIT2: u8 = 0;

impl State {
    /// How many states there are.
    pub const COUNT: usize = 11;

    /// All states, in the order in which outputs list them.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Closed,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
    ];

    /// The key that stands for this state everywhere: CLI, JSON, metrics, Zabbix.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "synsent",
            Self::SynRecv => "synrecv",
            Self::FinWait1 => "finwait1",
            Self::FinWait2 => "finwait2",
            Self::TimeWait => "timewait",
            Self::Closed => "closed",
            Self::CloseWait => "closewait",
            Self::LastAck => "lastack",
            Self::Listen => "listen",
            Self::Closing => "closing",
        }
    }

    /// The kernel's number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The position in [`State::ALL`], 0 to 10.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize - 1
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A number that is no TCP state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownNumber(pub u8);

impl fmt::Display for UnknownNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not the number of a tcp state", self.0)
    }
}

impl error::Error for UnknownNumber {}

impl TryFrom<u8> for State {
    type Error = UnknownNumber;

    /// From the kernel's number; request sockets count as [`State::SynRecv`].
    fn try_from(number: u8) -> Result<Self, UnknownNumber> {
        match number {
            NEW_SYN_RECV => Ok(Self::SynRecv),
            1..=11 => Ok(Self::ALL[number as usize - 1]),
            _ => Err(UnknownNumber(number)),
        }
    }
}

/// A text that names no state. Displays as the list of names that do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownState;

impl fmt::Display for UnknownState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a tcp state; use one of")?;
        for (i, state) in State::ALL.into_iter().enumerate() {
            write!(f, "{} {state}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl error::Error for UnknownState {}

/// Spellings of netstat, ss, node_exporter, Zabbix and OpenTelemetry that are
/// not just a state's name with other case or separators.
const ALIASES: [(&str, State); 5] = [
    ("estab", State::Established),
    ("synreceived", State::SynRecv),
    ("unconn", State::Closed),
    ("close", State::Closed),
    ("listening", State::Listen),
];

impl FromStr for State {
    type Err = UnknownState;

    /// Any spelling in use, whatever its case: `-`, `_` and nothing between words are the same.
    fn from_str(text: &str) -> Result<Self, UnknownState> {
        let same = |name: &str| {
            let spelled = text
                .bytes()
                .filter(|b| !matches!(b, b'-' | b'_'))
                .map(|b| b.to_ascii_lowercase());
            spelled.eq(name.bytes())
        };
        State::ALL
            .into_iter()
            .find(|state| same(state.name()))
            .or_else(|| {
                ALIASES
                    .into_iter()
                    .find(|(name, _)| same(name))
                    .map(|(_, s)| s)
            })
            .ok_or(UnknownState)
    }
}

/// An address family, in the order of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4: listed in `/proc/net/tcp`.
    V4 = 0,
    /// IPv6, v4-mapped addresses included: listed in `/proc/net/tcp6`.
    V6 = 1,
}

impl Family {
    /// How many families there are.
    pub const COUNT: usize = 2;
    /// Both families.
    pub const ALL: [Self; Self::COUNT] = [Self::V4, Self::V6];
    /// `AF_INET` and `AF_INET6`, the same on every Linux architecture.
    pub const ADDRESS_FAMILIES: [u16; Self::COUNT] = [2, 10];

    /// As users name it: 4 or 6.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    /// The position in the counters, 0 or 1.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// `AF_INET` or `AF_INET6`.
    #[must_use]
    pub const fn address_family(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// From `AF_INET` or `AF_INET6`.
    #[must_use]
    pub const fn from_address_family(af: u16) -> Option<Self> {
        match af {
            2 => Some(Self::V4),
            10 => Some(Self::V6),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Family, NEW_SYN_RECV, State};

    #[test]
    fn index_and_number_follow_the_kernel() {
        for (i, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state.index(), i);
            assert_eq!(State::try_from(state.number()), Ok(state));
        }
        assert_eq!(State::try_from(NEW_SYN_RECV), Ok(State::SynRecv));
        assert!(State::try_from(0).is_err());
        assert!(State::try_from(13).is_err());
    }

    #[test]
    fn every_spelling_in_use_is_accepted() {
        let spellings = [
            ("ESTABLISHED", State::Established),
            ("ESTAB", State::Established),
            ("SYN_SENT", State::SynSent),
            ("SYN-RECV", State::SynRecv),
            ("syn_received", State::SynRecv),
            ("FIN_WAIT1", State::FinWait1),
            ("FIN-WAIT-1", State::FinWait1),
            ("fin_wait_2", State::FinWait2),
            ("FIN_WAIT2", State::FinWait2),
            ("time_wait", State::TimeWait),
            ("TIME-WAIT", State::TimeWait),
            ("UNCONN", State::Closed),
            ("close", State::Closed),
            ("CLOSE_WAIT", State::CloseWait),
            ("last_ack", State::LastAck),
            ("LISTEN", State::Listen),
            ("closing", State::Closing),
        ];
        for (text, state) in spellings {
            assert_eq!(text.parse(), Ok(state), "{text}");
        }
        for text in [
            "",
            "-",
            "_",
            "estab lished",
            "timewait2",
            "fin",
            "0",
            "établi",
        ] {
            assert!(text.parse::<State>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_unknown_state_lists_all_eleven() {
        let text = super::UnknownState.to_string();
        for state in State::ALL {
            assert!(text.contains(state.name()));
        }
    }

    #[test]
    fn address_families_map_both_ways() {
        for family in Family::ALL {
            let af = Family::ADDRESS_FAMILIES[family.index()];
            assert_eq!(Family::from_address_family(af), Some(family));
        }
        assert_eq!(Family::from_address_family(1), None);
    }
}
