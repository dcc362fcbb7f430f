//! What builds for the BPF target: a compiler that has `core` for it, LLVM of the same major
//! version, and bpf-linker built against that LLVM. Facts, then plan, then effect: `facts` looks
//! at the host, `plan` decides, `install` carries the plan's cures out. Does not build the object.

mod cure;
mod facts;
mod install;
mod plan;

use std::path::PathBuf;

pub(crate) use facts::Facts;
pub(crate) use install::{apt_install, describe, install};
pub(crate) use plan::{Plan, Toolchain};

/// The target of the eBPF programs.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// The release of bpf-linker that the kept object is made with.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// A Rust compiler on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    /// `rustc --print sysroot`.
    pub(crate) sysroot: PathBuf,
    /// As in `1.96.0` or `1.98.0-nightly`.
    pub(crate) release: String,
    /// As in `22.1.8`.
    pub(crate) llvm: String,
    pub(crate) core: Core,
}

impl Compiler {
    /// LLVM's major version, which all parts of the toolchain must share.
    pub(crate) fn llvm_major(&self) -> Option<u32> {
        self.llvm.split('.').next()?.parse().ok()
    }

    /// What the record of the object says of its compiler.
    pub(crate) fn describe(&self) -> String {
        format!(
            "rustc {} (LLVM {}), bpf-linker {LINKER_VERSION}",
            self.release, self.llvm
        )
    }
}

/// Where a compiler takes `core` for the BPF target from; the better first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Core {
    /// It lies built in the sysroot.
    Built,
    /// Its source lies in the sysroot (rustup's component rust-src): cargo builds it.
    Source,
    /// Nowhere.
    Missing,
}

/// The development files of an LLVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Llvm {
    pub(crate) prefix: PathBuf,
    pub(crate) major: u32,
}

/// A bpf-linker of release [`LINKER_VERSION`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linker {
    /// The folder to put into `PATH`.
    pub(crate) folder: PathBuf,
    /// Major version of the LLVM that it was built against.
    pub(crate) llvm: u32,
}

/// Who installs software on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packages {
    /// Debian, which packages a compiler with `core` for the BPF target.
    Debian,
    /// Ubuntu and others with apt: LLVM, but no such compiler.
    Apt,
    /// Anything else.
    Other,
}
