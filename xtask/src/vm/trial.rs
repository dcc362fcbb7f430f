//! Packages are installed, used, upgraded, removed and purged, in a Debian of their own. First in a
//! folder in which nothing runs; then in a virtual machine with systemd, where `trial/trial.sh` has
//! the order, and a file for each kind of package what must hold.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::unistd::Uid;

use super::{
    host::{Host, SUSPENDED_PROCESSORS, provide},
    kernels::Version,
};
use crate::{
    build::static_binary,
    files,
    object::digest,
    step::{run, step},
    test_totals::{Outcome, TestTotals},
    toolchain::exists,
    workspace::Workspace,
};

/// The kernel that packages are tried on.
const KERNEL: &str = "6.12";

/// The oldest Debian that is tried: what works there works in later ones.
const SUITE: &str = "bookworm";

/// Beside the packages that every Debian has.
const PACKAGES: &str = "systemd,systemd-sysv,iproute2,procps,diffutils,rpm,dbus,crun,jq";

const INIT: &str = include_str!("trial/init.sh");

/// What runs in the machine.
const SCRIPTS: [(&str, &str); 6] = [
    ("trial.sh", include_str!("trial/trial.sh")),
    ("deb.sh", include_str!("trial/deb.sh")),
    ("units.sh", include_str!("trial/units.sh")),
    ("rpm.sh", include_str!("trial/rpm.sh")),
    ("tarball.sh", include_str!("trial/tarball.sh")),
    // It has a drop-in.
    ("reference.md", include_str!("../../../docs/reference.md")),
];

/// In MiB: the Debian lies in memory, packed and unpacked at first.
const MEMORY: u32 = 1500;

const LIMIT: Duration = Duration::from_mins(30);

/// What may stay in a folder: copies from before the user was made, what the package managers
/// remember, folders that belong to the shells or to the distribution, and what is written to
/// devices that are not there.
const STAYS: &str = "\
    /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /var/lib/rpm /var/lib/dpkg /root/.rpmdb \
    /usr/share/fish /usr/share/zsh /usr/share/licenses /dev";

/// What is tried.
#[derive(Debug, Clone)]
pub(crate) struct Packages {
    pub(crate) deb: PathBuf,
    pub(crate) rpm: PathBuf,
    /// The same of a higher version.
    pub(crate) next_deb: PathBuf,
    pub(crate) next_rpm: PathBuf,
    pub(crate) tarball: PathBuf,
    /// What installs the tarball, beside the checksums.
    pub(crate) installer: PathBuf,
    pub(crate) sums: PathBuf,
}

/// Tries the packages, and counts what went well.
pub(crate) fn run(
    workspace: &Workspace,
    packages: &Packages,
    install: bool,
    totals: &mut TestTotals,
) -> Result<()> {
    provide(workspace, &[("mmdebstrap", "mmdebstrap")], install)?;
    let kernel: Version = KERNEL.parse()?;
    let host = Host::new(workspace, std::slice::from_ref(&kernel), install)?;
    let debian = debian(&host.folder.join("debian"))?;
    in_folders(&debian, packages, &host.folder.join("scratch"), totals);
    let traffic = static_binary(workspace, "tcp-status-testkit", "tcp-traffic", "vm")?;
    totals.add(in_machine(&host, &kernel, packages, &debian, &traffic)?);
    Ok(())
}

/// A small Debian with systemd, as a tar archive. Made once.
fn debian(folder: &Path) -> Result<PathBuf> {
    // Another list of packages is another archive.
    let archive = folder.join(format!("{SUITE}-{:.8}.tar", digest(PACKAGES.as_bytes())));
    if archive.is_file() {
        return Ok(archive);
    }
    eprintln!("making a Debian to try packages in, once");
    files::create_folder(folder)?;
    let partial = folder.join("partial.tar");
    step!("mmdebstrap --quiet --variant=minbase --dpkgopt=path-exclude=/usr/share/locale/*")
        .with(format!("--include={PACKAGES}"))
        .with(SUITE)
        .with(&partial)
        .run()?;
    files::rename(&partial, &archive)?;
    Ok(archive)
}

/// Both kinds of packages, as in the making of an image: they must install without a service
/// manager, and leave what was there when they go.
fn in_folders(debian: &Path, packages: &Packages, folder: &Path, totals: &mut TestTotals) {
    totals.check("the .deb in a scratch root", || {
        attempt(debian, folder, |root| {
            let dpkg = format!("dpkg --root={}", root.display());
            for package in [&packages.deb, &packages.next_deb] {
                run!(&*dpkg, "--install", package)?;
                check_installed(root)?;
            }
            run!(&*dpkg, "--remove tcp-status")?;
            run!(&*dpkg, "--purge tcp-status")
        })
    });
    totals.check("the .rpm in a scratch root", || {
        if !exists("rpm") {
            return Ok(Outcome::Skipped("no rpm here".into()));
        }
        attempt(debian, folder, |root| {
            // What it needs comes from Debian, which rpm does not know.
            for (action, package) in [
                ("--install --nodeps", &packages.rpm),
                ("--upgrade --nodeps", &packages.next_rpm),
            ] {
                run!("rpm --root", root, action, package)?;
                check_installed(root)?;
            }
            run!("rpm --root", root, "--erase tcp-status")
        })
    });
}

/// Does something in a fresh root, and compares the files before and after.
fn attempt(debian: &Path, root: &Path, act: impl FnOnce(&Path) -> Result<()>) -> Result<Outcome> {
    if !Uid::effective().is_root() {
        return Ok(Outcome::Skipped("needs root, for chroot".into()));
    }
    files::remove(root)?;
    files::create_folder(root)?;
    run!(
        "tar --extract --exclude=./dev/* --file",
        debian,
        "--directory",
        root
    )?;
    let seen = || -> Result<BTreeSet<PathBuf>> {
        let below = files::walk(root)?.into_iter();
        let inside = |path: PathBuf| Some(Path::new("/").join(path.strip_prefix(root).ok()?));
        Ok(below.filter_map(inside).collect())
    };
    let before = seen()?;
    act(root)?;
    let after = seen()?;
    let left: Vec<_> = after
        .difference(&before)
        .filter(|path| !stays(path))
        .collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    let lost: Vec<_> = before.difference(&after).collect();
    ensure!(lost.is_empty(), "removed with the package: {lost:?}");
    files::remove(root)?;
    Ok(().into())
}

fn stays(path: &Path) -> bool {
    !path.ends_with("tcp-status") && STAYS.split(' ').any(|stays| path.starts_with(stays))
}

/// Whether the program runs there, and its user exists there.
fn check_installed(root: &Path) -> Result<()> {
    run!("chroot", root, "/usr/bin/tcp-status --version")?;
    for file in ["etc/passwd", "etc/group"] {
        let text = files::read_text(root.join(file))?;
        let found = text.lines().any(|line| line.starts_with("tcp-status:"));
        ensure!(found, "no tcp-status in {file}");
    }
    Ok(())
}

fn in_machine(
    host: &Host,
    version: &Version,
    packages: &Packages,
    debian: &Path,
    traffic: &Path,
) -> Result<TestTotals> {
    let kernel = host.kernel(version)?;
    let mut machine = host.machine(kernel, "trial", INIT)?;
    for (from, to) in [
        (debian, "debian.tar"),
        (traffic, "trial/tcp-traffic"),
        (&packages.deb, "trial/first.deb"),
        (&packages.next_deb, "trial/upgrade.deb"),
        (&packages.rpm, "trial/first.rpm"),
        (&packages.next_rpm, "trial/upgrade.rpm"),
        (&packages.installer, "trial/install.sh"),
        (&packages.sums, "trial/SHA256SUMS"),
    ] {
        machine.copy(from, to)?;
    }
    // SHA256SUMS has its name.
    let name = packages.tarball.file_name().unwrap_or_default().display();
    machine.copy(&packages.tarball, &format!("trial/{name}"))?;
    for (name, text) in SCRIPTS {
        machine.write(&format!("trial/{name}"), text)?;
    }
    machine.pack()?;
    // It is suspended, too.
    machine.cpus = SUSPENDED_PROCESSORS;
    (machine.memory, machine.accel) = (MEMORY, host.accel()?);
    machine.limit = LIMIT;
    let (package, accel, log) = (&kernel.package, machine.accel.name(), machine.log.display());
    eprintln!("trying the packages on {package} with systemd, {accel}; the log is {log}");
    let (mut totals, mut done) = (TestTotals::default(), false);
    let ended = machine.run(|line, _| {
        eprintln!("  {line}");
        done |= count(line, &mut totals);
        done
    })?;
    if !done {
        eprintln!("the trial did not come to its end: {:?}", ended.end);
        totals.failed += 1;
    }
    Ok(totals)
}

/// Counts `##trial ok NAME` and `##trial failed NAME`; true at `##trial done`.
fn count(line: &str, totals: &mut TestTotals) -> bool {
    let words = line.strip_prefix("##trial ").unwrap_or_default();
    match words.split(' ').next() {
        Some("ok") => totals.passed += 1,
        Some("failed") => totals.failed += 1,
        Some("done") => return true,
        _ => {}
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_package_may_stay() {
        assert!(stays(Path::new("/usr/share/licenses")));
        assert!(stays(Path::new("/etc/passwd-")));
        assert!(!stays(Path::new("/usr/share/licenses/tcp-status")));
        assert!(!stays(Path::new("/usr/bin/tcp-status")));
    }

    #[test]
    fn results_are_counted() {
        let mut totals = TestTotals::default();
        for line in ["##trial ok one", "other", "##trial failed two"] {
            assert!(!count(line, &mut totals));
        }
        assert!(count("##trial done", &mut totals));
        assert_eq!(totals.to_string(), "1 passed, 1 failed, 0 skipped");
    }
}
