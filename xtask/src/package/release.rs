//! What is packaged, and with which tools.

use anyhow::{Result, bail};

use crate::{
    step::Step,
    tools::{self, Tool},
    workspace::Workspace,
};

pub(super) const CARGO_DEB: Tool = ("cargo-deb", "3.8.0");
pub(super) const CARGO_GENERATE_RPM: Tool = ("cargo-generate-rpm", "0.21.1");
pub(super) const CARGO_CYCLONEDX: Tool = ("cargo-cyclonedx", "0.5.9");
pub(super) const CARGO_DENY: Tool = ("cargo-deny", "0.20.2");

/// The package's name everywhere.
pub(super) const NAME: &str = "tcp-status";
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What is packaged.
pub(super) struct Release<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) commit: String,
    /// The commit's time, in seconds since 1970: the time of every file.
    pub(super) epoch: String,
    pub(super) triple: String,
}

impl Release<'_> {
    /// RPM's and the kernel's name for the machine.
    pub(super) fn machine(&self) -> &str {
        self.triple.split('-').next().unwrap_or_default()
    }

    /// Debian's name for it.
    pub(super) fn architecture(&self) -> Result<&'static str> {
        match self.machine() {
            "x86_64" => Ok("amd64"),
            "aarch64" => Ok("arm64"),
            other => {
                bail!("cannot package for {other}: the eBPF programs are for x86-64 and arm64")
            }
        }
    }

    /// One of cargo's subcommands, which takes the release's time from its environment.
    pub(super) fn tool(&self, tool: Tool) -> Step {
        let program = tools::program(self.workspace, tool);
        Step::new(program).env("SOURCE_DATE_EPOCH", &self.epoch)
    }
}
