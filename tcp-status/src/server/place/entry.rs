//! Entries of an open directory: the calls that no library has in this form.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, open, openat},
    libc,
    sys::{
        socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
        stat::{FileStat, Mode, fstat, fstatat},
    },
    unistd::{UnlinkatFlags, unlinkat},
};

/// Device and inode.
pub(super) type Identity = (libc::dev_t, libc::ino_t);

pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    open(
        path,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

pub(super) fn open_below(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

pub(super) fn remove(directory: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    unlinkat(directory, name, UnlinkatFlags::NoRemoveDir)
}

pub(super) fn stream(flags: SockFlag) -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// The address of a socket in an open directory: there is no `bindat`, and the path with a
/// temporary name may not fit into `sun_path` where the final one does.
pub(super) fn address(directory: impl AsFd, name: &OsStr) -> Result<UnixAddr, Errno> {
    UnixAddr::new(&by_descriptor(directory).join(name))
}

/// Whether somebody listens. By way of the open file: no symlink, no length.
pub(super) fn knock(directory: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let there = openat(directory, name, flags, Mode::empty())?;
    let socket = stream(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(&by_descriptor(&there))?)
}

fn by_descriptor(fd: impl AsFd) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.as_fd().as_raw_fd().to_string())
}

pub(super) fn is_socket(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFSOCK
}

/// Whether a lock file is still the one that others would open.
pub(super) fn is_linked(file: &File, directory: &OwnedFd, name: &OsStr) -> bool {
    let here = fstat(file).map(|stat| (stat.st_dev, stat.st_ino));
    let there = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    here.is_ok() && here == there.map(|stat| (stat.st_dev, stat.st_ino))
}

/// A hidden name that belongs to `name`.
pub(super) fn suffixed(name: &OsStr, suffix: &str) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(suffix);
    hidden
}

/// A suffix that no other tracker uses now.
pub(super) fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        ".{}-{}",
        process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}
