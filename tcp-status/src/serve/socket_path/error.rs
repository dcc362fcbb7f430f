//! Errors of binding a socket path.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

/// A step that the kernel may refuse.
pub(super) const CREATE_DIRECTORY: &str = "create the directory of";

/// The socket cannot be put where it should be.
#[derive(Debug, thiserror::Error)]
pub enum SocketPathError {
    /// No socket can have this path, whatever the host.
    #[error("cannot bind {path:?}: {why}")]
    BadPath {
        /// As given.
        path: PathBuf,
        /// Why, and what to do.
        why: BadPath,
    },
    /// A file that is no socket has this path.
    #[error("cannot bind {}: a file that is no socket is in the way; remove it or pass another --socket", .0.display())]
    NotASocket(PathBuf),
    /// Another process serves there.
    #[error("cannot bind {}: in use by {by}; stop it or pass another --socket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
        /// Who serves, as far as known.
        by: String,
    },
    /// No such group.
    #[error("cannot bind the socket for group {0:?}: no such group; run groupadd --system {0}")]
    UnknownGroup(String),
    /// The kernel refuses a step.
    #[error("cannot {step} {}: {source}; {hint}", path.display())]
    System {
        /// What was to be done.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
}

/// What no socket's path can be; displays as why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPath(pub(super) String);

pub(super) fn in_use(path: &Path, by: &str) -> SocketPathError {
    SocketPathError::InUse {
        path: path.to_owned(),
        by: by.into(),
    }
}

pub(super) fn system_error(step: &'static str, path: &Path, source: io::Error) -> SocketPathError {
    let hint = match source.kind() {
        ErrorKind::NotFound if step == CREATE_DIRECTORY => "create its parent directory first",
        ErrorKind::PermissionDenied => {
            "run as root, or pass a --socket and a group that this user may use"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "make room there, or pass another --socket"
        }
        // The C library may change a mode by way of it.
        ErrorKind::Unsupported if !Path::new("/proc/self").exists() => "mount /proc",
        _ => "pass another --socket",
    };
    SocketPathError::System {
        step,
        path: path.to_owned(),
        source,
        hint,
    }
}
