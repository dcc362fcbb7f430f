//! Packages are tried: installed, used, upgraded, removed and purged, in a Debian of their own.
//! First in a folder, without anything running; then in a virtual machine with systemd. Owns the
//! order; the machine's part is the shell's: `trial.sh`, and a file for each kind of package.

mod machine;
mod root;
mod scratch;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    PROGRAMS, accel,
    apt::Apt,
    busybox,
    initramfs::Content,
    kernels::{self, SUITES, Version},
    provide,
};
use crate::{build::binary, step::Step, tally::Tally, workspace::Workspace};

/// The kernel that packages are tried on.
pub(crate) const KERNEL: &str = "6.12";

/// Brings the Debian.
const MMDEBSTRAP: (&str, &str) = ("mmdebstrap", "mmdebstrap");

/// What is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packages<'a> {
    pub(crate) deb: Pair<'a>,
    pub(crate) rpm: Pair<'a>,
}

/// The same package twice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub(crate) first: &'a Path,
    /// Of a higher version.
    pub(crate) upgrade: &'a Path,
}

/// Tries the packages, and counts what went well.
pub(crate) fn run(
    workspace: &Workspace,
    packages: Packages<'_>,
    kernel: &Version,
    install: bool,
    tally: &mut Tally,
) -> Result<()> {
    let programs: Vec<_> = PROGRAMS.into_iter().chain([MMDEBSTRAP]).collect();
    provide(&programs, install, "package --try")?;
    let folder = workspace.target.join("vm");
    let apt = Apt::new(folder.join("apt"), &SUITES)?;
    let kernels = kernels::get(&apt, &folder.join("kernels"), std::slice::from_ref(kernel))?;
    let kernel = kernels.first().context("no kernel")?;
    let busybox = busybox(&apt, &folder.join("busybox"))?;
    let debian = root::debian(&folder.join("debian"))?;

    scratch::check(&debian, packages, &folder.join("scratch"), tally);

    let nothing = Content {
        busybox: &busybox,
        tests: &[],
        arguments: &[],
        environment: &[],
        files: &[],
        limit: Duration::ZERO,
    };
    let accel = accel::best(&folder, kernel, &nothing)?;
    let trial = machine::Trial {
        packages,
        kernel,
        accel,
        busybox: &busybox,
        debian: &debian,
        traffic: &traffic(workspace)?,
        folder: &folder.join("trial"),
    };
    tally.add(trial.run()?);
    Ok(())
}

/// The program that holds connections in every state, static.
fn traffic(workspace: &Workspace) -> Result<PathBuf> {
    let triple = binary::static_triple(workspace);
    let step = Step::cargo()
        .args(["build", "--locked", "--package", "tcp-status-testkit"])
        .args([
            "--bin",
            "tcp-traffic",
            "--profile",
            "vm",
            "--target",
            &triple,
        ])
        .env("CARGO_ENCODED_RUSTFLAGS", binary::flags());
    workspace.at_root(step).run()?;
    Ok(workspace.target.join(triple).join("vm/tcp-traffic"))
}
