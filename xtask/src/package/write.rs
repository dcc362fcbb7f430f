//! The packages' files, made of what is staged: by cargo-deb, cargo-generate-rpm and tar.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use xtask::object::digest;

use super::{
    layout::Format,
    manifest,
    release::{NAME, Release},
    stage::Stage,
    tools::Tools,
};
use crate::step::Step;

/// An empty folder at `path`, whatever was there.
pub(super) fn fresh(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}

pub(super) fn permit(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

pub(super) fn deb(release: &Release, tools: &Tools, stage: &Stage, to: &Path) -> Result<PathBuf> {
    let folder = manifest_folder(release, stage)?;
    let deb = to.join(format!(
        "{NAME}_{}-{}_{}.deb",
        release.version,
        release.revision,
        release.debian()?
    ));
    tools
        .step("cargo-deb", &folder)
        .args([
            "--quiet",
            "--no-build",
            "--no-strip",
            "--target",
            &release.triple,
        ])
        .arg("--output")
        .arg(&deb)
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string())
        .run()?;
    Ok(deb)
}

pub(super) fn rpm(release: &Release, tools: &Tools, stage: &Stage, to: &Path) -> Result<PathBuf> {
    let folder = manifest_folder(release, stage)?;
    let rpm = to.join(format!(
        "{NAME}-{}-{}.{}.rpm",
        release.version,
        release.revision,
        release.machine()
    ));
    tools
        .step("cargo-generate-rpm", &folder)
        .args(["generate-rpm", "--arch", release.machine(), "--output"])
        .arg(&rpm)
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string())
        .run()?;
    Ok(rpm)
}

/// Everything below one folder, with `usr/` in it.
pub(super) fn tarball(release: &Release, stage: &Stage, to: &Path) -> Result<PathBuf> {
    let name = format!("{NAME}-{}-{}-linux", release.version, release.machine());
    let tree = stage.folder.join("tar").join(&name);
    fresh(&tree)?;
    for file in stage.of(Format::Tarball) {
        let path = tree.join(&file.to);
        let cannot = || format!("cannot write {}", path.display());
        fs::create_dir_all(path.parent().context("no folder")?).with_context(cannot)?;
        fs::copy(&file.from, &path).with_context(cannot)?;
        permit(&path, file.mode)?;
    }
    let tar = to.join(format!("{name}.tar"));
    Step::new("tar")
        .args([
            "--create",
            "--sort=name",
            "--format=gnu",
            "--mode=go=rX,u+rw,a-s",
        ])
        .args(["--owner=0", "--group=0", "--numeric-owner"])
        .arg(format!("--mtime=@{}", release.epoch))
        .arg("--file")
        .arg(&tar)
        .arg(&name)
        .folder(stage.folder.join("tar"))
        .run()?;
    Step::new("gzip").args(["-9", "-n", "-f"]).arg(&tar).run()?;
    Ok(tar.with_extension("tar.gz"))
}

/// Writes `SHA256SUMS` of the files, all of which lie in `folder`.
pub(super) fn sums(folder: &Path, files: &[PathBuf]) -> Result<()> {
    let mut text = String::new();
    for path in files {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        text += &format!("{}  {name}\n", digest(&bytes));
    }
    let path = folder.join("SHA256SUMS");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Where the manifest of the packages lies, with what it names beside it.
fn manifest_folder(release: &Release, stage: &Stage) -> Result<PathBuf> {
    let folder = stage.folder.join("manifest");
    fs::create_dir_all(folder.join("scripts"))
        .with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, text) in [
        ("Cargo.toml", manifest::text(release, stage)),
        ("lib.rs", "//! Empty: everything is built already.\n".into()),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_sha256sum() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.deb");
        fs::write(&file, "abc").unwrap();
        sums(folder.path(), &[file]).unwrap();
        Step::new("sha256sum")
            .args(["--check", "--strict", "SHA256SUMS"])
            .folder(folder.path())
            .run()
            .unwrap();
    }
}
