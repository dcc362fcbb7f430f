//! A fresh network namespace for one test, with `lo` up, and its sysctls.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    panic, thread,
};

use nix::sched::{CloneFlags, setns, unshare};

use crate::{context, skip_unprepared, sys};

/// The namespace of the calling thread; `/proc/self` would be the main thread's.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace; lives as long as this value, its threads and its processes do.
#[derive(Debug)]
pub struct Netns {
    file: File,
    inode: u64,
}

impl Netns {
    /// Makes a namespace and brings up its `lo`. The calling thread stays where it is. What ends a
    /// TIME_WAIT is its time or a new connection: on a machine that stalls for 200 ms a FIN is sent
    /// again, and the answer to the answer is a reset (RFC 1337).
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_SYS_ADMIN (a test then calls [`skip_unprepared`]), and what
    /// else the kernel says.
    pub fn new() -> io::Result<Self> {
        let made = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
                context(
                    "new network namespace, for this process (needs CAP_SYS_ADMIN; run as root)",
                    &errno.into(),
                )
            })?;
            sys::set_loopback(true).map_err(|error| context("set up, on device lo", &error))?;
            set_sysctl("ipv4/tcp_rfc1337", "1")?;
            File::open(OWN).map_err(|error| context(OWN, &error))
        });
        let file = made?;
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode })
    }

    /// As [`Netns::new`], for a test: without privilege says so, and gives nothing.
    ///
    /// # Panics
    /// When it fails for any other reason.
    #[must_use]
    pub fn for_test() -> Option<Self> {
        match Self::new() {
            Ok(netns) => Some(netns),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                skip_unprepared(&error.to_string());
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The namespace's number, as in `readlink /proc/PID/ns/net`.
    #[must_use]
    pub const fn inode(&self) -> u64 {
        self.inode
    }

    /// The namespace itself, for `setns`.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Runs `work` on a new thread inside the namespace. Threads and processes that it starts
    /// are inside as well. A panic in `work` goes on in the caller.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Brings the calling thread into the namespace for good; the process follows only when it
    /// is its main thread, before any other.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter(&self) -> io::Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| context("enter, on a network namespace", &errno.into()))
    }
}

fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|payload| panic::resume_unwind(payload))
}

/// Takes down `lo` of the calling thread's namespace: nothing that its sockets send arrives.
///
/// # Errors
/// What the kernel says; `PermissionDenied` without CAP_NET_ADMIN.
pub fn cut_off() -> io::Result<()> {
    sys::set_loopback(false).map_err(|error| context("take down, on device lo", &error))
}

/// Lets the calling thread's namespace take and send data in a SYN without a cookie.
///
/// # Errors
/// As [`set_sysctl`].
pub fn allow_fast_open() -> io::Result<()> {
    // tcp_fastopen: client, server, client without cookie, server without cookie.
    let bits = 0x1 | 0x2 | 0x4 | 0x200;
    set_sysctl("ipv4/tcp_fastopen", &bits.to_string())
}

/// Writes `/proc/sys/net/NAME` of the calling thread's namespace, for example
/// `ipv4/tcp_fin_timeout`: the kernel resolves `/proc/sys/net` by the task that opens it.
///
/// # Errors
/// What opening or writing says, with the name of the file.
pub fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).map_err(|error| context(&format!("{path} = {value}"), &error))
}

/// Reads `/proc/sys/net/NAME` of the calling thread's namespace.
///
/// # Errors
/// What opening or reading says, with the name of the file.
pub fn sysctl(name: &str) -> io::Result<String> {
    let path = format!("/proc/sys/net/{name}");
    let text = fs::read_to_string(&path).map_err(|error| context(&path, &error))?;
    Ok(text.trim_end().to_owned())
}
