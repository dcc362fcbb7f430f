//! The licences of everything that is linked into the binary, which have to be distributed with
//! it. `deny.toml` decides whether they are acceptable.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    files,
    step::{cargo, step},
};

/// How the names of files with licences begin.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];

/// All licences, each text once, for the binary of `package` for `triple`.
pub(super) fn notices(source: &Path, package: &str, triple: &str) -> Result<String> {
    let libc = if triple.ends_with("-musl") {
        "musl (MIT)"
    } else {
        "the GNU C library (LGPL-2.1-or-later), whose source your distribution has"
    };
    let mut all = format!(
        "tcp-status contains these crates, beside Rust's standard library (MIT OR Apache-2.0) and\n\
         {libc}:\n\n"
    );
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let folders = folders(source, triple)?;
    for (name, licence) in linked(source, package, triple)? {
        all += &format!("{name}: {licence}\n");
        let folder = folders
            .get(&name)
            .with_context(|| format!("no folder of {name}"))?;
        for path in files::list(folder)? {
            let file = path.file_name().unwrap_or_default();
            let file = file.to_string_lossy().to_uppercase();
            if path.is_file() && NAMES.iter().any(|start| file.starts_with(start)) {
                let crates = texts.entry(files::read_text(&path)?).or_default();
                crates.push(name.clone());
            }
        }
    }
    for (text, mut crates) in texts {
        crates.dedup();
        let (rule, crates) = ("-".repeat(80), crates.join(", "));
        all += &format!("\n{rule}\n{crates}:\n\n{}\n", text.trim_end());
    }
    Ok(all)
}

/// The crates in the binary, as in `clap 4.6.0`, and their licences: no build scripts, no macros.
fn linked(source: &Path, package: &str, triple: &str) -> Result<BTreeMap<String, String>> {
    let tree = step!(
        cargo(),
        "tree --locked --package",
        package,
        "--target",
        triple
    )
    .with("--edges normal,no-proc-macro --prefix none --no-dedupe --format {p}|{l}")
    .folder(source)
    .read()?;
    let mut found = BTreeMap::new();
    for line in tree.lines() {
        // `NAME vVERSION (FOLDER)|LICENCE`
        let (package, licence) = line
            .split_once('|')
            .context("`cargo tree` names no licence")?;
        let name: Vec<_> = package.split(' ').take(2).collect();
        found.insert(name.join(" ").replacen(" v", " ", 1), licence.to_owned());
    }
    ensure!(
        found.len() > 1,
        "`cargo tree` shows no crates below {package}"
    );
    Ok(found)
}

/// Where the sources of each crate are.
fn folders(source: &Path, triple: &str) -> Result<BTreeMap<String, PathBuf>> {
    let metadata = step!(
        cargo(),
        "metadata --locked --format-version 1 --filter-platform",
        triple
    );
    let metadata: Value = serde_json::from_str(&metadata.folder(source).read()?)
        .context("`cargo metadata` printed no JSON")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let folder = |package: &Value| {
        let field = |name: &str| package[name].as_str();
        let name = format!("{} {}", field("name")?, field("version")?);
        Some((
            name,
            Path::new(field("manifest_path")?).parent()?.to_owned(),
        ))
    };
    Ok(packages.filter_map(folder).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_builds_the_binary_is_not_in_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let found = linked(root, "tcp-status", "x86_64-unknown-linux-gnu").unwrap();
        let has = |name: &str| found.keys().any(|key| key.starts_with(&format!("{name} ")));
        assert!(has("tcp-status") && has("tcp-status-common") && has("clap"));
        assert!(!has("clap_derive") && !has("tcp-status-testkit") && !has("aya-ebpf"));
        let folders = folders(root, "x86_64-unknown-linux-gnu").unwrap();
        assert!(found.keys().all(|name| folders.contains_key(name)));
    }
}
