//! How a place is taken, step by step, and what is undone when a step fails.
//!
//! The socket gets its group and mode under a temporary name, listens, and is then renamed to
//! its final one. Where the directory is missing as well, it is prepared in the same way with the
//! socket already in it: of several trackers that start at once, the one that made the directory
//! is then always the one that serves there, and so the one that removes it.

use std::{
    ffi::OsStr,
    fs::{File, TryLockError},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, renameat},
    sys::{
        socket::{Backlog, SockFlag, bind, listen},
        stat::{FchmodatFlags, Mode, fchmodat, fstatat, mkdirat},
    },
    unistd::{Gid, Group, UnlinkatFlags, fchownat, unlinkat},
};

use super::{
    Access, Place, PlaceError, check,
    entry::{
        Identity, address, is_linked, is_socket, knock, open_below, open_directory, remove, stream,
        suffixed, unique,
    },
};

/// Clients that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// How long another tracker may take to start on the same path.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// The directory of the socket: clients have to get through it.
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

/// What is said where the socket itself cannot be made.
const BIND: &str = "bind";

type Taken = (Place, UnixListener);

/// See [`Place::take`].
pub(super) fn take(path: &Path, access: Access<'_>) -> Result<Taken, PlaceError> {
    let taking = Taking::new(path, access)?;
    loop {
        let taken = match open_directory(taking.directory) {
            Ok(directory) => taking.in_directory(directory)?,
            Err(Errno::ENOENT) => taking.with_directory()?,
            Err(errno) => return Err(taking.refused("open directory", errno)),
        };
        // None: the directory came or went in the meantime.
        if let Some(taken) = taken {
            return Ok(taken);
        }
    }
}

/// What is asked for, checked.
struct Taking<'a> {
    path: &'a Path,
    directory: &'a Path,
    name: &'a OsStr,
    group: Option<Gid>,
    mode: Mode,
}

impl<'a> Taking<'a> {
    fn new(path: &'a Path, access: Access<'_>) -> Result<Self, PlaceError> {
        let bad = |why| PlaceError::BadPath {
            path: path.to_owned(),
            why,
        };
        check(path).map_err(bad)?;
        // Both are there: that is part of the check.
        let directory = path.parent().unwrap_or(Path::new("/"));
        let name = path.file_name().unwrap_or_default();
        Ok(Self {
            path,
            directory: or_here(directory),
            name,
            group: access.group.map(group).transpose()?,
            mode: Mode::from_bits_truncate(access.mode & 0o777),
        })
    }

    /// The directory is there: other trackers may be in it, or come at the same time.
    fn in_directory(&self, directory: OwnedFd) -> Result<Option<Taken>, PlaceError> {
        let lock_name = suffixed(self.name, ".lock");
        let Some(lock) = self.lock(&directory, &lock_name)? else {
            return Ok(None);
        };
        let taken = self.replace(directory.as_fd());
        let _: Result<(), Errno> = remove(&directory, &lock_name);
        drop(lock);
        let (listener, identity) = taken?;
        let name = self.name.to_owned();
        Ok(Some((
            Place {
                directory,
                name,
                identity,
                made: None,
            },
            listener,
        )))
    }

    /// The directory is missing: it appears with the socket in it, or not at all.
    fn with_directory(&self) -> Result<Option<Taken>, PlaceError> {
        let (Some(parent), Some(leaf)) = (self.directory.parent(), self.directory.file_name())
        else {
            return Err(self.refused("open directory", Errno::ENOENT));
        };
        let parent = open_directory(or_here(parent))
            .map_err(|errno| self.refused("create directory", errno))?;
        let temporary = suffixed(leaf, &unique());
        mkdirat(&parent, temporary.as_os_str(), Mode::S_IRWXU)
            .map_err(|errno| self.refused("create directory", errno))?;
        let taken = self.fill(&parent, &temporary, leaf);
        if !matches!(taken, Ok(Some(_))) {
            if let Ok(directory) = open_below(&parent, &temporary) {
                let _: Result<(), Errno> = remove(&directory, self.name);
            }
            let _: Result<(), Errno> =
                unlinkat(&parent, temporary.as_os_str(), UnlinkatFlags::RemoveDir);
        }
        let Some((directory, listener, identity)) = taken? else {
            return Ok(None);
        };
        let name = self.name.to_owned();
        let made = Some((parent, leaf.to_owned()));
        Ok(Some((
            Place {
                directory,
                name,
                identity,
                made,
            },
            listener,
        )))
    }

    /// Puts the socket into the new directory, and the directory into its place.
    fn fill(
        &self,
        parent: &OwnedFd,
        temporary: &OsStr,
        leaf: &OsStr,
    ) -> Result<Option<(OwnedFd, UnixListener, Identity)>, PlaceError> {
        let refused = |errno| self.refused("create directory", errno);
        let directory = open_below(parent, temporary).map_err(refused)?;
        let (listener, identity) = self.put(directory.as_fd())?;
        // Not by mkdirat, which obeys the umask.
        fchmodat(
            parent,
            temporary,
            DIRECTORY_MODE,
            FchmodatFlags::NoFollowSymlink,
        )
        .map_err(refused)?;
        match renameat(parent, temporary, parent, leaf) {
            Ok(()) => Ok(Some((directory, listener, identity))),
            // Somebody was faster.
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(refused(errno)),
        }
    }

    /// Puts a new socket where nothing is, or a socket that nobody listens on.
    fn replace(&self, directory: impl AsFd + Copy) -> Result<(UnixListener, Identity), PlaceError> {
        match fstatat(directory, self.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(self.refused("look at socket", errno)),
            Ok(stat) if !is_socket(&stat) => {
                return Err(PlaceError::NotASocket(self.path.to_owned()));
            }
            Ok(_) => match knock(directory, self.name) {
                Err(Errno::ECONNREFUSED | Errno::ENOENT) => {}
                Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => {
                    return Err(PlaceError::InUse(self.path.to_owned()));
                }
                Err(errno) => return Err(self.refused("look at socket", errno)),
            },
        }
        self.put(directory)
    }

    /// Makes the socket under a temporary name and renames it to its own.
    fn put(&self, directory: impl AsFd + Copy) -> Result<(UnixListener, Identity), PlaceError> {
        // Short, whatever the final name: see `address`.
        let temporary = suffixed(OsStr::new("tcp-status"), &unique());
        let made = self.make(directory, &temporary).and_then(|made| {
            renameat(directory, temporary.as_os_str(), directory, self.name)
                .map_err(|errno| self.refused("rename socket", errno))?;
            Ok(made)
        });
        if made.is_err() {
            let _: Result<(), Errno> = remove(directory, &temporary);
        }
        made
    }

    /// Makes a socket that listens, with its group and mode.
    fn make(
        &self,
        directory: impl AsFd + Copy,
        name: &OsStr,
    ) -> Result<(UnixListener, Identity), PlaceError> {
        let refused = |errno| self.refused(BIND, errno);
        let socket = stream(SockFlag::SOCK_CLOEXEC).map_err(refused)?;
        let address = address(directory, name).map_err(refused)?;
        bind(socket.as_raw_fd(), &address).map_err(refused)?;
        // Nobody can connect before it listens.
        fchownat(
            directory,
            name,
            None,
            self.group,
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .map_err(|errno| self.refused("set group of socket", errno))?;
        fchmodat(directory, name, self.mode, FchmodatFlags::NoFollowSymlink)
            .map_err(|errno| self.refused("set mode of socket", errno))?;
        let backlog = Backlog::new(BACKLOG).map_err(refused)?;
        listen(&socket, backlog).map_err(refused)?;
        let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(refused)?;
        Ok((UnixListener::from(socket), (stat.st_dev, stat.st_ino)))
    }

    /// Keeps others from starting on this path for as long as the file is open and linked. Only
    /// the tracker's own user can open it: nobody else can hold a tracker up. None: the directory
    /// is gone.
    fn lock(&self, directory: &OwnedFd, name: &OsStr) -> Result<Option<File>, PlaceError> {
        let refused = |errno| self.refused("lock", errno);
        let deadline = Instant::now() + LOCK_PATIENCE;
        let flags = OFlag::O_CREAT | OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        loop {
            let file = match openat(directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
                Ok(file) => File::from(file),
                Err(Errno::ENOENT) => return Ok(None),
                Err(errno) => return Err(refused(errno)),
            };
            match file.try_lock() {
                Ok(()) if is_linked(&file, directory, name) => return Ok(Some(file)),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(refused(
                        error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
                    ));
                }
            }
            if Instant::now() >= deadline {
                return Err(PlaceError::InUse(self.path.to_owned()));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn refused(&self, step: &'static str, errno: Errno) -> PlaceError {
        let (path, cure) = match errno {
            // Sockets in an open directory are reached by way of it.
            Errno::ENOENT if step == BIND && !Path::new("/proc/self/fd").exists() => {
                (self.path, "mount /proc")
            }
            Errno::ENOENT => (self.directory, "create its parent directory first"),
            Errno::EACCES | Errno::EPERM => (
                self.path,
                "run as root, or choose a --socket and a group that this user may use",
            ),
            Errno::ENOSPC | Errno::EDQUOT => {
                (self.path, "make room there, or choose another --socket")
            }
            _ => (self.path, "choose another --socket"),
        };
        PlaceError::System {
            step,
            path: path.to_owned(),
            errno,
            cure,
        }
    }
}

/// A group by name, or by number.
fn group(name: &str) -> Result<Gid, PlaceError> {
    if let Ok(Some(group)) = Group::from_name(name) {
        return Ok(group.gid);
    }
    let number = name.parse().ok().map(Gid::from_raw);
    number.ok_or_else(|| PlaceError::UnknownGroup(name.into()))
}

fn or_here(directory: &Path) -> &Path {
    if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    }
}
