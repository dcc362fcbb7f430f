//! The static `tcp-status` binary. Does not build the eBPF object inside it.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use crate::{step::Step, workspace::Workspace};

/// Cargo's profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Release,
    Debug,
}

/// What was built.
#[derive(Debug)]
pub(crate) struct Binary {
    pub(crate) path: PathBuf,
    pub(crate) triple: String,
}

/// Builds the binary for this machine.
pub(crate) fn build(workspace: &Workspace, profile: Profile) -> Result<Binary> {
    build_of(workspace, "tcp-status", "tcp-status", profile)
}

/// Builds `tcp-traffic`, which makes connections for measurements.
pub(crate) fn traffic(workspace: &Workspace) -> Result<PathBuf> {
    let built = build_of(
        workspace,
        "tcp-status-testkit",
        "tcp-traffic",
        Profile::Release,
    )?;
    Ok(built.path)
}

/// Builds this program as a static one, to be taken elsewhere.
pub(crate) fn xtask(workspace: &Workspace) -> Result<PathBuf> {
    Ok(build_of(workspace, "xtask", "xtask", Profile::Debug)?.path)
}

fn build_of(
    workspace: &Workspace,
    package: &str,
    binary: &str,
    profile: Profile,
) -> Result<Binary> {
    let triple = static_triple(workspace);
    let name = match profile {
        Profile::Release => "release",
        Profile::Debug => "dev",
    };
    eprintln!("building {binary}, static, for {triple} ({name})");
    let step = Step::cargo()
        .args(["build", "--locked", "--package", package])
        // Even for the host: without it the flags would reach proc macros, which cannot be static.
        .args(["--target", &triple, "--profile", name])
        .env("CARGO_ENCODED_RUSTFLAGS", flags());
    workspace.at_root(step).run()?;
    let path = place(workspace, binary, profile);
    ensure!(
        path.is_file(),
        "cargo built no {}; is there another `build.target-dir`?",
        path.display()
    );
    Ok(Binary { path, triple })
}

/// Where it lies once it is built.
pub(crate) fn place(workspace: &Workspace, binary: &str, profile: Profile) -> PathBuf {
    let folder = match profile {
        Profile::Release => "release",
        Profile::Debug => "debug",
    };
    workspace
        .target
        .join(static_triple(workspace))
        .join(folder)
        .join(binary)
}

/// The target for static binaries that run on this machine.
pub(crate) fn static_triple(workspace: &Workspace) -> String {
    triple(&workspace.host, has_target)
}

/// What `CARGO_ENCODED_RUSTFLAGS` has to be for them.
pub(crate) fn flags() -> OsString {
    static_flags(
        env::var_os("CARGO_ENCODED_RUSTFLAGS").as_deref(),
        env::var("RUSTFLAGS").ok().as_deref(),
    )
}

/// The host's triple with musl, where that target is installed: unlike glibc, it is made for
/// static binaries.
fn triple(host: &str, has_target: impl Fn(&str) -> bool) -> String {
    let musl = host.replace("-gnu", "-musl");
    if has_target(&musl) {
        musl
    } else {
        host.to_owned()
    }
}

fn has_target(triple: &str) -> bool {
    Step::new("rustc")
        .args(["--print", "target-libdir", "--target", triple])
        .ask()
        .is_some_and(|folder| Path::new(folder.trim_end()).is_dir())
}

/// The user's own flags in cargo's encoding, and the one for a static binary.
fn static_flags(encoded: Option<&OsStr>, plain: Option<&str>) -> OsString {
    let given = match (encoded, plain) {
        (Some(encoded), _) => encoded.to_owned(),
        (None, Some(plain)) => {
            let flags: Vec<_> = plain.split_whitespace().collect();
            flags.join("\x1f").into()
        }
        (None, None) => OsString::new(),
    };
    let mut flags = given;
    if !flags.is_empty() {
        flags.push("\x1f");
    }
    flags.push("-Ctarget-feature=+crt-static");
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn musl_is_taken_where_it_is_installed() {
        let host = "aarch64-unknown-linux-gnu";
        assert_eq!(triple(host, |_| false), host);
        assert_eq!(
            triple(host, |triple| triple == "aarch64-unknown-linux-musl"),
            "aarch64-unknown-linux-musl"
        );
    }

    #[test]
    fn flags_of_the_user_stay() {
        let wanted = "-Ctarget-feature=+crt-static";
        assert_eq!(static_flags(None, None), wanted);
        assert_eq!(
            static_flags(None, Some("-C  debuginfo=1")),
            format!("-C\x1fdebuginfo=1\x1f{wanted}").as_str()
        );
        assert_eq!(
            static_flags(Some("-Copt-level=1".as_ref()), Some("-Cdebuginfo=1")),
            format!("-Copt-level=1\x1f{wanted}").as_str()
        );
    }
}
