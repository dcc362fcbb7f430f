//! What packages have to pass before anybody installs one: their own tools list the files that
//! were staged, lintian has no objection, and `deny.toml` allows the dependencies.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    release::{CARGO_DENY, Release},
    stage::Made,
};
use crate::{
    step::Step,
    test_totals::{Outcome, TestTotals},
    toolchain::exists,
};

/// What cargo-deny prints when it cannot look for known vulnerabilities.
const NO_DATABASE: &str = "failed to fetch advisory database";

/// Where cargo-deny fetches them from, by git.
const DATABASE: &str = "https://github.com/RustSec/advisory-db";

/// Checks each package with what the system has for its kind.
pub(super) fn contents(made: &Made, totals: &mut TestTotals) {
    let [deb, rpm, tarball, _] = &made.files;
    for (kind, path, program, args) in [
        ("deb", deb, "dpkg-deb", &["--contents"][..]),
        ("rpm", rpm, "rpm", &["-q", "--list", "--package"]),
        ("rpm", tarball, "tar", &["--list", "--file"]),
    ] {
        let name = path.file_name().unwrap_or_default().display();
        totals.check(&format!("files of {name}"), || {
            if !exists(program) {
                return Ok(Outcome::Skipped(format!("no {program} here")));
            }
            let listed = Step::new(program)
                .args(args.iter().copied())
                .arg(path)
                .read()?;
            let files = made.stage.installed(kind)?;
            for file in &files {
                let end = format!("/{}", file.display());
                ensure!(
                    listed.lines().any(|line| line.ends_with(&end)),
                    "not in the package: {end}"
                );
            }
            eprintln!("{} files", files.len());
            Ok(Outcome::Passed)
        });
    }
    totals.check("lintian", || {
        if !exists("lintian") {
            return Ok(Outcome::Skipped("no lintian here".into()));
        }
        let lintian = Step::new("lintian").args(["--fail-on", "error,warning", "--allow-root"]);
        lintian.arg(deb).run()?;
        Ok(Outcome::Passed)
    });
}

/// Compares the dependencies with `deny.toml`, and with the known vulnerabilities in `advisories`
/// or, if none are given, in what the network has.
pub(super) fn dependencies(
    release: &Release<'_>,
    source: &Path,
    advisories: Option<&Path>,
    totals: &mut TestTotals,
) {
    totals.check("licences and sources of dependencies", || {
        release
            .tool(CARGO_DENY)
            .args(["--log-level", "error", "--locked", "check"])
            .args(["licenses", "bans", "sources"])
            .folder(source)
            .run()?;
        Ok(Outcome::Passed)
    });
    totals.check("known vulnerabilities of dependencies", || {
        let step = release
            .tool(CARGO_DENY)
            .args(["--locked", "check", "advisories"]);
        let mut step = step.folder(source);
        if let Some(clone) = advisories {
            step = fetch_from(step, clone)?;
        }
        let output = step.command().output()?;
        let printed = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(Outcome::Passed);
        }
        if printed.contains(NO_DATABASE) {
            return Ok(Outcome::Skipped(
                "no network to fetch the RustSec database; --advisories takes a clone".into(),
            ));
        }
        bail!("`{step}` failed:\n{printed}")
    });
}

/// Makes git read `clone` instead of fetching the database.
fn fetch_from(step: Step, clone: &Path) -> Result<Step> {
    let clone = fs::canonicalize(clone)
        .with_context(|| format!("cannot find the advisories in {}", clone.display()))?;
    let newest = Step::new("git").args(["log", "-1", "--format=%cs", "main"]);
    let newest = newest.folder(&clone).read()?;
    eprintln!("the newest advisory: {}", newest.trim_end());
    let key = format!("url.file://{}.insteadOf", clone.display());
    Ok(step
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", key)
        .env("GIT_CONFIG_VALUE_0", DATABASE))
}
