//! Debian packages through apt-get, with sources and state of its own: the system's stay
//! untouched, and no root is needed. Parses what apt prints; knows nothing of kernels.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::step::Step;

const MIRROR: &str = "http://deb.debian.org/debian";

/// Kernels and servers are for this architecture only.
pub(crate) const ARCHITECTURE: &str = "amd64";

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
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let apt = Self { folder };
        let sources = sources(suites, Path::new(KEYRING).is_file());
        let path = apt.folder.join("sources.list");
        let unchanged = fs::read_to_string(&path).is_ok_and(|present| present == sources);
        if !(unchanged && apt.is_fresh()) {
            fs::write(&path, sources)
                .with_context(|| format!("cannot write {}", path.display()))?;
            apt.update()?;
        }
        Ok(apt)
    }

    fn stamp(&self) -> PathBuf {
        self.folder.join("updated")
    }

    fn is_fresh(&self) -> bool {
        let age = || {
            let written = fs::metadata(self.stamp()).ok()?.modified().ok()?;
            written.elapsed().ok()
        };
        age().is_some_and(|age| age < FRESH)
    }

    fn update(&self) -> Result<()> {
        eprintln!("fetching the lists of Debian's packages");
        let step = self.step("apt-get").args(["update", "-qq"]);
        // One suite of many may be gone; whether that matters, the choice of packages shows.
        if let Err(error) = step.run() {
            eprintln!("warning: {error:#}");
            return Ok(());
        }
        fs::write(self.stamp(), "")
            .with_context(|| format!("cannot write {}", self.stamp().display()))
    }

    /// Every version of `package` on offer.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let listing = self.step("apt-cache").args(["madison", package]).read()?;
        Ok(madison(&listing, package))
    }

    /// What `package` at `version` depends on: names and exact versions, where one is asked for.
    pub(crate) fn dependencies(
        &self,
        package: &str,
        version: &str,
    ) -> Result<BTreeMap<String, Option<String>>> {
        let step = self
            .step("apt-cache")
            .args(["show", &format!("{package}={version}")]);
        Ok(depends(&step.read()?))
    }

    /// Downloads a package into `folder`; gives the path of the file.
    pub(crate) fn download(&self, package: &str, version: &str, folder: &Path) -> Result<PathBuf> {
        eprintln!("downloading {package} {version}");
        let before = debs(folder)?;
        self.step("apt-get")
            .args(["download", "-qq", &format!("{package}={version}")])
            .folder(folder)
            .run()?;
        let new: Vec<_> = debs(folder)?
            .into_iter()
            .filter(|path| !before.contains(path))
            .collect();
        ensure!(
            new.len() == 1,
            "apt-get left {} files for {package} {version} in {}",
            new.len(),
            folder.display()
        );
        new.into_iter().next().context("no file")
    }

    /// Downloads `packages` of `suite` into `folder`, and what they depend on and this host has
    /// not. Nothing is installed.
    pub(crate) fn download_missing(
        &self,
        suite: &str,
        packages: &[&str],
        folder: &Path,
    ) -> Result<()> {
        let partial = folder.join("partial");
        fs::create_dir_all(&partial)
            .with_context(|| format!("cannot make {}", partial.display()))?;
        let mut archives = OsString::from("-oDir::Cache::archives=");
        archives.push(folder);
        self.step("apt-get")
            .args(["install", "-qq", "-y", "--no-install-recommends"])
            // Also those that are installed: the ones that are asked for must lie in the folder.
            .args(["--download-only", "--reinstall", "--target-release", suite])
            // Nothing of the system is changed, so nothing has to be locked.
            .arg("-oDebug::NoLocking=1")
            .arg(archives)
            .args(packages.iter().copied())
            .run()
    }

    /// An apt program with this state instead of the system's.
    fn step(&self, program: &str) -> Step {
        let place = |name: &str, path: &Path| {
            let mut option = OsString::from(format!("{name}="));
            option.push(path);
            [OsString::from("-o"), option]
        };
        Step::new(program)
            .args(place(
                "Dir::Etc::SourceList",
                &self.folder.join("sources.list"),
            ))
            .args(place("Dir::State::Lists", &self.folder.join("lists")))
            .args(place("Dir::Cache", &self.folder.join("cache")))
            .args([
                "-oDir::Etc::SourceParts=-",
                // Only package lists, without translations and descriptions for software shops.
                "-oAcquire::Languages=none",
                "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
                // As root, apt would hand over to a user who may not write here.
                "-oAPT::Sandbox::User=root",
                "-oAcquire::Retries=3",
            ])
            .args([format!("-oAPT::Architecture={ARCHITECTURE}")])
            .env("LC_ALL", "C")
    }
}

/// Unpacks a Debian package, without installing it.
pub(crate) fn unpack(deb: &Path, tree: &Path) -> Result<()> {
    Step::new("dpkg-deb")
        .arg("--extract")
        .arg(deb)
        .arg(tree)
        .run()
}

pub(crate) fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut debs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            debs.push(path);
        }
    }
    Ok(debs)
}

fn sources(suites: &[&str], keyring: bool) -> String {
    let options = if keyring {
        format!("[arch={ARCHITECTURE} signed-by={KEYRING}]")
    } else {
        format!("[arch={ARCHITECTURE}]")
    };
    suites
        .iter()
        .map(|suite| format!("deb {options} {MIRROR} {suite} main\n"))
        .collect()
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

/// The `Depends` of the first stanza; of alternatives, the first.
fn depends(stanzas: &str) -> BTreeMap<String, Option<String>> {
    let first = stanzas.split("\n\n").next().unwrap_or_default();
    let Some(list) = first
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "))
    else {
        return BTreeMap::new();
    };
    list.split(',')
        .filter_map(|dependency| {
            let dependency = dependency.split('|').next()?.trim();
            let (name, constraint) = dependency.split_once(' ').unwrap_or((dependency, ""));
            let exact = constraint
                .trim()
                .strip_prefix("(= ")
                .and_then(|version| version.strip_suffix(')'));
            Some((name.to_owned(), exact.map(str::to_owned)))
        })
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
    fn dependencies_keep_exact_versions_and_first_alternatives() {
        let stanzas = "\
Package: linux-image-7.2.13+deb14-cloud-amd64
Version: 7.2.13-1
Depends: dracut | initramfs-tools (>= 0.120), linux-modules-7.2.13 (= 7.2.13-1), kmod
Description: Linux

Package: linux-image-7.2.13+deb14-cloud-amd64
Depends: another
";
        let found = depends(stanzas);
        let exact = |version: &str| Some(version.to_owned());
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [
                ("dracut".to_owned(), None),
                ("kmod".to_owned(), None),
                ("linux-modules-7.2.13".to_owned(), exact("7.2.13-1")),
            ]
        );
        assert!(depends("Package: alone\n").is_empty());
    }

    #[test]
    fn sources_name_the_keyring_where_there_is_one() {
        assert_eq!(
            sources(&["sid"], false),
            "deb [arch=amd64] http://deb.debian.org/debian sid main\n"
        );
        let lines = sources(&["bookworm", "sid"], true);
        assert_eq!(lines.matches("signed-by=/usr/share/keyrings/").count(), 2);
    }
}
