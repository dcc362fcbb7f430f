//! What can be missing for the BPF target, and what brings it. Pure: names commands, runs none.

use std::path::PathBuf;

use super::{Compiler, Facts, LINKER_VERSION, Packages, facts::linker_folder};
use crate::step::Step;

/// Debian 12 and later have these; LLVM's major version goes with `rustc-web`.
const DEBIAN_COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
pub(super) const DEBIAN_LLVM: u32 = 22;

/// bpf-linker is built against one of these.
pub(super) const LINKER_LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// What is missing, and the command that brings it, if one does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cure {
    pub(crate) missing: String,
    pub(crate) remedy: Remedy,
}

/// How a missing thing is got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Debian packages.
    Apt(Vec<String>),
    /// Any other command.
    Run(Step),
    /// By hand: no command is right for every host.
    Advice(String),
}

/// Where apt puts LLVM.
pub(super) fn apt_prefix(major: u32) -> PathBuf {
    format!("/usr/lib/llvm-{major}").into()
}

pub(super) fn without_compiler(facts: &Facts) -> Cure {
    let passed_over: Vec<_> = facts
        .compilers
        .iter()
        .map(|compiler| format!("rustc {} (LLVM {})", compiler.release, compiler.llvm))
        .collect();
    let missing = format!(
        "a Rust compiler with core for the BPF target and LLVM {} to {} (found without: {})",
        LINKER_LLVMS.start(),
        LINKER_LLVMS.end(),
        if passed_over.is_empty() {
            "none".to_owned()
        } else {
            passed_over.join(", ")
        }
    );
    let remedy = match (facts.packages, facts.rustup) {
        (Packages::Debian, _) => Remedy::Apt(
            DEBIAN_COMPILER
                .into_iter()
                .map(str::to_owned)
                .chain([format!("llvm-{DEBIAN_LLVM}-dev")])
                .collect(),
        ),
        (_, true) => Remedy::Run(Step::new("rustup").args([
            "toolchain",
            "install",
            "nightly",
            "--component",
            "rust-src",
        ])),
        (_, false) => Remedy::Advice(
            "install rustup, then `rustup toolchain install nightly --component rust-src`"
                .to_owned(),
        ),
    };
    Cure { missing, remedy }
}

pub(super) fn without_llvm(facts: &Facts, compiler: &Compiler, major: u32) -> Cure {
    let remedy = match facts.packages {
        Packages::Debian | Packages::Apt => Remedy::Apt(vec![format!("llvm-{major}-dev")]),
        Packages::Other => Remedy::Advice(format!(
            "install LLVM {major} with its headers, and set LLVM_PREFIX to the folder that has \
             its bin/llvm-config"
        )),
    };
    Cure {
        missing: format!(
            "LLVM {major} with headers and llvm-strip, for rustc {}",
            compiler.release
        ),
        remedy,
    }
}

pub(super) fn without_linker(facts: &Facts, llvm_prefix: PathBuf, major: u32) -> Option<Cure> {
    if facts.linkers.iter().any(|linker| linker.llvm == major) {
        return None;
    }
    let step = Step::new("cargo")
        .args(["install", "bpf-linker", "--version", LINKER_VERSION])
        .args(["--locked", "--no-default-features", "--features"])
        .arg(format!("llvm-{major}"))
        .arg("--root")
        .arg(linker_folder(&facts.linkers_folder, major))
        .env("LLVM_PREFIX", llvm_prefix);
    Some(Cure {
        missing: format!("bpf-linker {LINKER_VERSION} for LLVM {major}"),
        remedy: Remedy::Run(step),
    })
}
