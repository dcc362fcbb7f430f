//! Errors of a dump.

use std::io;

use netlink_packet_core::DecodeError;

/// How often a dump that the kernel calls inconsistent is tried.
pub(super) const ATTEMPTS: u32 = 4;

/// Sockets cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no sock_diag for TCP.
    #[error(
        "cannot dump sockets over sock_diag: {0}; load the kernel modules inet_diag and tcp_diag, \
         and allow AF_NETLINK to this process"
    )]
    Unsupported(io::Error),
    /// The kernel refused or failed.
    #[error(
        "cannot dump sockets over sock_diag: {0}; allow it in the security policy, or try again"
    )]
    Kernel(io::Error),
    /// What came is not what the kernel's headers promise.
    #[error("cannot read the answer of sock_diag: {0}; report it as a bug")]
    Malformed(String),
    /// The tables changed too fast.
    #[error("cannot dump sockets over sock_diag: interrupted {ATTEMPTS} times; try again")]
    Interrupted,
}

impl Error {
    /// Whether a permission is what is missing.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Kernel(error) if error.kind() == io::ErrorKind::PermissionDenied)
    }

    pub(super) fn from_errno(errno: i32) -> Self {
        let error = io::Error::from_raw_os_error(errno);
        match errno {
            // No handler or no module; no such request; no such protocol; none allowed.
            libc::ENOENT
            | libc::EINVAL
            | libc::EOPNOTSUPP
            | libc::EPROTONOSUPPORT
            | libc::EAFNOSUPPORT => Self::Unsupported(error),
            _ => Self::Kernel(error),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::from_errno(errno),
            None => Self::Kernel(error),
        }
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}
