//! `cargo xtask zabbix`: agents, templates and tracker with real Zabbix servers. Everything comes
//! out of Debian's packages, unpacked into a temporary folder, and runs as an ordinary user in
//! network and PID namespaces of its own.

mod api;
mod checks;
mod community;
mod formats;
mod pictures;
mod round;
mod sandbox;
mod servers;
mod subject;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use nix::unistd::Uid;

use crate::{
    apt::{self, Apt, unpack_all},
    files,
    step::step,
    test_totals::{Outcome, TestTotals},
    toolchain::{apt_install, exists},
    vm,
    workspace::Workspace,
};

/// The Debian whose packages fit together; their libraries are taken from the host.
const RELEASE: &str = "bookworm";

/// Graphs are drawn only where the locale en_US is.
const PACKAGES: &str = "\
    zabbix-server-pgsql zabbix-agent zabbix-agent2 zabbix-frontend-php postgresql-15 \
    postgresql-client-15 php8.2-cli php8.2-pgsql php8.2-mbstring php8.2-gd php8.2-xml php8.2-bcmath \
    fonts-dejavu-core locales";

/// A Zabbix version that Debian has packages of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Version {
    #[value(name = "6.0")]
    V6_0,
    #[value(name = "7.0")]
    V7_0,
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Self::V6_0 => "6.0",
            Self::V7_0 => "7.0",
        }
    }

    /// Precedes the names of its checks.
    const fn label(self) -> &'static str {
        match self {
            Self::V6_0 => "zabbix 6.0: ",
            Self::V7_0 => "zabbix 7.0: ",
        }
    }

    /// The suite of Debian that has it.
    const fn suite(self) -> &'static str {
        match self {
            Self::V6_0 => "bookworm",
            Self::V7_0 => "bookworm-backports",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ZabbixArgs {
    /// Zabbix versions [default: all]
    #[arg(value_enum)]
    versions: Vec<Version>,
    /// Install what is missing for pictures of the dashboard (Debian, as root)
    #[arg(long)]
    install: bool,
    /// Write the templates for newer versions, as 7.0 exports that for 6.0, and the folders for
    /// zabbix/community-templates; check nothing
    #[arg(long)]
    keep: bool,
    /// One round, of a process that need not clear up behind it
    #[arg(long, hide = true)]
    round: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &ZabbixArgs) -> Result<ExitCode> {
    let totals = match args.versions.as_slice() {
        &[version] if args.round => round::run(workspace, version, args.keep)?,
        [Version::V7_0] | [] if args.keep => {
            run_versions(workspace, &[Version::V7_0], args.install, true)?
        }
        _ if args.keep => bail!("cannot export by another version than 7.0"),
        [] => run_all(workspace, args.install)?,
        versions => run_versions(workspace, versions, args.install, false)?,
    };
    Ok(totals.finish())
}

/// All versions; for `cargo xtask test`.
pub(crate) fn run_all(workspace: &Workspace, install: bool) -> Result<TestTotals> {
    run_versions(workspace, Version::value_variants(), install, false)
}

/// Gets everything that a round needs, then does the rounds, beside each other: mostly they wait.
fn run_versions(
    workspace: &Workspace,
    versions: &[Version],
    install: bool,
    keep: bool,
) -> Result<TestTotals> {
    let mut totals = TestTotals::default();
    if let Some(reason) = obstacle() {
        for version in versions {
            totals.check(version.label(), || Ok(Outcome::Skipped(reason.clone())));
        }
        return Ok(totals);
    }
    if install {
        apt_install(pictures::BROWSER)?;
    }
    // What a newer version needs beside itself is in the older one's suite.
    let suites = Version::value_variants().iter();
    let suites: Vec<_> = suites.map(|version| version.suite()).collect();
    let folder = workspace.target.join("zabbix");
    let apt = Apt::new(folder.join("apt"), &suites)?;
    for &version in versions {
        download(&apt, version, &packages(workspace, version))?;
    }
    if !keep {
        vm::build(workspace)?;
    }
    // `cargo test` builds this program again and deletes the file that was started.
    let program = folder.join("xtask");
    files::remove(&program)?;
    files::copy("/proc/self/exe", &program)?;
    let start = |&version: &Version| Ok((version, start_round(&program, version, keep)?));
    let rounds: Result<Vec<_>> = versions.iter().map(start).collect();
    for (version, round) in rounds? {
        let output = round.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        match text.lines().last().and_then(TestTotals::parse) {
            Some(counts) => totals.add(counts),
            None => totals.check::<()>(version.label(), || {
                bail!("the round ended without a result ({})", output.status)
            }),
        }
    }
    Ok(totals)
}

/// Why this host cannot run the packages; none if it can.
fn obstacle() -> Option<String> {
    if !Uid::effective().is_root() {
        return Some("needs root, for network namespaces and eBPF".into());
    }
    if !cfg!(target_arch = "x86_64") || apt::host_release().as_deref() != Some(RELEASE) {
        return Some(format!(
            "the packages need an x86-64 host with the libraries of Debian {RELEASE}; run it there \
             or in its container"
        ));
    }
    let mut programs = ["apt-get", "dpkg-deb"].into_iter();
    let missing = programs.find(|program| !exists(program));
    missing.map(|program| format!("no {program}"))
}

fn packages(workspace: &Workspace, version: Version) -> PathBuf {
    let packages = workspace.target.join("zabbix/packages");
    packages.join(version.name())
}

/// Makes sure that the packages of `version` lie in `folder`.
fn download(apt: &Apt, version: Version, folder: &Path) -> Result<()> {
    // Written when all of them are there.
    let complete = folder.join("complete");
    if fs::read_to_string(&complete).is_ok_and(|present| present == PACKAGES) {
        return Ok(());
    }
    let (name, suite) = (version.name(), version.suite());
    eprintln!("downloading Zabbix {name} from {suite}");
    apt.download_missing(suite, PACKAGES, folder)
        .with_context(|| format!("cannot download Zabbix {name}"))?;
    files::write(&complete, PACKAGES)
}

/// Unpacks all packages of `folder` into `tree`.
fn unpack(folder: &Path, tree: &Path) -> Result<()> {
    unpack_all(folder, tree)?;
    // The installation of the package copies its configuration.
    files::copy(
        tree.join("usr/share/zabbix-agent/zabbix_agentd.conf"),
        tree.join("etc/zabbix/zabbix_agentd.conf"),
    )
}

/// A round in a PID namespace: whatever it starts ends with it, however it ends. It may take several
/// times as long as on an idle machine.
fn start_round(program: &Path, version: Version, keep: bool) -> Result<Child> {
    let step =
        step!("timeout --kill-after=5 600 unshare --pid --fork --kill-child --mount-proc --")
            .with(program)
            .with("zabbix --round")
            .with(version.name());
    let step = if keep { step.with("--keep") } else { step };
    let child = step.command().stdout(Stdio::piped()).spawn();
    child.with_context(|| format!("cannot start `{step}`"))
}
