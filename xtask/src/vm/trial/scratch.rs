//! Packages in a root of their own in which nothing runs, as in the making of an image: they must
//! install without a service manager, and leave what was there when they go.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Uid;

use super::Packages;
use crate::{
    step::Step,
    tally::{Outcome, Tally},
};

/// What may stay: copies from before the user was made, what the package managers remember, folders
/// that belong to the shells or to the distribution, and what is written to devices that are not there.
const STAYS: [&str; 11] = [
    "/etc/passwd-",
    "/etc/group-",
    "/etc/shadow-",
    "/etc/gshadow-",
    "/var/lib/rpm",
    "/var/lib/dpkg",
    "/root/.rpmdb",
    "/usr/share/fish",
    "/usr/share/zsh",
    "/usr/share/licenses",
    "/dev",
];

/// Tries both kinds of packages.
pub(super) fn check(debian: &Path, packages: Packages<'_>, folder: &Path, tally: &mut Tally) {
    let dpkg = |root: &Path, action: &[&str]| {
        Step::new("dpkg")
            .arg(format!("--root={}", root.display()))
            .args(action.iter().copied())
    };
    tally.check("the .deb in a scratch root", || {
        attempt(debian, folder, |root| {
            dpkg(root, &["--install"]).arg(packages.deb.first).run()?;
            installed(root)?;
            dpkg(root, &["--install"]).arg(packages.deb.upgrade).run()?;
            installed(root)?;
            dpkg(root, &["--remove", "tcp-status"]).run()?;
            dpkg(root, &["--purge", "tcp-status"]).run()
        })
    });
    let rpm = |root: &Path| Step::new("rpm").arg("--root").arg(root);
    tally.check("the .rpm in a scratch root", || {
        if Step::new("rpm").arg("--version").ask().is_none() {
            return Ok(Outcome::Skipped("no rpm here".into()));
        }
        attempt(debian, folder, |root| {
            // What it needs comes from Debian, of which rpm knows nothing.
            for (action, package) in [
                ("--install", packages.rpm.first),
                ("--upgrade", packages.rpm.upgrade),
            ] {
                rpm(root).args([action, "--nodeps"]).arg(package).run()?;
                installed(root)?;
            }
            rpm(root).args(["--erase", "tcp-status"]).run()
        })
    });
}

/// Does something in a fresh root, and looks whether it left anything there.
fn attempt(debian: &Path, folder: &Path, act: impl FnOnce(&Path) -> Result<()>) -> Result<Outcome> {
    if !Uid::effective().is_root() {
        return Ok(Outcome::Skipped(
            "needs root to change into the scratch root".into(),
        ));
    }
    remove(folder)?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Step::new("tar")
        .args(["--extract", "--exclude=./dev/*", "--file"])
        .arg(debian)
        .folder(folder)
        .run()?;
    let before = files(folder)?;
    act(folder)?;
    let after = files(folder)?;
    let left: Vec<_> = after
        .difference(&before)
        .filter(|path| !stays(path))
        .map(|path| path.display().to_string())
        .collect();
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    let lost: Vec<_> = before.difference(&after).collect();
    ensure!(lost.is_empty(), "gone with the package: {lost:?}");
    remove(folder)?;
    Ok(Outcome::Passed)
}

fn stays(path: &Path) -> bool {
    !path.ends_with("tcp-status") && STAYS.iter().any(|stays| path.starts_with(stays))
}

/// Whether the program runs there, and its user is there.
fn installed(root: &Path) -> Result<()> {
    let version = Step::new("chroot")
        .arg(root)
        .args(["/usr/bin/tcp-status", "--version"])
        .read()?;
    eprint!("{version}");
    for file in ["etc/passwd", "etc/group"] {
        let path = root.join(file);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let line = text.lines().find(|line| line.starts_with("tcp-status:"));
        eprintln!("{file}: {}", line.context("no tcp-status in it")?);
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Every path below `root`, as seen from there.
fn files(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        let cannot = || format!("cannot list {}", folder.display());
        for entry in fs::read_dir(&folder).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            if entry.file_type().with_context(cannot)?.is_dir() {
                open.push(entry.path());
            }
            let path = entry.path();
            let below = path.strip_prefix(root).with_context(cannot)?;
            found.insert(Path::new("/").join(below));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::stays;

    #[test]
    fn nothing_of_ours_stays() {
        assert!(stays(Path::new("/usr/share/licenses")));
        assert!(stays(Path::new("/etc/passwd-")));
        assert!(!stays(Path::new("/usr/share/licenses/tcp-status")));
        assert!(!stays(Path::new("/usr/bin/tcp-status")));
    }
}
