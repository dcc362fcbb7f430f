//! Finds and installs what commands need: packages of Debian, subcommands of cargo, and what builds
//! for the BPF target: a compiler that has `core` for it, LLVM of the same major version, and
//! bpf-linker built against that LLVM.

use std::{
    collections::BTreeSet,
    env, fmt, fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Once,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::unistd::Uid;

use crate::{
    apt,
    step::{Step, run, step},
    workspace::Workspace,
};

/// The target of the eBPF programs.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// The release of bpf-linker that the kept object is made with.
const LINKER_VERSION: &str = "0.13.0";

/// bpf-linker is built against one of these.
const LINKER_LLVMS: RangeInclusive<u32> = 21..=23;

/// Debian 12 and later have these; LLVM's major version goes with `rustc-web`.
const DEBIAN_COMPILER: &str = "rustc-web libstd-rust-web-dev-bpf llvm-22-dev";

/// A complete toolchain for the BPF target.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) llvm_prefix: PathBuf,
    /// The folder of bpf-linker, for `PATH`.
    pub(crate) linker_folder: PathBuf,
}

/// A Rust compiler with `core` for the BPF target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    /// `rustc --print sysroot`.
    pub(crate) sysroot: PathBuf,
    /// As in `1.96.0` or `1.98.0-nightly`.
    release: String,
    /// As in `22.1.8`; all parts of the toolchain share the major version.
    llvm: String,
    /// Where it takes `core` from; `None` if it has none.
    core: Option<Core>,
}

/// Where `core` is; the better first: the kept object was made with a built one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Core {
    /// Built, in the sysroot.
    Built,
    /// Its source is in the sysroot (rustup's component rust-src): cargo builds it.
    Source,
}

/// The first part that is missing, and what installs it.
#[derive(Debug)]
pub(crate) struct Missing {
    what: String,
    /// `Err` is what to do by hand.
    cure: Result<Step, String>,
}

impl Compiler {
    /// What the record of the object says of its compiler.
    pub(crate) fn describe(&self) -> String {
        let Self { release, llvm, .. } = self;
        format!("rustc {release} (LLVM {llvm}), bpf-linker {LINKER_VERSION}")
    }

    /// Whether cargo has to build `core`.
    pub(crate) fn builds_core(&self) -> bool {
        self.core == Some(Core::Source)
    }

    fn probe(rustc: PathBuf) -> Option<Self> {
        let version = step!(&rustc, "-vV").try_read()?;
        let field = |name: &str| {
            let value = version.lines().find_map(|line| line.strip_prefix(name));
            value.map(str::to_owned)
        };
        let sysroot = fs::canonicalize(step!(&rustc, "--print sysroot").try_read()?).ok()?;
        let rustlib = sysroot.join("lib/rustlib");
        let built = fs::read_dir(rustlib.join(BPF_TARGET).join("lib")).is_ok_and(|entries| {
            let mut names = entries.flatten().map(|entry| entry.file_name());
            names.any(|name| name.to_string_lossy().starts_with("libcore-"))
        });
        let source = rustlib.join("src/rust/library/Cargo.lock").is_file();
        Some(Self {
            release: field("release: ")?,
            llvm: field("LLVM version: ")?,
            core: (built.then_some(Core::Built)).or(source.then_some(Core::Source)),
            rustc,
            sysroot,
        })
    }
}

impl Toolchain {
    /// Finds the toolchain, and installs what is missing if `install`.
    pub(crate) fn provide(workspace: &Workspace, install: bool) -> Result<Result<Self, Missing>> {
        let mut last = String::new();
        loop {
            let missing = match Self::find(workspace) {
                Err(missing) if install => missing,
                found => return Ok(found),
            };
            ensure!(missing.what != last, "still missing after its cure: {last}");
            eprintln!("installing {}", missing.what);
            if exists("apt-get") && Uid::effective().is_root() {
                update_lists();
            }
            match &missing.cure {
                Ok(step) => step.run(),
                Err(advice) => Err(anyhow!("no command does it on this host: {advice}")),
            }
            .with_context(|| format!("cannot install {}", missing.what))?;
            last = missing.what;
        }
    }

    /// The toolchain of this host, or the first part that it lacks.
    pub(crate) fn find(workspace: &Workspace) -> Result<Self, Missing> {
        let compilers = compilers();
        let (compiler, major) = best(&compilers).ok_or_else(|| no_compiler(&compilers))?;
        let llvm_prefix = llvm(major).ok_or_else(|| Missing {
            what: format!("LLVM {major} with headers and llvm-strip"),
            cure: if exists("apt-get") {
                Ok(apt_step(&format!("llvm-{major}-dev")))
            } else {
                let advice = format!("install LLVM {major} and set LLVM_PREFIX to its folder");
                Err(advice)
            },
        })?;
        // `bpf-linker --version` does not name its LLVM: the folder does.
        let name = format!("bpf-toolchain/bpf-linker-{LINKER_VERSION}-llvm-{major}");
        let root = workspace.target.join(name);
        let linker_folder = root.join("bin");
        // It may be present and not start: its LLVM can have been removed since.
        if !exists(linker_folder.join("bpf-linker")) {
            let options = format!("--version {LINKER_VERSION} --features llvm-{major}");
            let install = step!("cargo install bpf-linker --locked --no-default-features")
                .with(&*options)
                .with("--root")
                .with(root)
                .env("LLVM_PREFIX", llvm_prefix);
            return Err(Missing {
                what: format!("bpf-linker {LINKER_VERSION} for LLVM {major}"),
                cure: Ok(install),
            });
        }
        Ok(Self {
            compiler: compiler.clone(),
            llvm_prefix,
            linker_folder,
        })
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "missing: {}; cure: ", self.what)?;
        match &self.cure {
            Ok(step) => write!(formatter, "`{step}`"),
            Err(advice) => formatter.write_str(advice),
        }
    }
}

/// Every compiler of rustup, of `PATH` and of Debian, each sysroot once.
fn compilers() -> Vec<Compiler> {
    let list = step!("rustup toolchain list -v")
        .try_read()
        .unwrap_or_default();
    // "NAME (active, default) PATH"
    let rustup = list.lines().filter_map(|line| line.split_once('/'));
    let rustup = rustup.map(|(_, path)| PathBuf::from(format!("/{path}/bin")));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = rustup.chain(env::split_paths(&path));
    let mut sysroots = BTreeSet::new();
    folders
        .chain(["/usr/bin".into()])
        .map(|folder| folder.join("rustc"))
        .filter(|rustc| rustc.is_file())
        .filter_map(Compiler::probe)
        .filter(|compiler| sysroots.insert(compiler.sysroot.clone()))
        .collect()
}

/// The best compiler that bpf-linker works with, and LLVM's major version.
fn best(compilers: &[Compiler]) -> Option<(&Compiler, u32)> {
    let usable = compilers.iter().filter_map(|compiler| {
        let major = compiler.llvm.split('.').next()?.parse().ok()?;
        let is_usable = compiler.core.is_some() && LINKER_LLVMS.contains(&major);
        is_usable.then_some((compiler, major))
    });
    usable.min_by_key(|(compiler, _)| compiler.core)
}

fn no_compiler(compilers: &[Compiler]) -> Missing {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let found: Vec<_> = compilers.iter().map(Compiler::describe).collect();
    let nightly = step!("rustup toolchain install nightly --component rust-src");
    Missing {
        what: format!(
            "a Rust compiler with core for the BPF target and LLVM {LINKER_LLVMS:?} (found \
             without: {})",
            found.join("; ")
        ),
        cure: if release.lines().any(|line| line == "ID=debian") {
            Ok(apt_step(DEBIAN_COMPILER))
        } else if exists("rustup") {
            Ok(nightly)
        } else {
            Err(format!("install rustup, then `{nightly}`"))
        },
    }
}

/// The prefix of a complete LLVM: the linker needs headers and libraries to be built, and the
/// object is stripped by llvm-strip.
fn llvm(major: u32) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let of_path = env::split_paths(&path).filter_map(|folder| Some(folder.parent()?.to_owned()));
    let files = ["bin/llvm-strip", "include/llvm-c/Core.h"];
    let complete = |prefix: &PathBuf| {
        let version = step!(prefix.join("bin/llvm-config"), "--version").try_read();
        files.iter().all(|file| prefix.join(file).is_file())
            && version.is_some_and(|version| version.starts_with(&format!("{major}.")))
    };
    let given = env::var_os("LLVM_PREFIX").map(PathBuf::from).into_iter();
    let mut prefixes = given
        .chain([format!("/usr/lib/llvm-{major}").into()])
        .chain(of_path);
    prefixes.find(complete)
}

/// Whether a program starts.
pub(crate) fn exists(program: impl AsRef<Path>) -> bool {
    step!(program.as_ref(), "--version").try_read().is_some()
}

fn apt_step(packages: &str) -> Step {
    apt::install(step!("apt-get"), packages)
}

/// Installs those of `packages` that are not installed; needs root.
pub(crate) fn apt_install(packages: &str) -> Result<()> {
    let is_missing = |package: &&str| {
        let status = step!(
            "dpkg-query --show --showformat=${db:Status-Status}",
            *package
        );
        status.try_read().as_deref() != Some("installed")
    };
    let missing: Vec<_> = packages.split_whitespace().filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let install = apt_step(&missing.join(" "));
    ensure!(
        Uid::effective().is_root(),
        "cannot install packages: not root; run `{install}` as root"
    );
    update_lists();
    install.run()
}

fn update_lists() {
    static LISTS: Once = Once::new();
    LISTS.call_once(|| {
        // One source of many may be unreachable; whether that matters, the installation shows.
        if let Err(error) = run!("apt-get update -q") {
            eprintln!("warning: {error:#}");
        }
    });
}

/// A subcommand of cargo, and the version that was tried.
pub(crate) type Tool = (&'static str, &'static str);

/// The program of a tool; the folder names the version.
pub(crate) fn tool(workspace: &Workspace, (name, version): Tool) -> PathBuf {
    let root = workspace.target.join("tools");
    root.join(format!("{name}-{version}/bin/{name}"))
}

/// Installs those tools that are missing, or fails with what installs them.
pub(crate) fn provide_tools(workspace: &Workspace, tools: &[Tool], install: bool) -> Result<()> {
    for &(name, version) in tools {
        let program = tool(workspace, (name, version));
        if program.is_file() {
            continue;
        }
        let root = program.ancestors().nth(2).unwrap_or(&program);
        let step = step!(
            "cargo install --locked",
            name,
            "--version",
            version,
            "--root",
            root
        )
        .with("--target-dir")
        .with(workspace.target.join("tools/build"));
        ensure!(
            install,
            "cannot find {name} {version}; add --install, or run: {step}"
        );
        eprintln!("{step}");
        step.run()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_core_that_the_linker_can_read_is_best() {
        let compiler = |llvm: &str, core| Compiler {
            rustc: "/bin/rustc".into(),
            sysroot: "/".into(),
            release: "1.96.0".into(),
            llvm: llvm.into(),
            core,
        };
        let (too_new, none) = (
            compiler("99.1.0", Some(Core::Built)),
            compiler("22.1.2", None),
        );
        assert_eq!(best(&[too_new.clone(), none.clone()]), None);
        let (source, built) = (
            compiler("22.1.4", Some(Core::Source)),
            compiler("22.1.8", Some(Core::Built)),
        );
        let all = [too_new, none, source, built];
        assert_eq!(best(&all), Some((&all[3], 22)));
        assert_eq!(best(&all[..3]), Some((&all[2], 22)));
    }
}
