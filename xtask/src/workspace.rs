//! Where things are: the root of the repository, cargo's target folder, the host's triple.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::step::Step;

/// Places and names that every subcommand needs.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// Cargo's target folder, wherever the user's configuration put it.
    pub(crate) target: PathBuf,
    /// The triple of this machine, as in `x86_64-unknown-linux-gnu`.
    pub(crate) host: String,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        // Cargo sets it for `cargo run`; the other value serves a binary started by hand.
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package
            .parent()
            .context("xtask lies in no workspace")?
            .to_owned();
        Ok(Self {
            target: target_folder(&root)?,
            host: host_triple()?,
            root,
        })
    }

    /// Where bpf-linker is installed, and nothing else.
    pub(crate) fn linkers(&self) -> PathBuf {
        self.target.join("bpf-toolchain")
    }

    /// Runs `step` from the root of the repository.
    pub(crate) fn at_root(&self, step: Step) -> Step {
        step.folder(&self.root)
    }
}

fn target_folder(root: &Path) -> Result<PathBuf> {
    let metadata = Step::cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .folder(root)
        .read()?;
    let metadata: serde_json::Value =
        serde_json::from_str(&metadata).context("`cargo metadata` did not print JSON")?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .context("`cargo metadata` names no target directory")
}

fn host_triple() -> Result<String> {
    let version = Step::new("rustc").arg("-vV").read()?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("`rustc -vV` names no host")
}
