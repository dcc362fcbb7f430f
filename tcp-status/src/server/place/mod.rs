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
        why: String,
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

/// # Errors
/// [`PlaceError::BadPath`].
pub fn check(path: &Path) -> Result<(), PlaceError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err(bad(path, "empty; name a file".into()));
    }
    if bytes.contains(&0) {
        return Err(bad(path, "contains a NUL byte; name a file".into()));
    }
    if bytes.len() > MAX_PATH {
        let why = format!(
            "{} bytes long, at most {MAX_PATH} fit; use a shorter path",
            bytes.len()
        );
        return Err(bad(path, why));
    }
    Ok(())
}

fn bad(path: &Path, why: String) -> PlaceError {
    PlaceError::BadPath {
        path: path.to_owned(),
        why,
    }
}
