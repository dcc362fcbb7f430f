//! Subcommands of cargo in exact versions, installed below cargo's target folder.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{step::Step, workspace::Workspace};

/// A crate and the version that was tried.
pub(crate) type Tool = (&'static str, &'static str);

/// Its program; the folder names the version.
pub(crate) fn program(workspace: &Workspace, (name, version): Tool) -> PathBuf {
    let root = workspace.target.join("tools");
    root.join(format!("{name}-{version}/bin/{name}"))
}

/// Installs those that are missing, or fails with what installs them.
pub(crate) fn provide(workspace: &Workspace, tools: &[Tool], install: bool) -> Result<()> {
    for &(name, version) in tools {
        let program = program(workspace, (name, version));
        if program.is_file() {
            continue;
        }
        let step = Step::cargo()
            .args(["install", name, "--version", version, "--locked", "--root"])
            .args(program.ancestors().nth(2).map(PathBuf::from))
            .args(["--target-dir".into(), workspace.target.join("tools/build")]);
        if !install {
            bail!("cannot find {name} {version}; add --install, or run: {step}");
        }
        eprintln!("{step}");
        step.run()?;
    }
    Ok(())
}
