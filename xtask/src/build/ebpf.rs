//! The eBPF object: compiled, linked and stripped, the same bytes wherever it is built. Does not
//! decide with which toolchain, and does not keep it.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    step::Step,
    toolchain::{BPF_TARGET, Core, Toolchain},
    workspace::Workspace,
};

const PACKAGE: &str = "tcp-status-ebpf";
const BINARY: &str = "tcp-status-bpf";

/// Builds the object and returns its bytes.
pub(crate) fn build(workspace: &Workspace, toolchain: &Toolchain) -> Result<Vec<u8>> {
    let compiler = &toolchain.compiler;
    eprintln!(
        "building the eBPF object with {} ({})",
        compiler.describe(),
        compiler.rustc.display()
    );
    let sysroot_cargo = compiler.sysroot.join("bin/cargo");
    // Only cargo of the same toolchain knows how to build its core.
    let cargo = if compiler.core == Core::Source && sysroot_cargo.is_file() {
        Step::new(sysroot_cargo)
    } else {
        Step::cargo()
    };
    with_bpf_target(workspace, toolchain, cargo.arg("build"))?.run()?;

    let folder = target_folder(workspace);
    let linked = folder.join(BPF_TARGET).join("bpf").join(BINARY);
    let stripped = folder.join("tcp-status.bpf.o");
    // DWARF holds paths and is of no use to the kernel; BTF stays.
    Step::new(toolchain.llvm_prefix.join("bin/llvm-strip"))
        .arg("--strip-debug")
        .arg("-o")
        .args([&stripped, &linked])
        .run()?;
    let object =
        fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;
    for (place, _) in places(workspace, toolchain)? {
        let place = place.to_string_lossy();
        ensure!(
            !contains(&object, place.as_bytes()),
            "{} names a folder of this machine, {place}; look for what puts it there with `strings`",
            stripped.display()
        );
    }
    Ok(object)
}

/// Lets clippy look at the eBPF crate; `false` if the toolchain has no clippy.
pub(crate) fn lint(workspace: &Workspace, toolchain: &Toolchain) -> Result<bool> {
    let clippy = toolchain.compiler.sysroot.join("bin/cargo-clippy");
    if !clippy.is_file() {
        return Ok(false);
    }
    let step = with_bpf_target(workspace, toolchain, Step::new(clippy).arg("clippy"))?;
    step.args(["--", "-D", "warnings"])
        // aya's macros hand the context over by value.
        .args(["-A", "clippy::needless_pass_by_value"])
        .run()?;
    Ok(true)
}

fn target_folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("bpf")
}

/// Adds to a cargo command what the BPF target needs.
fn with_bpf_target(workspace: &Workspace, toolchain: &Toolchain, cargo: Step) -> Result<Step> {
    let mut step = workspace
        .at_root(cargo)
        .args(["--package", PACKAGE, "--target", BPF_TARGET])
        .args(["--profile", "bpf", "--locked", "--target-dir"])
        .arg(target_folder(workspace))
        .env("RUSTC", &toolchain.compiler.rustc)
        // aya-ebpf needs unstable features, which a stable compiler has, but hides.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", path_with(&toolchain.linker_folder)?)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(&places(workspace, toolchain)?).join("\x1f".as_ref()),
        );
    if toolchain.compiler.core == Core::Source {
        step = step.arg("-Zbuild-std=core");
    }
    Ok(step)
}

fn path_with(folder: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(
        [folder.to_owned()]
            .into_iter()
            .chain(env::split_paths(&path)),
    )
    .with_context(|| format!("{} cannot stand in PATH", folder.display()))
}

/// Folders of this machine that sources lie in, and what the object calls them instead.
fn places(workspace: &Workspace, toolchain: &Toolchain) -> Result<Vec<(PathBuf, &'static str)>> {
    let mut places = registries()?;
    places.extend([
        (workspace.root.clone(), "/tcp-status"),
        (toolchain.compiler.sysroot.join("lib/rustlib"), "/rust"),
    ]);
    places.sort();
    Ok(places)
}

/// Folders of dependencies' sources, and what a build calls them instead.
pub(crate) fn registries() -> Result<Vec<(PathBuf, &'static str)>> {
    let mut places = Vec::new();
    // Below it, a folder for each registry, with the registry's name.
    let registries = cargo_home()?.join("registry/src");
    if registries.is_dir() {
        let entries = fs::read_dir(&registries)
            .with_context(|| format!("cannot list {}", registries.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", registries.display()))?;
            places.push((entry.path(), "/registry"));
        }
    }
    places.sort();
    Ok(places)
}

fn cargo_home() -> Result<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .context("no home folder; set CARGO_HOME to where cargo keeps its registry")
}

fn rustflags(places: &[(PathBuf, &'static str)]) -> Vec<OsString> {
    let mut flags: Vec<OsString> = [
        // BTF is made from debug information.
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        "-Clinker=bpf-linker",
        // aya-ebpf wants one. It selects the layout of `pt_regs`, which no program here looks
        // at, so that one object serves every 64-bit little-endian machine.
        "--cfg",
        "bpf_target_arch=\"x86_64\"",
    ]
    .map(OsString::from)
    .into();
    for (place, name) in places {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(place);
        flag.push("=");
        flag.push(name);
        flags.push(flag);
    }
    flags
}

/// Whether `wanted` is somewhere in `bytes`.
pub(crate) fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_renamed() {
        let flags = rustflags(&[
            ("/home/me/tcp-status".into(), "/tcp-status"),
            (
                "/home/me/.cargo/registry/src/somewhere-1".into(),
                "/registry",
            ),
        ]);
        let renames: Vec<_> = flags
            .iter()
            .filter(|flag| flag.to_string_lossy().starts_with("--remap"))
            .collect();
        assert_eq!(
            renames,
            [
                "--remap-path-prefix=/home/me/tcp-status=/tcp-status",
                "--remap-path-prefix=/home/me/.cargo/registry/src/somewhere-1=/registry",
            ]
        );
    }

    #[test]
    fn finds_bytes_anywhere() {
        assert!(contains(b"\0/home/me\0", b"/home/me"));
        assert!(!contains(b"/home", b"/home/me"));
    }
}
