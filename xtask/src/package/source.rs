//! The committed sources in a folder of their own, and the binary that is built of them: with
//! every folder of this machine under another name, so that the bytes are the same elsewhere.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    release::{NAME, Release},
    write,
};
use crate::{build::binary, build::ebpf, step::Step};

/// Writes the commit's files into `folder`, which is emptied first.
pub(super) fn export(release: &Release, folder: &Path) -> Result<()> {
    write::fresh(folder)?;
    let archive = folder.with_extension("tar");
    Step::new("git")
        .args(["archive", "--format=tar", "--output"])
        .args([archive.as_os_str(), release.commit.as_ref()])
        .folder(&release.root)
        .run()?;
    Step::new("tar")
        .args(["--extract".as_ref(), "--file".as_ref(), archive.as_os_str()])
        .folder(folder)
        .run()?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
}

/// Builds the binary of `source` for the machine of the release.
pub(super) fn build(release: &Release, source: &Path, target: &Path) -> Result<PathBuf> {
    build_for(&release.triple, source, target)
}

/// Builds a binary that runs here, for what only the binary can print.
pub(super) fn build_native(host: &str, source: &Path, target: &Path) -> Result<PathBuf> {
    build_for(host, source, target)
}

fn build_for(triple: &str, source: &Path, target: &Path) -> Result<PathBuf> {
    eprintln!(
        "building {NAME}, static, for {triple}, of {}",
        source.display()
    );
    Step::cargo()
        .args(["build", "--locked", "--release", "--package", NAME])
        .args(["--target", triple, "--target-dir"])
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(source)?)
        .folder(source)
        .run()?;
    let binary = target.join(triple).join("release").join(NAME);
    let bytes = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    for (place, _) in places(source)? {
        let place = place.to_string_lossy();
        ensure!(
            !ebpf::contains(&bytes, place.as_bytes()),
            "{} names a folder of this machine, {place}; look for what puts it there with `strings`",
            binary.display()
        );
    }
    Ok(binary)
}

fn flags(source: &Path) -> Result<OsString> {
    let mut flags = binary::flags();
    flags.push("\x1f-Cstrip=symbols");
    for (place, name) in places(source)? {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(place);
        flags.push("=");
        flags.push(name);
    }
    Ok(flags)
}

/// Folders of this machine, and what the binary calls them instead.
fn places(source: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
    let mut places = ebpf::registries()?;
    places.push((source.to_owned(), "/tcp-status"));
    Ok(places)
}
