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
use crate::tally::{Outcome, Tally};

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

/// Holds the dependencies against `deny.toml`.
pub(super) fn check(tools: &Tools, source: &Path, tally: &mut Tally) {
    tally.check("licences and sources of dependencies", || {
        tools
            .step("cargo-deny", source)
            .args(["--log-level", "error", "--locked", "check"])
            .args(["licenses", "bans", "sources"])
            .run()?;
        Ok(Outcome::Passed)
    });
    tally.check("known faults of dependencies", || {
        let step = tools
            .step("cargo-deny", source)
            .args(["--locked", "check", "advisories"]);
        let output = step
            .command()
            .output()
            .with_context(|| format!("cannot start `{step}`"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        match (output.status.success(), said.contains(NO_DATABASE)) {
            (true, _) => Ok(Outcome::Passed),
            (false, true) => Ok(Outcome::Skipped(
                "no network to fetch the RustSec database; run it where there is one".into(),
            )),
            (false, false) => bail!("`{step}` failed:\n{said}"),
        }
    });
}
