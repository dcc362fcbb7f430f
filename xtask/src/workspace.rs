//! Where things are: the root of the repository, cargo's target folder, the host's triple.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::step::{Step, Words, cargo, step};

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
        let root = package.parent().context("xtask lies in no workspace")?;
        let metadata = step!(cargo(), "metadata --no-deps --format-version 1").folder(root);
        let metadata: Value =
            serde_json::from_str(&metadata.read()?).context("`cargo metadata` printed no JSON")?;
        let target = metadata["target_directory"].as_str();
        let version = step!("rustc -vV").read()?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        Ok(Self {
            target: target
                .context("`cargo metadata` names no target folder")?
                .into(),
            host: host.context("`rustc -vV` names no host")?.to_owned(),
            root: root.to_owned(),
        })
    }

    /// A command of cargo, at the root of the repository.
    pub(crate) fn cargo(&self, words: impl Words) -> Step {
        step!(cargo(), words).folder(&self.root)
    }
}
