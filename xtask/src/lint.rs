//! `cargo xtask lint`: formatting, and clippy for the host's crates and for the BPF target. What
//! cannot run here is skipped with its reason.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    build::ebpf,
    step::Step,
    tally::{Outcome, Tally},
    toolchain::{self, Facts, Plan},
    workspace::Workspace,
};

pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let plan = Plan::from_facts(&Facts::probe(workspace)?);
    let mut tally = Tally::default();
    check(workspace, &plan, &mut tally);
    println!("{tally}");
    Ok(tally.exit_code())
}

/// Adds the outcome of every lint to `tally`.
pub(crate) fn check(workspace: &Workspace, plan: &Plan, tally: &mut Tally) {
    tally.check("formatting", || {
        component("fmt", "rustfmt", &|| {
            let step = Step::cargo().args(["fmt", "--all", "--check"]);
            workspace.at_root(step).run()
        })
    });
    tally.check("clippy", || {
        component("clippy", "clippy", &|| {
            let step = Step::cargo()
                .args(["clippy", "--locked", "--all-targets", "--"])
                .args(["-D", "warnings"]);
            workspace.at_root(step).run()
        })
    });
    tally.check("clippy for the BPF target", || match plan {
        Plan::Ready(toolchain) if ebpf::lint(workspace, toolchain)? => Ok(Outcome::Passed),
        Plan::Ready(toolchain) => Ok(Outcome::Skipped(format!(
            "no clippy beside {}; on Debian, `apt-get install rust-web-clippy` brings it",
            toolchain.compiler.rustc.display()
        ))),
        Plan::Missing(cures) => Ok(Outcome::Skipped(toolchain::describe(cures))),
    });
}

/// Runs a check that needs a component of the Rust toolchain.
fn component(subcommand: &str, name: &str, check: &dyn Fn() -> Result<()>) -> Result<Outcome> {
    let installed = Step::cargo().args([subcommand, "--version"]).ask();
    if installed.is_none() {
        return Ok(Outcome::Skipped(format!(
            "no `cargo {subcommand}`; `rustup component add {name}` brings it"
        )));
    }
    check()?;
    Ok(Outcome::Passed)
}
