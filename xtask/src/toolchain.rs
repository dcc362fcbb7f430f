//! What builds for the BPF target: a compiler that has `core` for it, LLVM of the same major
//! version, and bpf-linker built against that LLVM. Finds and installs them; does not build the
//! object.

use std::{
    collections::BTreeSet,
    env, fmt, fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Once,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Uid;

use crate::{apt, step::Step, workspace::Workspace};

/// The target of the eBPF programs.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// The release of bpf-linker that the kept object is made with.
const LINKER_VERSION: &str = "0.13.0";

/// bpf-linker is built against one of these.
const LINKER_LLVMS: RangeInclusive<u32> = 21..=23;

/// Debian 12 and later have these; LLVM's major version goes with `rustc-web`.
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22-dev"];

/// More than the compiler, LLVM and the linker need.
const ROUNDS: usize = 4;

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
pub(crate) enum Core {
    /// Built, in the sysroot.
    Built,
    /// Its source is in the sysroot (rustup's component rust-src): cargo builds it.
    Source,
}

/// The first part that is missing, and what installs it.
#[derive(Debug)]
pub(crate) struct Missing {
    what: String,
    hint: Remedy,
}

#[derive(Debug)]
enum Remedy {
    Apt(Vec<String>),
    Run(Step),
    ByHand(String),
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

    fn llvm_major(&self) -> Option<u32> {
        self.llvm.split('.').next()?.parse().ok()
    }

    fn probe(rustc: PathBuf) -> Option<Self> {
        let version = Step::new(&rustc).arg("-vV").ask()?;
        let field = |name: &str| {
            let value = version.lines().find_map(|line| line.strip_prefix(name));
            value.map(str::to_owned)
        };
        let sysroot = Step::new(&rustc).args(["--print", "sysroot"]).ask()?;
        let sysroot = fs::canonicalize(sysroot.trim_end()).ok()?;
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
    /// The toolchain of this host, or the first part that it lacks.
    pub(crate) fn find(workspace: &Workspace) -> Result<Self, Missing> {
        let compilers = compilers();
        let (compiler, major) = best(&compilers).ok_or_else(|| no_compiler(&compilers))?;
        let llvm_prefix = llvm(major).ok_or_else(|| Missing {
            what: format!("LLVM {major} with headers and llvm-strip"),
            hint: if exists("apt-get") {
                Remedy::Apt(vec![format!("llvm-{major}-dev")])
            } else {
                Remedy::ByHand(format!(
                    "install LLVM {major} with its headers and set LLVM_PREFIX to its folder"
                ))
            },
        })?;
        // `bpf-linker --version` does not name its LLVM: the folder does.
        let root = workspace
            .target
            .join("bpf-toolchain")
            .join(format!("bpf-linker-{LINKER_VERSION}-llvm-{major}"));
        let linker_folder = root.join("bin");
        // It may be present and not start: its LLVM can have been removed since.
        if !exists(linker_folder.join("bpf-linker")) {
            let install = Step::new("cargo")
                .args(["install", "bpf-linker", "--version", LINKER_VERSION])
                .args(["--locked", "--no-default-features", "--features"])
                .args([format!("llvm-{major}"), "--root".into()])
                .arg(root)
                .env("LLVM_PREFIX", llvm_prefix);
            return Err(Missing {
                what: format!("bpf-linker {LINKER_VERSION} for LLVM {major}"),
                hint: Remedy::Run(install),
            });
        }
        Ok(Self {
            compiler: compiler.clone(),
            llvm_prefix,
            linker_folder,
        })
    }

    /// Installs what is missing, part by part.
    pub(crate) fn install(workspace: &Workspace) -> Result<Self> {
        let mut last = String::new();
        for _ in 0..ROUNDS {
            let missing = match Self::find(workspace) {
                Ok(toolchain) => return Ok(toolchain),
                Err(missing) => missing,
            };
            ensure!(missing.what != last, "still missing after its cure: {last}");
            eprintln!("installing {}", missing.what);
            match &missing.hint {
                Remedy::Apt(packages) => apt_install(packages),
                Remedy::Run(step) => step.run(),
                Remedy::ByHand(advice) => bail!("no command does it on this host: {advice}"),
            }
            .with_context(|| format!("cannot install {}", missing.what))?;
            last = missing.what;
        }
        bail!("still missing after {ROUNDS} rounds: {last}")
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "missing: {}; cure: ", self.what)?;
        match &self.hint {
            Remedy::Apt(packages) => write!(formatter, "`{}`", apt_step(packages)),
            Remedy::Run(step) => write!(formatter, "`{step}`"),
            Remedy::ByHand(advice) => formatter.write_str(advice),
        }
    }
}

/// Every compiler of rustup, of `PATH` and of Debian, each sysroot once.
fn compilers() -> Vec<Compiler> {
    let list = Step::new("rustup").args(["toolchain", "list", "-v"]).ask();
    // "NAME (active, default) PATH"
    let rustup = list.iter().flat_map(|list| list.lines());
    let rustup = rustup.filter_map(|line| Some(format!("/{}/bin", line.split_once('/')?.1)));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut sysroots = BTreeSet::new();
    rustup
        .map(PathBuf::from)
        .chain(env::split_paths(&path))
        .chain(["/usr/bin".into()])
        .map(|folder| folder.join("rustc"))
        .filter(|rustc| rustc.is_file())
        .filter_map(Compiler::probe)
        .filter(|compiler| sysroots.insert(compiler.sysroot.clone()))
        .collect()
}

/// The best compiler that bpf-linker works with, and LLVM's major version.
fn best(compilers: &[Compiler]) -> Option<(&Compiler, u32)> {
    compilers
        .iter()
        .filter(|compiler| compiler.core.is_some())
        .filter_map(|compiler| Some((compiler, compiler.llvm_major()?)))
        .filter(|(_, major)| LINKER_LLVMS.contains(major))
        .min_by_key(|(compiler, _)| compiler.core)
}

fn no_compiler(compilers: &[Compiler]) -> Missing {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let found: Vec<_> = compilers.iter().map(Compiler::describe).collect();
    let nightly = ["toolchain", "install", "nightly", "--component", "rust-src"];
    Missing {
        what: format!(
            "a Rust compiler with core for the BPF target and LLVM {} to {} (found without: {})",
            LINKER_LLVMS.start(),
            LINKER_LLVMS.end(),
            found.join("; ")
        ),
        hint: if release.lines().any(|line| line == "ID=debian") {
            Remedy::Apt(DEBIAN_COMPILER.map(str::to_owned).into())
        } else if exists("rustup") {
            Remedy::Run(Step::new("rustup").args(nightly))
        } else {
            Remedy::ByHand(format!(
                "install rustup, then `rustup {}`",
                nightly.join(" ")
            ))
        },
    }
}

/// The prefix of a complete LLVM: the linker needs headers and libraries to be built, and the
/// object is stripped by llvm-strip.
fn llvm(major: u32) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let prefixes = env::split_paths(&path).filter_map(|folder| Some(folder.parent()?.to_owned()));
    let complete = |prefix: &PathBuf| {
        ["bin/llvm-strip", "include/llvm-c/Core.h"]
            .iter()
            .all(|file| prefix.join(file).is_file())
            && Step::new(prefix.join("bin/llvm-config"))
                .arg("--version")
                .ask()
                .is_some_and(|version| version.starts_with(&format!("{major}.")))
    };
    env::var_os("LLVM_PREFIX")
        .map(PathBuf::from)
        .into_iter()
        .chain([format!("/usr/lib/llvm-{major}").into()])
        .chain(prefixes)
        .find(complete)
}

/// Whether a program starts.
pub(crate) fn exists(program: impl AsRef<Path>) -> bool {
    let program = program.as_ref().as_os_str();
    Step::new(program).arg("--version").ask().is_some()
}

fn apt_step(packages: &[impl AsRef<str>]) -> Step {
    apt::install(Step::new("apt-get"), packages)
}

/// Installs those of `packages` that are not installed; needs root.
pub(crate) fn apt_install(packages: &[impl AsRef<str>]) -> Result<()> {
    static LISTS: Once = Once::new();
    let installed = |package: &str| {
        let step = Step::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}"]);
        step.arg(package).ask().as_deref() == Some("installed")
    };
    let names = packages.iter().map(AsRef::as_ref);
    let missing: Vec<_> = names.filter(|name| !installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(
        Uid::effective().is_root(),
        "cannot install packages: not root; run `{}` as root",
        apt_step(&missing)
    );
    LISTS.call_once(|| {
        // One source of many may be unreachable; whether that matters, the installation shows.
        if let Err(error) = Step::new("apt-get").args(["update", "-q"]).run() {
            eprintln!("warning: {error:#}");
        }
    });
    apt_step(&missing).run()
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
