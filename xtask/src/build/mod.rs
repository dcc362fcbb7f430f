//! `cargo xtask build`: the eBPF object from source, then the static binary with it inside.

pub(crate) mod binary;
pub(crate) mod ebpf;

use std::fs;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use xtask::object::{self, OBJECT, Record};

use crate::{
    toolchain::{self, Facts, Plan},
    workspace::Workspace,
};

/// Arguments of `build`.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Install what is missing for the BPF target (as root on Debian: by apt-get)
    #[arg(long)]
    install: bool,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// How the binary is optimised.
#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// Build the binary optimised: the default, and here so that it can be said
    #[arg(long)]
    release: bool,
    /// Build the binary for debugging
    #[arg(long, conflicts_with = "release")]
    debug: bool,
}

impl ProfileArgs {
    pub(crate) fn profile(&self) -> binary::Profile {
        if self.debug {
            binary::Profile::Debug
        } else {
            binary::Profile::Release
        }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &BuildArgs) -> Result<()> {
    let plan = if args.install {
        Plan::Ready(toolchain::install(workspace)?)
    } else {
        Plan::from_facts(&Facts::probe(workspace)?)
    };
    build_object(workspace, &plan)?;
    let binary = binary::build(workspace, args.profile.profile())?;
    let size = fs::metadata(&binary.path)
        .with_context(|| format!("cannot read {}", binary.path.display()))?
        .len();
    println!(
        "{}: {} KiB, static, for {}",
        binary.path.display(),
        size / 1024,
        binary.triple
    );
    Ok(())
}

/// Builds the kept object anew, only if it does not belong to the sources.
pub(crate) fn refresh_object(workspace: &Workspace) -> Result<()> {
    if check_kept(workspace).is_ok() {
        return Ok(());
    }
    build_object(workspace, &Plan::from_facts(&Facts::probe(workspace)?))
}

fn check_kept(workspace: &Workspace) -> Result<()> {
    Record::read(&workspace.root)?.check(&workspace.root)
}

/// Builds the object and keeps it; without a toolchain, makes sure that the kept one serves.
fn build_object(workspace: &Workspace, plan: &Plan) -> Result<()> {
    let toolchain = match plan {
        Plan::Ready(toolchain) => toolchain,
        Plan::Missing(cures) => {
            let missing = toolchain::describe(cures);
            if let Err(error) = check_kept(workspace) {
                return Err(anyhow!(
                    "`cargo xtask build --install` brings what is missing:\n  {missing}"
                )
                .context(error));
            }
            eprintln!(
                "{OBJECT} stays as it is and belongs to the sources; to build it, \
                 `cargo xtask build --install` brings what is missing:\n  {missing}"
            );
            return Ok(());
        }
    };
    let object = ebpf::build(workspace, toolchain)?;
    let compiler = toolchain.compiler.describe();
    let changed = object::keep(&workspace.root, &object, &compiler)?;
    eprintln!(
        "{OBJECT}: {} bytes, {}",
        object.len(),
        if changed { "changed" } else { "as it was" }
    );
    Ok(())
}
