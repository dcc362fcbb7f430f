//! The socket's place in the file system: made so that there is no moment with wrong
//! permissions, and taken away without a trace. Does not know what is said over it.

mod entry;
mod taking;

use std::{
    ffi::OsString,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, net::UnixListener},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::AtFlags,
    sys::stat::fstatat,
    unistd::{UnlinkatFlags, unlinkat},
};

use entry::{Identity, remove};

/// The longest path of a socket, in bytes (`sun_path` without its final NUL).
pub const MAX_PATH: usize = 107;

/// The socket cannot be put where it should be.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// No socket can have this path, whatever the host.
    #[error("bind, on socket {path:?}: {why}")]
    BadPath {
        /// As given.
        path: PathBuf,
        /// Why, and what to do.
        why: BadPath,
    },
    /// Something that is no socket lies there.
    #[error(
        "bind, on socket {0:?}: a file that is no socket is in the way; remove it or choose another --socket"
    )]
    NotASocket(PathBuf),
    /// Another tracker serves there.
    #[error(
        "bind, on socket {0:?}: another tracker answers there; stop it or choose another --socket"
    )]
    InUse(PathBuf),
    /// No such group.
    #[error("bind, on group {0:?}: no such group; create it with: groupadd --system {0}")]
    UnknownGroup(String),
    /// The kernel refuses a step.
    #[error("{step}, on {path:?}: {errno}; {cure}")]
    System {
        /// What was to be done.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel says.
        errno: Errno,
        /// What to do.
        cure: &'static str,
    },
}

/// Who may connect.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// Name of the group that the socket belongs to; the tracker's own without one.
    pub group: Option<&'a str>,
    /// Permission bits, at most 0o777.
    pub mode: u32,
}

/// A socket's entry in a directory. Dropping it removes the entry, and the directory if it was
/// made for it and nothing else is in it.
#[derive(Debug)]
pub struct Place {
    directory: OwnedFd,
    name: OsString,
    /// Device and inode: only this very socket is removed.
    identity: Identity,
    /// Parent and name of the directory, if it was made.
    made: Option<(OwnedFd, OsString)>,
}

impl Place {
    /// Puts a listening socket at `path`.
    ///
    /// # Errors
    /// [`PlaceError`]; nothing is left behind then.
    pub fn take(path: &Path, access: Access<'_>) -> Result<(Self, UnixListener), PlaceError> {
        taking::take(path, access)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let found = fstatat(
            &self.directory,
            self.name.as_os_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        );
        if found.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.identity)
            && let Err(errno) = remove(&self.directory, &self.name)
        {
            log::warn!(error:% = errno; "the socket could not be removed");
        }
        if let Some((parent, name)) = &self.made {
            // Not empty: somebody else uses it, and it is theirs now.
            let _: Result<(), Errno> = unlinkat(parent, name.as_os_str(), UnlinkatFlags::RemoveDir);
        }
    }
}

/// What no socket's path can be; displays as why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPath(String);

/// Refuses what can be no socket's path, on any host.
///
/// # Errors
/// [`BadPath`].
pub fn check(path: &Path) -> Result<(), BadPath> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        Err(BadPath("empty; name a file".into()))
    } else if bytes.contains(&0) {
        Err(BadPath("contains a NUL byte; name a file".into()))
    } else if bytes.len() > MAX_PATH {
        Err(BadPath(format!(
            "{} bytes long, at most {MAX_PATH} fit; use a shorter path",
            bytes.len()
        )))
    } else if path.file_name().is_none() {
        Err(BadPath("a directory, not a file; name a file in it".into()))
    } else {
        Ok(())
    }
}
