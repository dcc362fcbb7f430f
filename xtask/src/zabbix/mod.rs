//! `cargo xtask zabbix`: agents, templates and tracker with real Zabbix servers. Everything comes
//! out of Debian's packages, unpacked into a temporary folder, and runs as an ordinary user in
//! network and PID namespaces of its own.

mod agents;
mod api;
mod checks;
mod database;
mod fleet;
mod frontend;
mod hosts;
mod packages;
mod pictures;
mod place;
mod process;
mod report;
mod round;
mod server;
mod subject;
mod version;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::unistd::Uid;

use self::{report::Report, version::Version};
use crate::{
    apt::Apt,
    step::Step,
    tally::{Outcome, Tally},
    toolchain::apt_install,
    vm,
    workspace::Workspace,
};

/// Arguments of `zabbix`.
#[derive(Debug, Args)]
pub(crate) struct ZabbixArgs {
    /// Zabbix versions: 6.0, 7.0 [default: both]
    versions: Vec<Version>,
    /// Install what is missing for pictures of the dashboard (Debian, as root)
    #[arg(long)]
    install: bool,
    /// One round, of a process that need not clear up behind it
    #[arg(long, hide = true)]
    round: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &ZabbixArgs) -> Result<ExitCode> {
    let tally = match args.versions.as_slice() {
        &[version] if args.round => round(workspace, version)?,
        [] => run_versions(workspace, &Version::ALL, args.install)?,
        versions => run_versions(workspace, versions, args.install)?,
    };
    println!("{tally}");
    Ok(tally.exit_code())
}

/// All versions; for `cargo xtask test`.
pub(crate) fn run_all(workspace: &Workspace, install: bool) -> Result<Tally> {
    run_versions(workspace, &Version::ALL, install)
}

/// What a round is made from.
struct Parts<'a> {
    /// The repository.
    root: &'a Path,
    binary: PathBuf,
    packages: PathBuf,
    /// Where pictures go.
    pictures: PathBuf,
}

/// Gets everything that a round needs, then does the rounds, beside each other: mostly they wait.
fn run_versions(workspace: &Workspace, versions: &[Version], install: bool) -> Result<Tally> {
    let mut tally = Tally::default();
    if let Some(reason) = obstacle() {
        for version in versions {
            tally.check(&format!("zabbix {version}"), || {
                Ok(Outcome::Skipped(reason.clone()))
            });
        }
        return Ok(tally);
    }
    if install {
        apt_install(&[pictures::PACKAGE])?;
    }
    let apt = Apt::new(
        folder(workspace).join("apt"),
        &Version::ALL.map(Version::suite),
    )?;
    for &version in versions {
        packages::provide(&apt, version, &packages_of(workspace, version))?;
    }
    vm::build(workspace)?;
    let program = own_copy(workspace)?;
    let rounds: Result<Vec<_>> = versions
        .iter()
        .map(|&version| Ok((version, start_round(&program, version)?)))
        .collect();
    for (version, round) in rounds? {
        let output = round.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (table, last) = text.trim_end().rsplit_once('\n').unwrap_or(("", &text));
        println!("{table}");
        match Tally::parse(last) {
            Some(counts) => tally.add(counts),
            None => tally.check(&format!("zabbix {version}"), || {
                bail!("the round ended without a result ({})", output.status)
            }),
        }
    }
    Ok(tally)
}

/// Several times what a round takes on a busy machine.
const MOST_SECONDS: &str = "600";

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("zabbix")
}

fn packages_of(workspace: &Workspace, version: Version) -> PathBuf {
    folder(workspace).join("packages").join(version.name())
}

/// This program: `cargo test` builds it again and deletes the file that was started.
fn own_copy(workspace: &Workspace) -> Result<PathBuf> {
    let copy = folder(workspace).join("xtask");
    // A copy that still runs may not be written to, but may be removed.
    let _: io::Result<()> = fs::remove_file(&copy);
    fs::copy("/proc/self/exe", &copy)
        .with_context(|| format!("cannot copy this program to {}", copy.display()))?;
    Ok(copy)
}

/// A round in a PID namespace: whatever it starts ends with it, however it ends.
fn start_round(program: &Path, version: Version) -> Result<Child> {
    let step = Step::new("timeout")
        .args(["--kill-after=5", MOST_SECONDS, "unshare"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(program)
        .args(["zabbix", "--round", version.name()]);
    step.command()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{step}`"))
}

fn round(workspace: &Workspace, version: Version) -> Result<Tally> {
    let parts = Parts {
        root: &workspace.root,
        binary: vm::program(workspace),
        packages: packages_of(workspace, version),
        pictures: folder(workspace).join("pictures"),
    };
    let mut report = Report::new(version);
    round::run(&parts, &mut report)?;
    println!("{}", report.table());
    Ok(report.tally())
}

fn obstacle() -> Option<String> {
    if Uid::effective().is_root() {
        packages::obstacle()
    } else {
        Some("needs root, for network namespaces and eBPF; servers and agents run as nobody".into())
    }
}
