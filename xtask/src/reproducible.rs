//! Builds that are the same bytes in every folder: other names for folders of this machine.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::files;

/// Folders of dependencies' sources, and what a build calls them instead.
pub(crate) fn registries() -> Result<Vec<(PathBuf, &'static str)>> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    // Below it, a folder for each registry.
    let sources = home
        .context("no home folder; set CARGO_HOME")?
        .join("registry/src");
    let folders = files::list(sources).unwrap_or_default().into_iter();
    Ok(folders.map(|folder| (folder, "/registry")).collect())
}

/// Rustc's options that give folders of this machine other names.
pub(crate) fn remap(folders: &[(PathBuf, &str)]) -> Vec<OsString> {
    let flag = |(folder, name): &(PathBuf, &str)| {
        let parts = [
            "--remap-path-prefix=".as_ref(),
            folder.as_os_str(),
            "=".as_ref(),
            name.as_ref(),
        ];
        OsString::from_iter(parts)
    };
    folders.iter().map(flag).collect()
}

/// Fails if a built file names one of these folders of this machine.
pub(crate) fn check_names(path: &Path, folders: &[(PathBuf, &str)]) -> Result<Vec<u8>> {
    let bytes = files::read(path)?;
    for (folder, _) in folders {
        let folder = folder.to_string_lossy();
        let mut windows = bytes.windows(folder.len());
        ensure!(
            !windows.any(|window| window == folder.as_bytes()),
            "{} names a folder of this machine: {folder}; `strings` shows where",
            path.display()
        );
    }
    Ok(bytes)
}
