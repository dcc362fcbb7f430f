//! What the binary is made of: the bill of materials, and whether `deny.toml` allows it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    release::{NAME, Release},
    tools::Tools,
};
use crate::{
    step::Step,
    tally::{Outcome, Tally},
};

/// What cargo-deny says when it cannot look for known faults.
const NO_DATABASE: &str = "failed to fetch advisory database";

/// Writes the bill of materials (CycloneDX) of the binary into `folder`.
pub(super) fn bill(
    release: &Release,
    tools: &Tools,
    source: &Path,
    folder: &Path,
) -> Result<PathBuf> {
    let package = source.join(NAME);
    // It leaves a bill beside every manifest of the workspace, in this copy of it.
    tools
        .step("cargo-cyclonedx", &package)
        .args(["cyclonedx", "--format", "json", "--describe", "binaries"])
        .args(["--no-build-deps", "--target", &release.triple, "--quiet"])
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string())
        .run()?;
    let made = package.join(format!("{NAME}_bin.cdx.json"));
    let text =
        fs::read_to_string(&made).with_context(|| format!("cannot read {}", made.display()))?;
    let bill = folder.join(format!(
        "{NAME}-{}-{}.cdx.json",
        release.version,
        release.machine()
    ));
    let text = text.replace(&*source.to_string_lossy(), "/tcp-status");
    fs::write(&bill, text).with_context(|| format!("cannot write {}", bill.display()))?;
    Ok(bill)
}

/// Where cargo-deny fetches the known faults from, by git.
const DATABASE: &str = "https://github.com/RustSec/advisory-db";

/// Holds the dependencies against `deny.toml`, and against the known faults in `advisories` or, if
/// none are given, in what the network has.
pub(super) fn check(tools: &Tools, source: &Path, advisories: Option<&Path>, tally: &mut Tally) {
    tally.check("licences and sources of dependencies", || {
        tools
            .step("cargo-deny", source)
            .args(["--log-level", "error", "--locked", "check"])
            .args(["licenses", "bans", "sources"])
            .run()?;
        Ok(Outcome::Passed)
    });
    tally.check("known faults of dependencies", || {
        let mut step = tools
            .step("cargo-deny", source)
            .args(["--locked", "check", "advisories"]);
        if let Some(folder) = advisories {
            step = instead(step, folder)?;
        }
        let output = step
            .command()
            .output()
            .with_context(|| format!("cannot start `{step}`"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        match (output.status.success(), said.contains(NO_DATABASE)) {
            (true, _) => Ok(Outcome::Passed),
            (false, true) => Ok(Outcome::Skipped(
                "no network to fetch the RustSec database; --advisories takes a clone".into(),
            )),
            (false, false) => bail!("`{step}` failed:\n{said}"),
        }
    });
}

/// Has git read `clone` where it is told to fetch the database.
fn instead(step: Step, clone: &Path) -> Result<Step> {
    let clone = fs::canonicalize(clone)
        .with_context(|| format!("cannot find the advisories in {}", clone.display()))?;
    let newest = Step::new("git")
        .args(["log", "-1", "--format=%cs", "main"])
        .folder(&clone)
        .read()?;
    eprintln!(
        "the newest advisory in {}: {}",
        clone.display(),
        newest.trim_end()
    );
    Ok(step
        .env("GIT_CONFIG_COUNT", "1")
        .env(
            "GIT_CONFIG_KEY_0",
            format!("url.file://{}.insteadOf", clone.display()),
        )
        .env("GIT_CONFIG_VALUE_0", DATABASE))
}
