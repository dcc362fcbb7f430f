//! Errors of the search for agents.

use std::{io, path::PathBuf};

/// The agents of the host cannot be determined.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// A file cannot be read.
    #[error("cannot read {path:?}: {error}; run it as root")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The agent reads no folder.
    #[error(
        "cannot use {0:?}: no Include= of a folder that is there; add a line such as \
         Include=/etc/zabbix/zabbix_agentd.d/*.conf and make that folder"
    )]
    NoFolder(PathBuf),
    /// The file is not what it seems.
    #[error("cannot use {0:?}: a symbolic link, or not a file; remove it, or install by hand")]
    NotARegularFile(PathBuf),
    /// The folder leads out of the root.
    #[error("cannot use {0:?}: leads out of the root that is given; install by hand")]
    Outside(PathBuf),
}

/// Whether a path does not exist.
pub(super) fn missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
