//! Which toolchain builds the eBPF object, or what is missing and how to get it. Pure: takes
//! facts, does nothing.

use std::path::PathBuf;

use super::{
    Compiler, Core, Facts, Packages,
    cure::{
        Cure, DEBIAN_LLVM, LINKER_LLVMS, apt_prefix, without_compiler, without_linker, without_llvm,
    },
};

/// What follows from the facts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Everything is there.
    Ready(Toolchain),
    /// Something is missing. The cures, in the order in which they have to run; after them
    /// the host must be looked at again.
    Missing(Vec<Cure>),
}

/// A complete toolchain for the BPF target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) llvm_prefix: PathBuf,
    /// The folder of bpf-linker, for `PATH`.
    pub(crate) linker_folder: PathBuf,
}

impl Plan {
    pub(crate) fn from_facts(facts: &Facts) -> Self {
        let Some((compiler, major)) = best_compiler(facts) else {
            let mut cures = vec![without_compiler(facts)];
            if facts.packages == Packages::Debian {
                cures.extend(without_linker(facts, apt_prefix(DEBIAN_LLVM), DEBIAN_LLVM));
            }
            return Self::Missing(cures);
        };
        let llvm = facts.llvms.iter().find(|llvm| llvm.major == major);
        let linker = facts.linkers.iter().find(|linker| linker.llvm == major);
        if let (Some(llvm), Some(linker)) = (llvm, linker) {
            return Self::Ready(Toolchain {
                compiler: compiler.clone(),
                llvm_prefix: llvm.prefix.clone(),
                linker_folder: linker.folder.clone(),
            });
        }
        let mut cures = Vec::new();
        if llvm.is_none() {
            cures.push(without_llvm(facts, compiler, major));
        }
        let prefix = match (llvm, facts.packages) {
            (Some(llvm), _) => Some(llvm.prefix.clone()),
            (None, Packages::Debian | Packages::Apt) => Some(apt_prefix(major)),
            (None, Packages::Other) => None,
        };
        cures.extend(prefix.and_then(|prefix| without_linker(facts, prefix, major)));
        Self::Missing(cures)
    }
}

/// With LLVM's major version. A built core goes first: the kept object was made with one.
fn best_compiler(facts: &Facts) -> Option<(&Compiler, u32)> {
    facts
        .compilers
        .iter()
        .filter(|compiler| compiler.core != Core::Missing)
        .filter_map(|compiler| Some((compiler, compiler.llvm_major()?)))
        .filter(|(_, major)| LINKER_LLVMS.contains(major))
        .min_by_key(|(compiler, _)| compiler.core)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::{Linker, Llvm, cure::Remedy};

    fn compiler(path: &str, llvm: &str, core: Core) -> Compiler {
        Compiler {
            rustc: format!("{path}/bin/rustc").into(),
            sysroot: path.into(),
            release: "1.96.0".into(),
            llvm: llvm.into(),
            core,
        }
    }

    /// A Debian host with nothing but rustup's stable.
    fn bare() -> Facts {
        Facts {
            packages: Packages::Debian,
            root: true,
            rustup: true,
            compilers: vec![compiler("/stable", "22.1.2", Core::Missing)],
            llvms: Vec::new(),
            linkers: Vec::new(),
            linkers_folder: "/target".into(),
        }
    }

    fn complete() -> Facts {
        Facts {
            compilers: vec![
                compiler("/stable", "22.1.2", Core::Missing),
                compiler("/usr", "22.1.8", Core::Built),
            ],
            llvms: vec![llvm(14), llvm(22)],
            linkers: vec![Linker {
                folder: "/target/linker".into(),
                llvm: 22,
            }],
            ..bare()
        }
    }

    fn llvm(major: u32) -> Llvm {
        Llvm {
            prefix: format!("/usr/lib/llvm-{major}").into(),
            major,
        }
    }

    fn toolchain(facts: &Facts) -> Toolchain {
        match Plan::from_facts(facts) {
            Plan::Ready(toolchain) => toolchain,
            Plan::Missing(cures) => panic!("missing: {cures:?}"),
        }
    }

    fn cures(facts: &Facts) -> Vec<Cure> {
        match Plan::from_facts(facts) {
            Plan::Ready(toolchain) => panic!("not missing: {toolchain:?}"),
            Plan::Missing(cures) => cures,
        }
    }

    fn cure(facts: &Facts) -> Cure {
        cures(facts).swap_remove(0)
    }

    #[test]
    fn complete_host_is_ready() {
        let toolchain = toolchain(&complete());
        assert_eq!(toolchain.compiler.rustc, PathBuf::from("/usr/bin/rustc"));
        assert_eq!(toolchain.llvm_prefix, PathBuf::from("/usr/lib/llvm-22"));
        assert_eq!(toolchain.linker_folder, PathBuf::from("/target/linker"));
    }

    #[test]
    fn bare_debian_gets_packages_then_the_linker() {
        let cures = cures(&bare());
        let [cure, linker] = &cures[..] else {
            panic!("{cures:?}")
        };
        assert!(linker.missing.starts_with("bpf-linker"));
        assert!(
            cure.missing
                .contains("found without: rustc 1.96.0 (LLVM 22.1.2)")
        );
        let Remedy::Apt(packages) = &cure.remedy else {
            panic!("{cure:?}")
        };
        assert_eq!(
            *packages,
            ["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22-dev"]
        );
    }

    #[test]
    fn nightly_without_source_is_passed_over() {
        let mut facts = bare();
        facts
            .compilers
            .push(compiler("/nightly", "22.1.4", Core::Missing));
        assert!(matches!(cure(&facts).remedy, Remedy::Apt(_)));
    }

    #[test]
    fn elsewhere_rustup_brings_the_compiler() {
        for packages in [Packages::Apt, Packages::Other] {
            let facts = Facts { packages, ..bare() };
            let Remedy::Run(step) = cure(&facts).remedy else {
                panic!("no command for {packages:?}")
            };
            assert_eq!(
                step.to_string(),
                "rustup toolchain install nightly --component rust-src"
            );
        }
        let facts = Facts {
            packages: Packages::Other,
            rustup: false,
            ..bare()
        };
        assert!(matches!(cure(&facts).remedy, Remedy::Advice(_)));
    }

    #[test]
    fn built_core_goes_before_source() {
        let mut facts = complete();
        facts
            .compilers
            .insert(0, compiler("/nightly", "22.1.4", Core::Source));
        assert_eq!(toolchain(&facts).compiler.core, Core::Built);
        facts.compilers.pop();
        assert_eq!(toolchain(&facts).compiler.core, Core::Source);
    }

    #[test]
    fn compiler_too_new_for_the_linker_is_passed_over() {
        let mut facts = complete();
        facts
            .compilers
            .insert(0, compiler("/nightly", "99.1.0", Core::Built));
        assert_eq!(toolchain(&facts).compiler.llvm, "22.1.8");
        facts.compilers.truncate(1);
        assert!(cure(&facts).missing.contains("LLVM 21 to 23"));
    }

    #[test]
    fn llvm_and_linker_of_another_major_version_do_not_serve() {
        let mut facts = complete();
        facts.llvms = vec![llvm(14)];
        assert_eq!(
            cure(&facts).remedy,
            Remedy::Apt(vec!["llvm-22-dev".to_owned()])
        );
        facts.packages = Packages::Other;
        assert!(matches!(cure(&facts).remedy, Remedy::Advice(_)));

        let mut facts = complete();
        facts.linkers[0].llvm = 21;
        let Remedy::Run(step) = cure(&facts).remedy else {
            panic!("no command")
        };
        assert_eq!(
            step.to_string(),
            "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked \
             --no-default-features --features llvm-22 \
             --root /target/bpf-linker-0.13.0-llvm-22"
        );
    }
}
