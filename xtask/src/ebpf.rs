//! The eBPF object: compiled, linked and stripped, the same bytes wherever it is built. Does not
//! keep it.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use anyhow::{Context as _, Result};

use crate::{
    reproducible::{check_names, registries, remap},
    step::Step,
    toolchain::{BPF_TARGET, Toolchain},
    workspace::Workspace,
};

/// Builds the object and returns its bytes.
pub(crate) fn build(workspace: &Workspace, toolchain: &Toolchain) -> Result<Vec<u8>> {
    let compiler = &toolchain.compiler;
    eprintln!(
        "building the eBPF object with {} ({})",
        compiler.describe(),
        compiler.rustc.display()
    );
    let own_cargo = compiler.sysroot.join("bin/cargo");
    // Only the cargo of the same toolchain can build its core.
    let cargo = if compiler.builds_core() && own_cargo.is_file() {
        Step::new(own_cargo)
    } else {
        Step::cargo()
    };
    with_bpf_target(workspace, toolchain, cargo.arg("build"))?.run()?;

    let folder = workspace.target.join("bpf");
    let linked = folder.join(BPF_TARGET).join("bpf/tcp-status-bpf");
    let stripped = folder.join("tcp-status.bpf.o");
    // DWARF holds paths and is of no use to the kernel; BTF stays.
    Step::new(toolchain.llvm_prefix.join("bin/llvm-strip"))
        .args(["--strip-debug", "-o"])
        .args([&stripped, &linked])
        .run()?;
    check_names(&stripped, &folders(workspace, toolchain)?)
}

/// Runs clippy for the eBPF crate; `false` if the toolchain has no clippy.
pub(crate) fn lint(workspace: &Workspace, toolchain: &Toolchain) -> Result<bool> {
    let clippy = toolchain.compiler.sysroot.join("bin/cargo-clippy");
    if !clippy.is_file() {
        return Ok(false);
    }
    with_bpf_target(workspace, toolchain, Step::new(clippy).arg("clippy"))?
        .args(["--", "-D", "warnings"])
        // aya's macros pass the context by value.
        .args(["-A", "clippy::needless_pass_by_value"])
        .run()?;
    Ok(true)
}

/// Adds to a cargo command what the BPF target needs.
fn with_bpf_target(workspace: &Workspace, toolchain: &Toolchain, cargo: Step) -> Result<Step> {
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(
        std::iter::once(toolchain.linker_folder.clone()).chain(env::split_paths(&path)),
    )
    .context("the folder of bpf-linker cannot be part of PATH")?;
    let mut flags: Vec<OsString> = [
        // BTF is made from debug information.
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        "-Clinker=bpf-linker",
        // aya-ebpf requires one. It selects the layout of `pt_regs`, which no program here reads,
        // so that one object serves every 64-bit little-endian machine.
        "--cfg",
        "bpf_target_arch=\"x86_64\"",
    ]
    .map(OsString::from)
    .into();
    flags.extend(remap(&folders(workspace, toolchain)?));
    let step = workspace
        .at_root(cargo)
        .args(["--package", "tcp-status-ebpf", "--target", BPF_TARGET])
        .args(["--profile", "bpf", "--locked", "--target-dir"])
        .arg(workspace.target.join("bpf"))
        .args(
            toolchain
                .compiler
                .builds_core()
                .then_some("-Zbuild-std=core"),
        )
        .env("RUSTC", &toolchain.compiler.rustc)
        // aya-ebpf needs unstable features, which a stable compiler has, but hides.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", path)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(OsStr::new("\x1f")));
    Ok(step)
}

/// Folders of this machine with sources, and what the object calls them instead.
fn folders(workspace: &Workspace, toolchain: &Toolchain) -> Result<Vec<(PathBuf, &'static str)>> {
    let mut folders = registries()?;
    folders.extend([
        (workspace.root.clone(), "/tcp-status"),
        (toolchain.compiler.sysroot.join("lib/rustlib"), "/rust"),
    ]);
    folders.sort();
    Ok(folders)
}
