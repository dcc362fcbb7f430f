//! The lock file beside a socket, held while a tracker takes the path: so that no other one takes
//! the socket for stale between `bind` and `listen`.
//!
//! A missing directory is created with the lock file in it: of several trackers that start at once,
//! the one that created the directory serves there, and so the one that removes it.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::error::{CREATE_DIRECTORY, SocketPathError, in_use, system_error};

/// How long another tracker may take to start on the same path.
const PATIENCE: Duration = Duration::from_secs(2);

/// Permissions of the socket's directory: clients have to get through it.
const DIRECTORY_MODE: u32 = 0o755;

/// A lock file, locked. Dropping it removes the file, and the directory if it was created for it.
/// Only the tracker's own user can open it: nobody else can hold a tracker up.
pub(super) struct Lock {
    path: PathBuf,
    created_directory: bool,
    _file: File,
}

impl Lock {
    pub(super) fn acquire(socket: &Path) -> Result<Self, SocketPathError> {
        let directory = directory(socket);
        let mut name = OsString::from(".");
        name.push(socket.file_name().unwrap_or_default());
        name.push(".lock");
        let path = directory.join(name);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let created_directory = !directory.exists();
            let (step, locked) = if created_directory {
                (CREATE_DIRECTORY, create_directory(directory, &path))
            } else {
                ("lock", lock(&path))
            };
            match locked {
                Ok(Some(file)) => {
                    return Ok(Self {
                        path,
                        created_directory,
                        _file: file,
                    });
                }
                Ok(None) => {}
                // The directory went in the meantime.
                Err(_) if !created_directory && !directory.exists() => {}
                Err(error) => return Err(system_error(step, socket, error)),
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(in_use(socket, "another tracker that starts"))
    }

    /// Leaves the directory to the caller. Whether it was created.
    pub(super) fn keep_directory(mut self) -> bool {
        std::mem::take(&mut self.created_directory)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is locked: whoever has opened it finds that it was removed.
        drop(fs::remove_file(&self.path));
        if self.created_directory {
            drop(fs::remove_dir(directory(&self.path)));
        }
    }
}

/// None while another tracker holds the lock.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    match file.try_lock() {
        // Another tracker may have removed it after it was opened.
        Ok(()) => Ok((file.metadata()?.nlink() > 0).then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// None if another process was faster.
fn create_directory(directory: &Path, lock_file: &Path) -> io::Result<Option<File>> {
    let parent = directory.parent().unwrap_or(Path::new(""));
    let temporary = tempfile::Builder::new()
        .prefix(".tcp-status-")
        .tempdir_in(or_here(parent))?;
    let Some(name) = lock_file.file_name() else {
        return Ok(None);
    };
    let file = lock(&temporary.path().join(name))?;
    // Not by mkdir, which obeys the umask.
    fs::set_permissions(temporary.path(), Permissions::from_mode(DIRECTORY_MODE))?;
    match fs::rename(temporary.path(), directory) {
        Ok(()) => {
            // It has another name now: there is nothing to remove.
            let _: PathBuf = temporary.keep();
            Ok(file)
        }
        Err(error) => match error.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

/// The directory of a file.
pub(super) fn directory(file: &Path) -> &Path {
    or_here(file.parent().unwrap_or(Path::new("/")))
}

fn or_here(directory: &Path) -> &Path {
    if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    }
}
