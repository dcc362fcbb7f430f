//! `cargo xtask build`: the eBPF object from source, then the static binary with it inside.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow, ensure};
use clap::Args;

use crate::{
    files,
    object::{self, OBJECT, Record},
    step::step,
    toolchain::{Missing, Toolchain},
    workspace::Workspace,
};

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Install what is missing for the BPF target (as root on Debian: by apt-get)
    #[arg(long)]
    install: bool,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// How the binary is optimised.
#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// Build the binary optimised (default)
    #[arg(long)]
    release: bool,
    /// Build the binary for debugging
    #[arg(long, conflicts_with = "release")]
    debug: bool,
}

impl ProfileArgs {
    /// Cargo's name of the profile.
    pub(crate) fn name(&self) -> &'static str {
        if self.debug { "dev" } else { "release" }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &BuildArgs) -> Result<()> {
    build_object(workspace, &Toolchain::provide(workspace, args.install)?)?;
    let binary = static_binary(workspace, "tcp-status", "tcp-status", args.profile.name())?;
    let size = files::read(&binary)?.len() / 1024;
    println!("{}: {size} KiB, static", binary.display());
    Ok(())
}

/// Builds the kept object anew, only if it does not belong to the sources.
pub(crate) fn refresh_object(workspace: &Workspace) -> Result<()> {
    if Record::read_valid(&workspace.root).is_ok() {
        return Ok(());
    }
    build_object(workspace, &Toolchain::find(workspace))
}

/// Builds the object and keeps it; without a toolchain, makes sure that the kept one serves.
fn build_object(workspace: &Workspace, toolchain: &Result<Toolchain, Missing>) -> Result<()> {
    match toolchain {
        Ok(toolchain) => {
            let object = object::build(workspace, toolchain)?;
            let compiler = toolchain.compiler.describe();
            let changed = object::keep(&workspace.root, &object, &compiler)?;
            let result = if changed { "changed" } else { "unchanged" };
            eprintln!("{OBJECT}: {} bytes, {result}", object.len());
        }
        Err(missing) => {
            let why = format!("{missing}; `cargo xtask build --install` installs what is missing");
            Record::read_valid(&workspace.root)
                .map_err(|error| anyhow!(why.clone()).context(error))?;
            eprintln!("{OBJECT} belongs to the sources and is not built: {why}");
        }
    }
    Ok(())
}

/// Builds a binary of the workspace that needs no library where it runs.
pub(crate) fn static_binary(
    workspace: &Workspace,
    package: &str,
    binary: &str,
    profile: &str,
) -> Result<PathBuf> {
    let triple = static_triple(workspace);
    eprintln!("building {binary}, static, for {triple} ({profile})");
    // The target even for the host: without it the flags would reach proc macros, which cannot be
    // static.
    let what = format!("--package {package} --bin {binary} --profile {profile} --target {triple}");
    let step = workspace.cargo("build --locked").with(&*what);
    step.env("CARGO_ENCODED_RUSTFLAGS", static_flags()).run()?;
    let path = static_path(workspace, binary, profile);
    ensure!(
        path.is_file(),
        "cargo built no {}; is there another `build.target-dir`?",
        path.display()
    );
    Ok(path)
}

/// Where cargo puts a static binary.
pub(crate) fn static_path(workspace: &Workspace, binary: &str, profile: &str) -> PathBuf {
    let folder = if profile == "dev" { "debug" } else { profile };
    let target = workspace.target.join(static_triple(workspace));
    target.join(folder).join(binary)
}

/// The target for static binaries that run on this machine: with musl where it is installed;
/// unlike glibc, it is made for them.
pub(crate) fn static_triple(workspace: &Workspace) -> String {
    let musl = workspace.host.replace("-gnu", "-musl");
    let libraries = step!("rustc --print target-libdir --target", &musl).try_read();
    match libraries {
        Some(folder) if Path::new(&folder).is_dir() => musl,
        _ => workspace.host.clone(),
    }
}

/// `CARGO_ENCODED_RUSTFLAGS` for static binaries.
pub(crate) fn static_flags() -> OsString {
    add_static(
        env::var_os("CARGO_ENCODED_RUSTFLAGS").as_deref(),
        &env::var("RUSTFLAGS").unwrap_or_default(),
    )
}

/// The user's own flags in cargo's encoding, and the one for a static binary.
fn add_static(encoded: Option<&OsStr>, plain: &str) -> OsString {
    let plain: Vec<_> = plain.split_whitespace().collect();
    let mut flags = encoded.map_or_else(|| plain.join("\x1f").into(), OsStr::to_owned);
    if !flags.is_empty() {
        flags.push("\x1f");
    }
    flags.push("-Ctarget-feature=+crt-static");
    flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reproducible::check_names;

    #[test]
    fn flags_of_the_user_stay() {
        let wanted = "-Ctarget-feature=+crt-static";
        assert_eq!(add_static(None, ""), wanted);
        assert_eq!(
            add_static(None, "-C  debuginfo=1"),
            format!("-C\x1fdebuginfo=1\x1f{wanted}").as_str()
        );
        assert_eq!(
            add_static(Some("-Copt-level=1".as_ref()), "-Cdebuginfo=1"),
            format!("-Copt-level=1\x1f{wanted}").as_str()
        );
    }

    #[test]
    fn a_folder_of_this_machine_in_a_built_file_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("built");
        files::write(&file, "\0/place/of/build\0").unwrap();
        let names = |name: &str| check_names(&file, &[(name.into(), "/x")]);
        assert!(names("/place/of/source").is_ok());
        assert!(names("/place/of/build").is_err());
    }
}
