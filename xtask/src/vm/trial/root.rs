//! A small Debian with systemd, as a tar archive. Made once.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use xtask::object::digest;

use crate::step::Step;

/// The oldest Debian that is tried: what works there works in later ones.
const SUITE: &str = "bookworm";

/// Beside the packages that every Debian has.
const PACKAGES: &str = "systemd,systemd-sysv,iproute2,procps,diffutils,rpm";

/// The archive, in `folder`.
pub(super) fn debian(folder: &Path) -> Result<PathBuf> {
    // Another list of packages is another archive.
    let archive = folder.join(format!("{SUITE}-{:.8}.tar", digest(PACKAGES.as_bytes())));
    if archive.is_file() {
        return Ok(archive);
    }
    eprintln!("making a Debian to try packages in, once");
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let partial = folder.join("partial.tar");
    Step::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase"])
        .arg(format!("--include={PACKAGES}"))
        .args(["--dpkgopt=path-exclude=/usr/share/locale/*", SUITE])
        .arg(&partial)
        .run()?;
    fs::rename(&partial, &archive).with_context(|| format!("cannot make {}", archive.display()))?;
    Ok(archive)
}
