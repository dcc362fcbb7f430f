//! The matrix's kernels, from Debian's packages: which package for which version, and the few
//! files of it that a virtual machine needs. Kept by package version; does not boot anything.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Error, Result, bail, ensure};

use crate::{apt::Apt, files, step::step};

/// The kernels of the matrix, as a user names them.
pub(super) const DEFAULT: [&str; 4] = ["5.10", "6.1", "6.12", "7.2"];

/// Where they come from, oldest first.
pub(super) const SUITES: [&str; 4] = ["bullseye", "bookworm", "trixie", "sid"];

/// Small, and with everything that a virtual machine has.
const CLOUD: &str = "linux-image-cloud-amd64";

/// Built with PREEMPT_RT.
const REALTIME: &str = "linux-image-rt-amd64";

/// Packages that hold parts of a kernel.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];

/// Modules for sock_diag, in the order in which they have to be loaded.
pub(super) const MODULES: [&str; 2] = ["inet_diag", "tcp_diag"];

/// A kernel version as a user writes it: `6.1` is any 6.1, `6.1.176` that one, and `6.12-rt` any
/// 6.12 with PREEMPT_RT.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(String);

impl Version {
    fn is_realtime(&self) -> bool {
        self.0.ends_with("-rt")
    }

    /// Whether a package of version `package`, as in `6.1.176-1`, is of this one.
    fn covers(&self, package: &str) -> bool {
        numbers(package).starts_with(&numbers(&self.0))
    }

    /// The package that depends on the kernel.
    fn metapackage(&self) -> &'static str {
        if self.is_realtime() { REALTIME } else { CLOUD }
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<_> = text.trim_end_matches("-rt").split('.').collect();
        let are_numbers = parts.iter().all(|part| part.parse::<u64>().is_ok());
        let is_version = are_numbers && (2..=3).contains(&parts.len());
        ensure!(
            is_version,
            "not a kernel version: write it like 6.1 or 6.12-rt"
        );
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(&self.0)
    }
}

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) version: Version,
    /// Of the package, as in `6.1.176-1`.
    pub(super) package: String,
    pub(super) image: PathBuf,
    /// Those of [`MODULES`] that are not built in.
    pub(super) modules: Vec<PathBuf>,
}

/// Gets the newest package of each version, unless it is there already.
pub(super) fn get(apt: &Apt, folder: &Path, versions: &[Version]) -> Result<Vec<Kernel>> {
    let get = |version: &Version| {
        let offered = apt.versions(version.metapackage())?;
        let package = newest(version, &offered).with_context(|| {
            let (suites, offered) = (SUITES.join(", "), offered.join(", "));
            format!("no package of kernel {version} in Debian's {suites}: on offer are {offered}")
        })?;
        let flavour = if version.is_realtime() { "-rt" } else { "" };
        let folder = folder.join(format!("{package}{flavour}"));
        if !folder.is_dir() {
            fetch(apt, version.metapackage(), package, &folder)
                .with_context(|| format!("cannot get kernel {version}"))?;
        }
        let mut modules = Vec::from(MODULES.map(|module| folder.join(format!("{module}.ko"))));
        modules.retain(|path| path.is_file());
        Ok(Kernel {
            version: version.clone(),
            package: package.to_owned(),
            image: folder.join("vmlinuz"),
            modules,
        })
    };
    versions.iter().map(get).collect()
}

/// Downloads and unpacks into `folder`, which appears only once it is complete.
fn fetch(apt: &Apt, metapackage: &str, version: &str, folder: &Path) -> Result<()> {
    let work = folder.with_extension("partial");
    files::remove(&work)?;
    let (tree, kept) = (work.join("tree"), work.join("kept"));
    files::create_folder(&kept)?;
    for (package, version) in parts(apt, metapackage, version)? {
        apt.fetch(&package, &version, &tree)?;
    }
    keep(&tree, &kept)?;
    files::rename(&kept, folder)?;
    files::remove(&work)
}

/// Every package that holds a part of the kernel of the metapackage's `version`.
fn parts(apt: &Apt, metapackage: &str, version: &str) -> Result<BTreeSet<(String, String)>> {
    let mut found = BTreeSet::new();
    let mut open = vec![(metapackage.to_owned(), version.to_owned())];
    while let Some((package, version)) = open.pop() {
        for part in apt.exact_dependencies(&package, &version)? {
            if PARTS.iter().any(|start| part.0.starts_with(start)) && found.insert(part.clone()) {
                open.push(part);
            }
        }
    }
    ensure!(
        !found.is_empty(),
        "{metapackage} {version} depends on no package with a kernel"
    );
    Ok(found)
}

/// Copies the kernel and the modules out of an unpacked package. Kernels lie in /boot, or, from
/// 7.2 on, beside their modules.
fn keep(tree: &Path, kept: &Path) -> Result<()> {
    for path in files::walk(tree)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("vmlinuz") {
            files::copy(&path, kept.join("vmlinuz"))?;
        }
        let Some((module, packing)) = name.split_once(".ko") else {
            continue;
        };
        let to = kept.join(format!("{module}.ko"));
        match packing {
            _ if !MODULES.contains(&module) => {}
            "" => files::copy(&path, to)?,
            ".xz" => files::write(to, step!("xz -dc", &path).bytes()?)?,
            _ => bail!("cannot unpack {}: only xz is supported", path.display()),
        }
    }
    ensure!(
        kept.join("vmlinuz").is_file(),
        "its packages hold no vmlinuz"
    );
    Ok(())
}

/// The newest of the packages on offer that are of this version.
fn newest<'a>(version: &Version, offered: &'a [String]) -> Option<&'a str> {
    let mut fitting: Vec<_> = offered
        .iter()
        .filter(|package| version.covers(package))
        .collect();
    fitting.sort_by_key(|package| numbers(package));
    fitting.pop().map(String::as_str)
}

/// `6.1.176-1` as 6, 1, 176, 1: enough to order packages of one kernel series.
fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(|character: char| !character.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn offered() -> Vec<String> {
        [
            "7.2.13-1",
            "6.12.117-1",
            "6.1.9-1",
            "6.1.176-1",
            "5.10.223-1",
        ]
        .map(str::to_owned)
        .into()
    }

    #[test]
    fn the_newest_package_of_a_version_is_taken() {
        let newest = |text: &str| {
            let version = text.parse::<Version>().unwrap();
            newest(&version, &offered()).map(str::to_owned)
        };
        assert_eq!(newest("6.1").unwrap(), "6.1.176-1");
        assert_eq!(newest("6.12").unwrap(), "6.12.117-1");
        assert_eq!(newest("6.1.9").unwrap(), "6.1.9-1");
        assert_eq!(newest("6.11"), None);
        assert_eq!(newest("5.1"), None);
    }

    #[test]
    fn only_versions_are_versions() {
        for text in ["6.12", "6.1.176", "6.12-rt"] {
            assert_eq!(text.parse::<Version>().unwrap().to_string(), text);
        }
        let realtime = "6.12-rt".parse::<Version>().unwrap();
        assert_eq!(realtime.metapackage(), REALTIME);
        assert!(realtime.covers("6.12.117-1"));
        for text in ["", "6", "6.x", "6.1-1", "6.1.2.3", "--all"] {
            text.parse::<Version>().unwrap_err();
        }
    }

    #[test]
    fn kernel_and_modules_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, kept) = (folder.path().join("tree"), folder.path().join("kept"));
        let modules = tree.join("lib/modules/5.10.0/kernel/net/ipv4");
        for new in [&kept, &modules, &tree.join("boot")] {
            fs::create_dir_all(new).unwrap();
        }
        keep(&tree, &kept).unwrap_err();
        fs::write(tree.join("boot/vmlinuz-5.10.0"), "kernel").unwrap();
        fs::write(modules.join("tcp_diag.ko"), "module").unwrap();
        fs::write(modules.join("mptcp_diag.ko"), "another").unwrap();
        keep(&tree, &kept).unwrap();
        assert_eq!(fs::read(kept.join("vmlinuz")).unwrap(), b"kernel");
        assert_eq!(fs::read(kept.join("tcp_diag.ko")).unwrap(), b"module");
        assert_eq!(fs::read_dir(&kept).unwrap().count(), 2);

        fs::write(modules.join("inet_diag.ko.zst"), "packed").unwrap();
        let error = keep(&tree, &kept).unwrap_err().to_string();
        assert!(error.ends_with("only xz is supported"), "{error}");
    }
}
