//! Debian packages through apt-get, with sources and state of its own: the system's stay
//! untouched, and no root is needed. Parses what apt prints; knows nothing of kernels.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    files,
    step::{Step, run, step},
};

const MIRROR: &str = "http://deb.debian.org/debian";

/// Kernels and servers are for this architecture only.
const ARCHITECTURE: &str = "amd64";

/// Signs all suites; where it is missing, the keys that the system trusts have to do.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Lists younger than this are not fetched again.
const FRESH: Duration = Duration::from_hours(12);

/// Apt with its own folder below `target`.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Prepares the folder, and fetches the lists of `suites` if they are not fresh.
    pub(crate) fn new(folder: PathBuf, suites: &[&str]) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            files::create_folder(folder.join(part))?;
        }
        let signed = if Path::new(KEYRING).is_file() {
            format!(" signed-by={KEYRING}")
        } else {
            String::new()
        };
        let line = |suite| format!("deb [arch={ARCHITECTURE}{signed}] {MIRROR} {suite} main\n");
        let sources: String = suites.iter().map(line).collect();
        let (path, stamp) = (folder.join("sources.list"), folder.join("updated"));
        let apt = Self { folder };
        let written = fs::metadata(&stamp).and_then(|metadata| metadata.modified());
        let age = written.ok().and_then(|written| written.elapsed().ok());
        let unchanged = fs::read_to_string(&path).is_ok_and(|present| present == sources);
        if unchanged && age.is_some_and(|age| age < FRESH) {
            return Ok(apt);
        }
        files::write(&path, sources)?;
        eprintln!("fetching the lists of Debian's packages");
        match apt.step("apt-get").with("update -qq").run() {
            Ok(()) => files::write(&stamp, "")?,
            // One suite of many may be gone; whether that matters, the choice of packages shows.
            Err(error) => eprintln!("warning: {error:#}"),
        }
        Ok(apt)
    }

    /// Every version of `package` on offer.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let listing = self
            .step("apt-cache")
            .with("madison")
            .with(package)
            .read()?;
        Ok(madison(&listing, package))
    }

    /// The packages that `package` at `version` needs in exactly one version.
    pub(crate) fn exact_dependencies(
        &self,
        package: &str,
        version: &str,
    ) -> Result<Vec<(String, String)>> {
        let package = format!("{package}={version}");
        let stanzas = self.step("apt-cache").with("show").with(package).read()?;
        Ok(exact_dependencies(&stanzas))
    }

    /// Downloads a package and unpacks it into `tree`, without installing it.
    pub(crate) fn fetch(&self, package: &str, version: &str, tree: &Path) -> Result<()> {
        eprintln!("downloading {package} {version}");
        let work = tempfile::tempdir().context("cannot create a temporary folder")?;
        self.step("apt-get download -qq")
            .with(format!("{package}={version}"))
            .folder(work.path())
            .run()?;
        unpack_all(work.path(), tree)
    }

    /// Downloads `packages` of `suite` into `folder`, and what they depend on and this host has
    /// not. Nothing is installed.
    pub(crate) fn download_missing(
        &self,
        suite: &str,
        packages: &str,
        folder: &Path,
    ) -> Result<()> {
        files::create_folder(folder.join("partial"))?;
        self.step("apt-get install -qq -y --no-install-recommends")
            // Also those that are installed: the ones that are asked for must lie in the folder.
            .with("--download-only --reinstall --target-release")
            .with(suite)
            // Nothing of the system is changed, so nothing has to be locked.
            .with("-oDebug::NoLocking=1")
            .with(format!("-oDir::Cache::archives={}", folder.display()))
            .with(packages)
            .run()
    }

    /// Installs `packages`, from backports where these are newer: of what a host has from there
    /// already, the release's own packages would remove parts. Needs root.
    pub(crate) fn install(&self, packages: &str) -> Result<()> {
        let preferences = self.folder.join("preferences");
        let pin = "Package: *\nPin: release n=*-backports\nPin-Priority: 500\n";
        files::write(&preferences, pin)?;
        let option = format!("-oDir::Etc::Preferences={}", preferences.display());
        install(self.step("apt-get").with(option), packages).run()
    }

    /// An apt program with this state instead of the system's.
    fn step(&self, command: &str) -> Step {
        let folder = self.folder.display();
        step!(command)
            .with(format!("-oDir::Etc::SourceList={folder}/sources.list"))
            .with(format!("-oDir::State::Lists={folder}/lists"))
            .with(format!("-oDir::Cache={folder}/cache"))
            .with(format!("-oAPT::Architecture={ARCHITECTURE}"))
            // Only package lists, without translations and descriptions for software shops.
            .with("-oDir::Etc::SourceParts=- -oAcquire::Languages=none")
            .with("-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false")
            // As root, apt would hand over to a user who may not write here.
            .with("-oAPT::Sandbox::User=root -oAcquire::Retries=3")
            .env("LC_ALL", "C")
    }
}

/// Installs packages without removing any, and without starting a daemon.
pub(crate) fn install(apt_get: Step, packages: &str) -> Step {
    apt_get
        .with("install -y --no-install-recommends --no-remove")
        .with(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Packages with a daemon start it, but not in runlevel 1.
        .env("RUNLEVEL", "1")
}

/// The code name of the host's Debian release; none on other systems.
pub(crate) fn host_release() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let mut lines = release.lines();
    let name = lines.find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(name.to_owned())
}

/// Unpacks all Debian packages of `folder` into `tree`, without installing them.
pub(crate) fn unpack_all(folder: &Path, tree: &Path) -> Result<()> {
    files::create_folder(tree)?;
    let mut debs = files::list(folder)?;
    debs.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    ensure!(!debs.is_empty(), "no packages in {}", folder.display());
    debs.iter()
        .try_for_each(|deb| run!("dpkg-deb --extract", deb, tree))
}

/// `apt-cache madison`: `PACKAGE | VERSION | URL SUITE/COMPONENT ARCHITECTURE Packages`.
fn madison(listing: &str, package: &str) -> Vec<String> {
    listing
        .lines()
        .filter_map(|line| {
            let mut columns = line.split('|').map(str::trim);
            let (name, version) = (columns.next()?, columns.next()?);
            let binary = columns.next()?.ends_with(" Packages");
            (name == package && binary && !version.is_empty()).then(|| version.to_owned())
        })
        .collect()
}

/// Those of the `Depends` of the first stanza, which look like `NAME (= VERSION)`.
fn exact_dependencies(stanzas: &str) -> Vec<(String, String)> {
    let first = stanzas.split("\n\n").next().unwrap_or_default();
    let lines = first
        .lines()
        .filter_map(|line| line.strip_prefix("Depends: "));
    let exact = |dependency: &str| {
        let (name, version) = dependency.trim().split_once(" (= ")?;
        Some((name.to_owned(), version.strip_suffix(')')?.to_owned()))
    };
    lines
        .flat_map(|line| line.split(','))
        .filter_map(exact)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_package_itself() {
        let listing = "\
linux-image-cloud-amd64 |   7.2.13-1 | http://deb.debian.org/debian sid/main amd64 Packages
linux-image-cloud-amd64 |  6.1.176-1 | http://deb.debian.org/debian bookworm/main amd64 Packages
linux-image-cloud-amd64-dbg | 6.1.1-1 | http://deb.debian.org/debian bookworm/main amd64 Packages
linux-image-cloud-amd64 | 6.1.175-1 | http://deb.debian.org/debian bookworm/main Sources
N: something else
";
        assert_eq!(
            madison(listing, "linux-image-cloud-amd64"),
            ["7.2.13-1", "6.1.176-1"]
        );
        assert!(madison("", "linux-image-cloud-amd64").is_empty());
    }

    #[test]
    fn only_exact_dependencies_of_the_first_stanza_are_parts() {
        let stanzas = "\
Package: linux-image-7.2.13+deb14-cloud-amd64
Version: 7.2.13-1
Depends: dracut | initramfs-tools (>= 0.120), linux-modules-7.2.13 (= 7.2.13-1), kmod
Description: Linux

Package: linux-image-7.2.13+deb14-cloud-amd64
Depends: another (= 1)
";
        let part = ("linux-modules-7.2.13".to_owned(), "7.2.13-1".to_owned());
        assert_eq!(exact_dependencies(stanzas), [part]);
        assert!(exact_dependencies("Package: alone\n").is_empty());
    }
}
