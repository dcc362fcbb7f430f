//! What the host has for the BPF target. Decides nothing and changes nothing.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use nix::unistd::Uid;

use super::{BPF_TARGET, Compiler, Core, LINKER_VERSION, Linker, Llvm, Packages};
use crate::{step::Step, workspace::Workspace};

/// The host as far as the BPF toolchain goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) packages: Packages,
    pub(crate) root: bool,
    pub(crate) rustup: bool,
    /// Every compiler found, each sysroot once.
    pub(crate) compilers: Vec<Compiler>,
    /// Every LLVM with development files.
    pub(crate) llvms: Vec<Llvm>,
    /// Every linker that was installed by `cargo xtask build --install` or by its cure.
    pub(crate) linkers: Vec<Linker>,
    /// Below this, linkers are installed; see [`linker_folder`].
    pub(crate) linkers_folder: PathBuf,
}

impl Facts {
    pub(crate) fn probe(workspace: &Workspace) -> Result<Self> {
        let linkers_folder = workspace.linkers();
        Ok(Self {
            packages: packages(),
            root: Uid::effective().is_root(),
            rustup: toolchains().is_some(),
            compilers: compilers(),
            llvms: llvms(),
            linkers: linkers(&linkers_folder)?,
            linkers_folder,
        })
    }
}

/// `cargo install --root` of a linker built against LLVM `llvm`: the name says what is in it,
/// because `bpf-linker --version` does not.
pub(super) fn linker_folder(linkers_folder: &Path, llvm: u32) -> PathBuf {
    linkers_folder.join(format!("bpf-linker-{LINKER_VERSION}-llvm-{llvm}"))
}

fn packages() -> Packages {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let apt = Step::new("apt-get").arg("--version").ask().is_some();
    match (apt, release.lines().any(|line| line == "ID=debian")) {
        (true, true) => Packages::Debian,
        (true, false) => Packages::Apt,
        (false, _) => Packages::Other,
    }
}

/// The folders of rustup's toolchains; `None` without rustup.
fn toolchains() -> Option<Vec<PathBuf>> {
    let list = Step::new("rustup")
        .args(["toolchain", "list", "-v"])
        .ask()?;
    // "NAME (active, default) PATH"
    let folder = |line: &str| {
        line.split_once('/')
            .map(|(_, path)| format!("/{path}").into())
    };
    Some(list.lines().filter_map(folder).collect())
}

fn search_path() -> Vec<PathBuf> {
    env::var_os("PATH").map_or_else(Vec::new, |path| env::split_paths(&path).collect())
}

fn compilers() -> Vec<Compiler> {
    let installed = toolchains().unwrap_or_default();
    let candidates = installed
        .into_iter()
        .map(|folder| folder.join("bin/rustc"))
        .chain(search_path().into_iter().map(|folder| folder.join("rustc")))
        .chain([PathBuf::from("/usr/bin/rustc")]);
    let mut sysroots = BTreeSet::new();
    candidates
        .filter(|rustc| rustc.is_file())
        .filter_map(compiler)
        .filter(|compiler| sysroots.insert(compiler.sysroot.clone()))
        .collect()
}

fn compiler(rustc: PathBuf) -> Option<Compiler> {
    let version = Step::new(&rustc).arg("-vV").ask()?;
    let field = |name: &str| {
        version
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::to_owned)
    };
    let sysroot = Step::new(&rustc).args(["--print", "sysroot"]).ask()?;
    let sysroot = fs::canonicalize(sysroot.trim_end()).ok()?;
    Some(Compiler {
        release: field("release: ")?,
        llvm: field("LLVM version: ")?,
        core: core(&sysroot),
        rustc,
        sysroot,
    })
}

fn core(sysroot: &Path) -> Core {
    let rustlib = sysroot.join("lib/rustlib");
    let built = fs::read_dir(rustlib.join(BPF_TARGET).join("lib")).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    });
    if built {
        Core::Built
    } else if rustlib.join("src/rust/library/Cargo.lock").is_file() {
        Core::Source
    } else {
        Core::Missing
    }
}

fn llvms() -> Vec<Llvm> {
    let given = env::var_os("LLVM_PREFIX").map(PathBuf::from);
    let versioned = fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm-"))
        .map(|entry| entry.path());
    let others = search_path()
        .into_iter()
        .filter_map(|folder| folder.parent().map(Path::to_owned));
    let mut prefixes = BTreeSet::new();
    given
        .into_iter()
        .chain(versioned)
        .chain(others)
        .filter_map(llvm)
        .filter(|llvm| prefixes.insert(llvm.prefix.clone()))
        .collect()
}

/// The LLVM at `prefix`, if it is complete: the linker needs headers and libraries to be built,
/// and the object is stripped by llvm-strip.
fn llvm(prefix: PathBuf) -> Option<Llvm> {
    let config = prefix.join("bin/llvm-config");
    let complete = config.is_file()
        && prefix.join("bin/llvm-strip").is_file()
        && prefix.join("include/llvm-c/Core.h").is_file();
    if !complete {
        return None;
    }
    let version = Step::new(config).arg("--version").ask()?;
    Some(Llvm {
        prefix,
        major: version.split('.').next()?.parse().ok()?,
    })
}

fn linkers(folder: &Path) -> Result<Vec<Linker>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let wanted = format!("bpf-linker-{LINKER_VERSION}-llvm-");
    let mut linkers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let llvm = name
            .to_str()
            .and_then(|name| name.strip_prefix(&wanted)?.parse().ok());
        let folder = entry.path().join("bin");
        // It may be there and not start: its LLVM can have been removed since.
        let starts = Step::new(folder.join("bpf-linker")).arg("--version").ask();
        if let (Some(llvm), Some(_)) = (llvm, starts) {
            linkers.push(Linker { folder, llvm });
        }
    }
    Ok(linkers)
}
