//! What packages have to pass before anybody installs one: their own tools read them, and find in
//! them what the layout says.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::layout::{Format, LAYOUT, Origin};
use crate::{
    step::Step,
    tally::{Outcome, Tally},
};

/// Checks each package with what the system has for its kind.
pub(super) fn all(packages: &[PathBuf], tally: &mut Tally) {
    for path in packages {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".deb") {
            let step = Step::new("dpkg-deb").arg("--contents").arg(path);
            tally.check(&format!("files of {name}"), || {
                files("dpkg-deb", &step, Format::Deb)
            });
            tally.check(&format!("lintian of {name}"), || lintian(path));
        } else if name.ends_with(".rpm") {
            let step = Step::new("rpm")
                .args(["-q", "--list", "--package"])
                .arg(path);
            tally.check(&format!("files of {name}"), || {
                files("rpm", &step, Format::Rpm)
            });
        } else if name.ends_with(".tar.gz") {
            let step = Step::new("tar").args(["--list", "--file"]).arg(path);
            tally.check(&format!("files of {name}"), || {
                files("tar", &step, Format::Tarball)
            });
        }
    }
}

/// Whether a listing shows every file of the format.
fn files(program: &str, listing: &Step, format: Format) -> Result<Outcome> {
    if Step::new(program).arg("--version").ask().is_none() {
        return Ok(Outcome::Skipped(format!("no {program} here")));
    }
    let listed = listing.read()?;
    let missing = missing(&listed, format);
    ensure!(
        missing.is_empty(),
        "not in the package: {}",
        missing.join(", ")
    );
    eprintln!("{} entries", listed.lines().count());
    Ok(Outcome::Passed)
}

fn missing(listed: &str, format: Format) -> Vec<&'static str> {
    let there = |entry: &str, folder: bool| {
        let path = |line: &str| line.contains(&format!("/{entry}"));
        listed.lines().any(|line| {
            if folder {
                path(line) && !line.ends_with(&format!("/{entry}/"))
            } else {
                line.ends_with(&format!("/{entry}"))
            }
        })
    };
    LAYOUT
        .iter()
        .filter(|entry| entry.formats.contains(&format))
        .filter(|entry| !there(entry.to, matches!(entry.from, Origin::Folder(_))))
        .map(|entry| entry.to)
        .collect()
}

fn lintian(path: &Path) -> Result<Outcome> {
    if Step::new("lintian").arg("--version").ask().is_none() {
        return Ok(Outcome::Skipped("no lintian here".into()));
    }
    let step = Step::new("lintian")
        .args(["--fail-on", "error,warning", "--allow-root"])
        .arg(path);
    step.run().context("lintian has objections")?;
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn a_missing_file_is_found() {
        let mut listed = String::new();
        for entry in LAYOUT
            .iter()
            .filter(|entry| entry.formats.contains(&Format::Deb))
        {
            let rest = if matches!(entry.from, Origin::Folder(_)) {
                "/file"
            } else {
                ""
            };
            writeln!(
                listed,
                "-rw-r--r-- root/root 1 2026-01-01 00:00 ./{}{rest}",
                entry.to
            )
            .unwrap();
        }
        assert!(missing(&listed, Format::Deb).is_empty());
        let without = listed.replace("/usr/bin/tcp-status\n", "/usr/bin/other\n");
        assert_eq!(missing(&without, Format::Deb), ["usr/bin/tcp-status"]);
    }
}
