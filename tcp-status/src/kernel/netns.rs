//! Network namespaces: which one this is, which one a user means, and how to work inside it.

pub mod list;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    panic,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

/// Of the calling thread; `/proc/self` would be that of the main thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// Where `ip netns add` keeps names; the second is a link to the first on most hosts.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// The longest file name.
const NAME_MAX: usize = 255;

/// A namespace that cannot be found or entered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was given cannot be a namespace.
    #[error(
        "cannot find network namespace \"{}\": {why}; give a name as of `ip netns`, \
         an inode number or a PID", .text.escape_debug()
    )]
    Text {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is no such namespace.
    #[error(
        "cannot find network namespace \"{}\": there is none with this name, inode number \
         or PID{}; see `ip netns list` and `lsns -t net`",
        .text.escape_debug(), if *.hidden { " that this user may see (root sees more)" } else { "" }
    )]
    Unknown {
        /// What was given.
        text: String,
        /// Whether there are processes whose namespace this user may not see.
        hidden: bool,
    },
    /// It is there, but cannot be opened.
    #[error("cannot open network namespace {}: {error}; run the tracker as root", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// It was destroyed meanwhile.
    #[error("cannot enter network namespace {inode}: it is gone; see `lsns -t net`")]
    Gone {
        /// Inode number that it had.
        inode: u32,
    },
    /// It is open, but cannot be entered.
    #[error(
        "cannot enter network namespace {inode}: {error}; run the tracker as root \
         (CAP_SYS_ADMIN)"
    )]
    Enter {
        /// Inode number of the namespace.
        inode: u32,
        /// What the kernel says.
        error: io::Error,
    },
}

impl Error {
    /// Whether a permission is what is missing.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            // Even root may not see every process; that alone makes no namespace exist.
            Self::Text { .. } | Self::Unknown { .. } | Self::Gone { .. } => false,
            Self::Open { error, .. } | Self::Enter { error, .. } => {
                error.kind() == io::ErrorKind::PermissionDenied
            }
        }
    }
}

/// A namespace that was found. It stays what it is, even if its name is given to another one.
#[derive(Debug)]
pub struct Target {
    file: File,
    inode: u32,
}

impl Target {
    /// Inode number of the namespace.
    #[must_use]
    pub const fn inode(&self) -> u32 {
        self.inode
    }

    /// None if the file is no namespace.
    fn open(path: &Path) -> Result<Option<Self>, Error> {
        let failed = |error| Error::Open {
            path: path.into(),
            error,
        };
        // Something else than a namespace may lie there; opening a pipe must not block.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open(path).map_err(failed)?;
        let kind = fstatfs(&file).map_err(|errno| failed(errno.into()))?;
        let inode = file.metadata().map_err(failed)?.ino();
        let is_namespace = kind.filesystem_type() == NSFS_MAGIC;
        Ok(u32::try_from(inode)
            .ok()
            .filter(|_| is_namespace)
            .map(|inode| Self { file, inode }))
    }

    /// None if there is no such file, or it is no namespace.
    fn open_if_there(path: &Path) -> Result<Option<Self>, Error> {
        match Self::open(path) {
            Err(Error::Open { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result,
        }
    }
}

/// Inode number of the calling thread's namespace.
///
/// # Errors
/// Without procfs.
pub fn own() -> io::Result<u32> {
    u32::try_from(fs::metadata(OWN)?.ino()).map_err(io::Error::other)
}

/// Brings the calling thread into a new namespace, and its `lo` up. Whether it did: without privilege, the thread
/// stays where it is.
///
/// # Errors
/// What the kernel says, but for a missing privilege.
pub fn isolate() -> io::Result<bool> {
    match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => set_loopback_up().map(|()| true),
        Err(Errno::EPERM) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// `RTM_NEWLINK` with `IFF_UP`, of the first device of a namespace.
fn set_loopback_up() -> io::Result<()> {
    const NEW_LINK: u16 = 16;
    const REQUEST_AND_ACKNOWLEDGE: u16 = 1 | 4;
    const LENGTH: u32 = 32;
    const LO: u32 = 1;
    const UP: u32 = 1;
    let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // struct nlmsghdr, struct ifinfomsg.
    let mut message = Vec::new();
    message.extend(LENGTH.to_ne_bytes());
    message.extend(NEW_LINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACKNOWLEDGE.to_ne_bytes());
    message.extend([0; 12]);
    for word in [LO, UP, UP] {
        message.extend(word.to_ne_bytes());
    }
    socket.send(&message, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    // struct nlmsgerr, after the header.
    let errno = answer.get(16..20).and_then(|bytes| bytes.try_into().ok());
    match errno.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Finds the namespace that a user names. A decimal number is a PID if `/proc/N` exists, else
/// the inode number of a namespace that has a name or a process, else a name like any other.
///
/// # Errors
/// [`Error`]; [`Error::Text`] without having touched the file system.
pub fn resolve(text: &str) -> Result<Target, Error> {
    check(text)?;
    let mut hidden = false;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let process = Path::new("/proc").join(text);
        let found = if process.exists() {
            Target::open_if_there(&process.join("ns/net"))?
        } else if let Ok(inode) = text.parse() {
            by_inode(inode, &mut hidden)?
        } else {
            None
        };
        if let Some(target) = found {
            return Ok(target);
        }
    }
    for folder in NAMED {
        if let Some(target) = Target::open_if_there(&Path::new(folder).join(text))? {
            return Ok(target);
        }
    }
    Err(Error::Unknown {
        text: text.into(),
        hidden,
    })
}

/// Refuses what could lead out of the folder of names, or is no file name.
fn check(text: &str) -> Result<(), Error> {
    let why = match text {
        "" => "it is empty",
        "." | ".." => "it is a folder",
        _ if text.contains('/') => "it has a slash",
        _ if text.contains('\0') => "it has a NUL",
        _ if text.len() > NAME_MAX => "it is longer than 255 bytes",
        _ => return Ok(()),
    };
    Err(Error::Text {
        text: text.chars().take(64).collect(),
        why,
    })
}

/// Looks through this thread, names and processes, the cheapest first.
fn by_inode(inode: u32, hidden: &mut bool) -> Result<Option<Target>, Error> {
    let named = NAMED.into_iter().flat_map(entries);
    let processes = entries("/proc")
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit())
        })
        .map(|path| path.join("ns/net"));
    for path in [PathBuf::from(OWN)]
        .into_iter()
        .chain(named)
        .chain(processes)
    {
        match fs::metadata(&path) {
            Ok(metadata) if metadata.ino() == u64::from(inode) => {
                // In between, the process may have ended or moved.
                if let Some(target) = Target::open_if_there(&path)?.filter(|t| t.inode == inode) {
                    return Ok(Some(target));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => *hidden = true,
            _ => {}
        }
    }
    Ok(None)
}

/// What lies in a folder; nothing if it cannot be read.
fn entries(folder: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.flatten().map(|entry| entry.path())
}

/// Runs `f` inside the namespace, on a thread of its own that ends with it: the calling thread
/// never leaves its namespace. Where that already is the one, `f` just runs.
///
/// # Errors
/// [`Error::Enter`]; `f` was not called then.
pub fn within<T: Send>(target: &Target, f: impl FnOnce() -> T + Send) -> Result<T, Error> {
    if own().is_ok_and(|inode| inode == target.inode) {
        return Ok(f());
    }
    let failed = |error| Error::Enter {
        inode: target.inode,
        error,
    };
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || {
                setns(&target.file, CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| failed(errno.into()))?;
                Ok(f())
            });
        worker
            .map_err(failed)?
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::{Error, own, resolve, within};

    #[test]
    fn the_own_namespace_is_found_by_pid_and_by_inode() {
        let own = own().unwrap();
        assert_eq!(resolve(&process::id().to_string()).unwrap().inode(), own);
        assert_eq!(resolve(&own.to_string()).unwrap().inode(), own);
    }

    #[test]
    fn names_that_cannot_be_are_refused_before_anything_is_opened() {
        let long = "x".repeat(256);
        for text in ["", ".", "..", "/", "../x", "a/b", "a\0b", &long] {
            let error = resolve(text).unwrap_err();
            assert!(matches!(error, Error::Text { .. }), "{text:?}: {error}");
            assert!(!error.is_permission());
            let line = error.to_string();
            assert!(!line.contains(['\n', '\0']) && line.len() < 250, "{line}");
        }
    }

    #[test]
    fn a_namespace_that_is_not_there_is_unknown() {
        let number = u64::MAX.to_string();
        for text in [
            "no-such-namespace",
            "4294967295",
            "99999999999",
            &number,
            "\u{1b}[2J",
        ] {
            let error = resolve(text).unwrap_err();
            assert!(matches!(error, Error::Unknown { .. }), "{text:?}: {error}");
            assert!(!error.to_string().contains('\u{1b}'));
        }
    }

    #[test]
    fn work_in_the_own_namespace_needs_no_privilege() {
        let target = resolve(&process::id().to_string()).unwrap();
        assert_eq!(within(&target, || own().unwrap()).unwrap(), target.inode());
    }
}
