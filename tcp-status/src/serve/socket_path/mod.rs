//! The socket's file: it has its permissions before anybody can connect, belongs to one tracker at
//! a time, and is removed at the end. Does not know what is said over it.

mod error;
mod lock;

pub use error::{BadPath, SocketPathError};

use std::{
    fs,
    io::ErrorKind,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{FileTypeExt as _, MetadataExt as _, lchown},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::AT_FDCWD,
    sys::{
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt,
            listen, socket, sockopt::PeerCredentials,
        },
        stat::{FchmodatFlags, Mode, fchmodat},
    },
    unistd::Group,
};

use error::{in_use, system_error};
use lock::{Lock, directory};

/// The longest path of a socket, in bytes (`sun_path` without its final NUL).
pub const MAX_PATH: usize = 107;

/// Clients that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// Who may connect.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// Name of the group that the socket belongs to; the tracker's own without one.
    pub group: Option<&'a str>,
    /// Permission bits, at most 0o777.
    pub mode: u32,
}

/// A socket's file. Dropping it [removes](SocketFile::remove) it.
#[derive(Debug)]
pub struct SocketPath(SocketFile);

/// What is removed at the end.
#[derive(Clone, Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: only this very socket is removed.
    identity: (u64, u64),
    created_directory: bool,
}

impl SocketPath {
    /// Puts a listening socket at `path`.
    ///
    /// # Errors
    /// [`SocketPathError`]; nothing is left behind then.
    pub fn bind(path: &Path, access: Access<'_>) -> Result<(Self, UnixListener), SocketPathError> {
        check(path).map_err(|why| SocketPathError::BadPath {
            path: path.to_owned(),
            why,
        })?;
        let group = access.group.map(group).transpose()?;
        let lock = Lock::acquire(path)?;
        remove_stale(path)?;
        let listener = listen_at(path, group, access.mode)?;
        let metadata = path
            .symlink_metadata()
            .map_err(|error| system_error("bind", path, error))?;
        let file = SocketFile {
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            created_directory: lock.keep_directory(),
        };
        Ok((Self(file), listener))
    }

    /// What dropping it removes.
    #[must_use]
    pub const fn file(&self) -> &SocketFile {
        &self.0
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        self.0.remove();
    }
}

impl SocketFile {
    /// Removes the file, and the directory if it was created for it and nothing else is in it.
    pub fn remove(&self) {
        let found = self.path.symlink_metadata();
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!(error:%; "cannot remove the socket");
        }
        if self.created_directory {
            // Not empty: somebody else uses it, and it is theirs now.
            drop(fs::remove_dir(directory(&self.path)));
        }
    }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), SocketPathError> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system_error("stat", path, error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketPathError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let system_error = |errno: Errno| system_error("connect to", path, errno.into());
    let client = stream(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK).map_err(system_error)?;
    match connect(
        client.as_raw_fd(),
        &UnixAddr::new(path).map_err(system_error)?,
    ) {
        Ok(()) => Err(match getsockopt(&client, PeerCredentials) {
            Ok(peer) => in_use(path, &format!("another tracker (pid {})", peer.pid())),
            Err(_) => in_use(path, "another tracker"),
        }),
        Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Err(in_use(path, "another process")),
        Err(Errno::ECONNREFUSED) => {
            fs::remove_file(path).map_err(|error| self::system_error("remove", path, error))
        }
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(system_error(errno)),
    }
}

/// A socket that listens at `path`. Nobody can connect before it has its group and its mode.
fn listen_at(path: &Path, group: Option<u32>, mode: u32) -> Result<UnixListener, SocketPathError> {
    let system_error = |step, errno: Errno| system_error(step, path, errno.into());
    let bound = |errno| system_error("bind", errno);
    let socket = stream(SockFlag::SOCK_CLOEXEC).map_err(bound)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path).map_err(bound)?).map_err(bound)?;
    let mode = Mode::from_bits_truncate(mode & 0o777);
    let listening = lchown(path, None, group)
        .map_err(|error| self::system_error("set the group of", path, error))
        .and_then(|()| {
            fchmodat(AT_FDCWD, path, mode, FchmodatFlags::NoFollowSymlink)
                .map_err(|errno| system_error("set the mode of", errno))
        })
        .and_then(|()| {
            let backlog = Backlog::new(BACKLOG).map_err(bound)?;
            listen(&socket, backlog).map_err(|errno| system_error("listen on", errno))
        });
    if listening.is_err() {
        drop(fs::remove_file(path));
    }
    listening.map(|()| UnixListener::from(socket))
}

fn stream(flags: SockFlag) -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// A group by name, or by number.
fn group(name: &str) -> Result<u32, SocketPathError> {
    if let Ok(Some(group)) = Group::from_name(name) {
        return Ok(group.gid.as_raw());
    }
    let number = name.parse().ok();
    number.ok_or_else(|| SocketPathError::UnknownGroup(name.into()))
}

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
