//! What is released: version, commit, time, machine, and what Debian and RPM call that machine.

use anyhow::{Context as _, Result, bail};

use crate::{build::binary, step::Step, workspace::Workspace};

/// The package's name everywhere.
pub(super) const NAME: &str = "tcp-status";

/// A release for one kind of machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Release {
    /// Root of the repository.
    pub(super) root: std::path::PathBuf,
    /// As in Cargo.toml.
    pub(super) version: String,
    /// Of the package, among those of the same version.
    pub(super) revision: u32,
    /// The commit that is packaged.
    pub(super) commit: String,
    /// Its time, in seconds since 1970: the time of every file.
    pub(super) epoch: i64,
    /// What the binary is built for.
    pub(super) triple: String,
    /// What is built for this machine.
    pub(super) host: String,
    /// Whether this machine can run the binary.
    pub(super) native: bool,
}

impl Release {
    pub(super) fn new(workspace: &Workspace, target: Option<&str>, revision: u32) -> Result<Self> {
        let git = |args: &[&str]| {
            let step = Step::new("git").args(args.iter().copied());
            workspace
                .at_root(step)
                .read()
                .map(|line| line.trim_end().to_owned())
                .context("packages are made of a commit; run this in a git checkout")
        };
        let commit = git(&["rev-parse", "HEAD"])?;
        let epoch = git(&["log", "-1", "--format=%ct", &commit])?;
        let changed = git(&["status", "--porcelain"])?;
        if !changed.is_empty() {
            eprintln!("warning: not committed, and so not packaged:\n{changed}");
        }
        let host = binary::static_triple(workspace);
        let triple = target.map_or_else(|| host.clone(), str::to_owned);
        let release = Self {
            root: workspace.root.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision,
            epoch: epoch.parse().context("git tells no time")?,
            commit,
            native: machine(&triple) == machine(&host),
            host,
            triple,
        };
        release.debian()?;
        Ok(release)
    }

    /// The same, as a package that replaces this one.
    pub(super) fn next(&self) -> Self {
        Self {
            revision: self.revision + 1,
            ..self.clone()
        }
    }

    /// Debian's name for the machine.
    pub(super) fn debian(&self) -> Result<&'static str> {
        Ok(match machine(&self.triple) {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => {
                bail!("no packages for {other}: the tracker's eBPF part is for x86-64 and arm64")
            }
        })
    }

    /// RPM's and the kernel's name for the machine.
    pub(super) fn machine(&self) -> &str {
        machine(&self.triple)
    }
}

fn machine(triple: &str) -> &str {
    triple.split('-').next().unwrap_or(triple)
}

#[cfg(test)]
pub(super) fn example(triple: &str) -> Release {
    Release {
        root: "/src".into(),
        version: "0.1.0".into(),
        revision: 1,
        commit: "0123456789".into(),
        epoch: 1_700_000_000,
        triple: triple.into(),
        host: triple.into(),
        native: true,
    }
}

#[cfg(test)]
mod tests {
    use super::example;

    #[test]
    fn machines_have_their_packagers_names() {
        let arm = example("aarch64-unknown-linux-musl");
        assert_eq!((arm.debian().unwrap(), arm.machine()), ("arm64", "aarch64"));
        let error = example("s390x-unknown-linux-gnu").debian().unwrap_err();
        assert!(error.to_string().starts_with("no packages for s390x"));
    }
}
