//! `cargo xtask lint`: formatting, and clippy for the host's crates and for the BPF target. What
//! cannot run here is skipped with its reason.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    ebpf,
    step::Step,
    structure,
    test_totals::{Outcome, TestTotals},
    toolchain::{Missing, Toolchain},
    workspace::Workspace,
};

const FORMATTING: [&str; 3] = ["fmt", "--all", "--check"];
const CLIPPY: [&str; 6] = [
    "clippy",
    "--locked",
    "--all-targets",
    "--",
    "-D",
    "warnings",
];

pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let mut totals = TestTotals::default();
    check(workspace, &Toolchain::find(workspace), &mut totals);
    println!("{totals}");
    Ok(totals.exit_code())
}

/// Adds the outcome of every lint to `totals`.
pub(crate) fn check(
    workspace: &Workspace,
    toolchain: &Result<Toolchain, Missing>,
    totals: &mut TestTotals,
) {
    for (name, component, args) in [
        ("formatting", "rustfmt", &FORMATTING[..]),
        ("clippy", "clippy", &CLIPPY),
    ] {
        totals.check(name, || {
            if Step::cargo().args([args[0], "--version"]).ask().is_none() {
                return Ok(Outcome::Skipped(format!(
                    "no {component}; install it: rustup component add {component}"
                )));
            }
            let step = Step::cargo().args(args.iter().copied());
            workspace.at_root(step).run()?;
            Ok(Outcome::Passed)
        });
    }
    totals.check("structure", || {
        structure::check(workspace)?;
        Ok(Outcome::Passed)
    });
    totals.check("clippy for the BPF target", || match toolchain {
        Ok(toolchain) if ebpf::lint(workspace, toolchain)? => Ok(Outcome::Passed),
        Ok(toolchain) => Ok(Outcome::Skipped(format!(
            "no clippy beside {}; install it on Debian: apt-get install rust-web-clippy",
            toolchain.compiler.rustc.display()
        ))),
        Err(missing) => Ok(Outcome::Skipped(missing.to_string())),
    });
}
