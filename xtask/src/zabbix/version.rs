//! The releases of Zabbix that are tested.

use clap::ValueEnum;

/// A Zabbix version that Debian has packages of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Version {
    #[value(name = "6.0")]
    V6_0,
    #[value(name = "7.0")]
    V7_0,
}

impl Version {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V6_0 => "6.0",
            Self::V7_0 => "7.0",
        }
    }

    /// The suite of Debian that has it.
    pub(super) const fn suite(self) -> &'static str {
        match self {
            Self::V6_0 => "bookworm",
            Self::V7_0 => "bookworm-backports",
        }
    }
}
