//! The programs that packages are made with, and how they are brought. Decides nothing.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::{step::Step, toolchain, workspace::Workspace};

/// Cargo's subcommands, in the versions that were tried.
const CRATES: [(&str, &str); 4] = [
    ("cargo-deb", "3.8.0"),
    ("cargo-generate-rpm", "0.21.1"),
    ("cargo-cyclonedx", "0.5.9"),
    ("cargo-deny", "0.20.2"),
];

/// Programs of the system: without them, the checks that need them are skipped.
const PACKAGES: [&str; 2] = ["lintian", "rpm"];

/// Where cargo's subcommands are.
#[derive(Debug)]
pub(super) struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Makes sure that all are there.
    pub(super) fn provide(workspace: &Workspace, install: bool) -> Result<Self> {
        let tools = Self {
            folder: workspace.target.join("package-tools"),
        };
        let missing: Vec<_> = CRATES
            .iter()
            .filter(|(name, version)| !tools.path(name, version).is_file())
            .map(|(name, version)| tools.installation(name, version))
            .collect();
        if install {
            for step in &missing {
                eprintln!("{step}");
                step.run()?;
            }
            toolchain::apt_install(&PACKAGES.map(str::to_owned))?;
        } else if !missing.is_empty() {
            let steps: Vec<_> = missing.iter().map(Step::to_string).collect();
            bail!(
                "programs are missing; `cargo xtask package --install` runs:\n  {}",
                steps.join("\n  ")
            );
        }
        Ok(tools)
    }

    /// One of cargo's subcommands, to be run in `folder`.
    pub(super) fn step(&self, name: &str, folder: &Path) -> Step {
        let version = CRATES.iter().find(|(known, _)| *known == name);
        Step::new(self.path(name, version.map_or("", |(_, version)| version))).folder(folder)
    }

    /// The name of the folder says what is in it: no program has to be asked for its version.
    fn root(&self, name: &str, version: &str) -> PathBuf {
        self.folder.join(format!("{name}-{version}"))
    }

    fn path(&self, name: &str, version: &str) -> PathBuf {
        self.root(name, version).join("bin").join(name)
    }

    fn installation(&self, name: &str, version: &str) -> Step {
        Step::cargo()
            .args(["install", name, "--version", version, "--locked", "--root"])
            .arg(self.root(name, version))
            .args(["--target-dir".into(), self.folder.join("build")])
    }
}
