//! Carries out what the plan asks for, or says it. Decides nothing.

use std::{fmt, sync::Once};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Uid;

use super::{
    Facts, Plan, Toolchain,
    cure::{Cure, Remedy},
};
use crate::{step::Step, workspace::Workspace};

/// Apt's lists of packages are brought up to date once.
static LISTS: Once = Once::new();

/// Compiler, LLVM and linker can each need a look at what the one before brought.
const ROUNDS: usize = 4;

/// Installs what is missing for the BPF target.
pub(crate) fn install(workspace: &Workspace) -> Result<Toolchain> {
    let mut last = String::new();
    for _ in 0..ROUNDS {
        let cures = match Plan::from_facts(&Facts::probe(workspace)?) {
            Plan::Ready(toolchain) => return Ok(toolchain),
            Plan::Missing(cures) => cures,
        };
        let missing = describe(&cures);
        ensure!(missing != last, "still missing after its cure: {missing}");
        for cure in &cures {
            eprintln!("installing {}", cure.missing);
            cure.carry_out()
                .with_context(|| format!("cannot install {}", cure.missing))?;
        }
        last = missing;
    }
    bail!("still missing after {ROUNDS} rounds: {last}")
}

/// What is missing and its cures, a line each.
pub(crate) fn describe(cures: &[Cure]) -> String {
    let lines: Vec<_> = cures
        .iter()
        .map(|cure| format!("{}; cure: {}", cure.missing, cure.remedy))
        .collect();
    lines.join("\n  ")
}

impl Cure {
    fn carry_out(&self) -> Result<()> {
        match &self.remedy {
            Remedy::Apt(packages) => apt_install(packages),
            Remedy::Run(step) => step.run(),
            Remedy::Advice(advice) => bail!("no command does it on this host: {advice}"),
        }
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apt(packages) => write!(formatter, "`{}`", apt(packages)),
            Self::Run(step) => write!(formatter, "`{step}`"),
            Self::Advice(advice) => formatter.write_str(advice),
        }
    }
}

fn apt(packages: &[String]) -> Step {
    Step::new("apt-get")
        .args(["install", "-y", "--no-install-recommends", "--no-remove"])
        .args(packages)
}

/// Installs those of `packages` that are not there; needs root.
pub(crate) fn apt_install(packages: &[String]) -> Result<()> {
    let missing: Vec<_> = packages
        .iter()
        .filter(|package| !installed(package))
        .cloned()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(
        Uid::effective().is_root(),
        "this needs root; run `{}` as root, then try again",
        apt(&missing)
    );
    LISTS.call_once(|| {
        // One source of many may be unreachable; whether that matters, the installation shows.
        if let Err(error) = Step::new("apt-get").args(["update", "-q"]).run() {
            eprintln!("warning: {error:#}");
        }
    });
    apt(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Packages with a daemon start it, but not in runlevel 1.
        .env("RUNLEVEL", "1")
        .run()
}

fn installed(package: &str) -> bool {
    Step::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .ask()
        .is_some_and(|status| status == "installed")
}
