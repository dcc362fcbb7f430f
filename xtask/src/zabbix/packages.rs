//! Zabbix, its database and PHP as Debian packages: downloaded once, unpacked for each run, never
//! installed. Does not start anything.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use super::version::Version;
use crate::{
    apt::{self, Apt},
    step::Step,
};

/// The release whose packages fit together; its libraries are taken from the host.
const RELEASE: &str = "bookworm";

const PACKAGES: [&str; 14] = [
    "zabbix-server-pgsql",
    "zabbix-agent",
    "zabbix-agent2",
    "zabbix-frontend-php",
    "postgresql-15",
    "postgresql-client-15",
    "php8.2-cli",
    "php8.2-pgsql",
    "php8.2-mbstring",
    "php8.2-gd",
    "php8.2-xml",
    "php8.2-bcmath",
    "fonts-dejavu-core",
    // Graphs are drawn only where the locale en_US is.
    "locales",
];

/// Written when all packages of a version are there.
const COMPLETE: &str = "complete";

/// Why this host cannot take the packages; none if it can.
pub(super) fn obstacle() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some(format!("the packages are for {}", apt::ARCHITECTURE));
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !release
        .lines()
        .any(|line| line == format!("VERSION_CODENAME={RELEASE}"))
    {
        return Some(format!(
            "the packages need the libraries of Debian {RELEASE}; run it there or in its container"
        ));
    }
    let missing = |program: &&str| Step::new(*program).arg("--version").ask().is_none();
    ["apt-get", "dpkg-deb"]
        .iter()
        .find(|program| missing(program))
        .map(|program| format!("no {program}"))
}

/// Makes sure that the packages of `version` lie in `folder`.
pub(super) fn provide(apt: &Apt, version: Version, folder: &Path) -> Result<()> {
    let complete = folder.join(COMPLETE);
    let wanted = PACKAGES.join(" ");
    if fs::read_to_string(&complete).is_ok_and(|had| had == wanted) {
        return Ok(());
    }
    eprintln!("downloading Zabbix {version} from {}", version.suite());
    apt.download_missing(version.suite(), &PACKAGES, folder)
        .with_context(|| format!("cannot download Zabbix {version}"))?;
    fs::write(&complete, wanted).with_context(|| format!("cannot write {}", complete.display()))
}

/// Unpacks all packages of `folder` into `tree`.
pub(super) fn unpack(folder: &Path, tree: &Path) -> Result<()> {
    fs::create_dir(tree).with_context(|| format!("cannot make {}", tree.display()))?;
    let debs = apt::debs(folder)?;
    ensure!(!debs.is_empty(), "no packages in {}", folder.display());
    for deb in debs {
        apt::unpack(&deb, tree)?;
    }
    Ok(())
}
