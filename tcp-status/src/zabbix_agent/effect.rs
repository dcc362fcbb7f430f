//! Carries a change out: whole or not at all.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::CONFIGURATION;

/// Everybody may read it: it holds no secret, and the agent is an ordinary user.
const MODE: u32 = 0o644;

/// A file could not be changed; it is as before.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path:?}: {error}; run it as root")]
pub struct EffectError {
    what: &'static str,
    path: PathBuf,
    error: io::Error,
}

/// Puts the configuration into its place, over whatever file is there. The agent finds the old
/// one or the new one, and never a part.
///
/// # Errors
/// [`EffectError`].
pub fn write(path: &Path) -> Result<(), EffectError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    // Not a name that the agent's pattern takes, should we be killed in between.
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix(".tcp-status-")
            .suffix(".new")
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(folder)?;
        file.write_all(CONFIGURATION.as_bytes())?;
        // Whatever the umask is.
        file.as_file()
            .set_permissions(Permissions::from_mode(MODE))?;
        file.as_file().sync_all()?;
        // Renaming replaces a symbolic link instead of following it.
        file.persist(path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| EffectError {
        what: "write",
        path: path.to_owned(),
        error,
    })
}

/// Removes it.
///
/// # Errors
/// [`EffectError`].
pub fn remove(path: &Path) -> Result<(), EffectError> {
    fs::remove_file(path).map_err(|error| EffectError {
        what: "remove",
        path: path.to_owned(),
        error,
    })
}
