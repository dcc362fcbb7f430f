//! `cargo xtask`: builds, runs and tests tcp-status. One clap definition; one file or folder for
//! each subcommand. Progress goes to stderr.

mod apt;
mod bench;
mod build;
mod files;
mod fuzz;
mod lint;
mod object;
mod package;
mod process;
mod reproducible;
mod run;
mod soak;
mod step;
mod test;
mod test_totals;
mod toolchain;
mod types;
mod vm;
mod workspace;
mod zabbix;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Build, run and test tcp-status
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the eBPF object from source, then the static tcp-status binary
    ///
    /// Without a toolchain for the BPF target, the object kept in the repository is used, if it
    /// belongs to the sources.
    Build(build::BuildArgs),
    /// Build if needed, then `tcp-status run`, by sudo where that is needed
    ///
    /// Without root and sudo, counts come from the kernel's tables, without eBPF.
    Run(run::RunArgs),
    /// The same as `run`: the programs live as long as the tracker, so loading them is running it
    Load(run::RunArgs),
    /// Build, lint and test everything; ends with `N passed, N failed, N skipped`
    Test(test::TestArgs),
    /// Feed invented bytes to every parser that reads what others control
    Fuzz(fuzz::FuzzArgs),
    /// A tracker beside mixed churn for long: flat memory and files, exact counts
    Soak(soak::SoakArgs),
    /// The tests on several kernels, each in a virtual machine
    Vm(vm::VmArgs),
    /// A .deb, a .rpm, a static tarball and an image of what is committed, in target/package
    #[command(visible_alias = "release")]
    Package(package::PackageArgs),
    /// Agent, template and tracker with real Zabbix servers, on loopback
    Zabbix(zabbix::ZabbixArgs),
    /// Measure what counting and asking cost, beside what else there is, as root
    ///
    /// Writes tables and plots. Makes its traffic in a network namespace of its own.
    Bench(bench::BenchArgs),
    /// Reduce a kernel's BTF to the types that tcp-status looks up, as test data
    Types(types::TypesArgs),
    /// Formatting, clippy for all crates, and the structure of the sources
    Lint,
    /// What `bench` runs in a virtual machine
    #[command(hide = true)]
    Guest(bench::GuestArgs),
}

fn main() -> ExitCode {
    run(&Cli::parse().command).unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: &Command) -> Result<ExitCode> {
    // There is none in a virtual machine.
    let workspace = Workspace::find;
    match command {
        Command::Run(args) | Command::Load(args) => match run::run(&workspace()?, args)? {},
        Command::Test(args) => return test::run(&workspace()?, args),
        Command::Fuzz(args) => return fuzz::run(&workspace()?, args),
        Command::Soak(args) => return soak::run(&workspace()?, args),
        Command::Vm(args) => return vm::run(&workspace()?, args),
        Command::Package(args) => return package::run(&workspace()?, args),
        Command::Zabbix(args) => return zabbix::run(&workspace()?, args),
        Command::Lint => return Ok(lint::run(&workspace()?)),
        Command::Build(args) => build::run(&workspace()?, args)?,
        Command::Bench(args) => bench::run(&workspace()?, args)?,
        Command::Guest(args) => bench::inside(args)?,
        Command::Types(args) => types::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}
