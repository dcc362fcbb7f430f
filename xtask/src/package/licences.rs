//! The licences of everything that is linked into the binary, which ask to be handed on with it.
//! Whether they are acceptable is `deny.toml`'s.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::release::NAME;
use crate::step::Step;

/// How the names of files with licences begin.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];

/// All licences, each text once, for a binary for `triple`.
pub(super) fn notices(source: &Path, triple: &str) -> Result<String> {
    let metadata = Step::cargo()
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(["--filter-platform", triple])
        .folder(source)
        .read()?;
    let metadata = serde_json::from_str(&metadata).context("`cargo metadata` printed no JSON")?;
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut list = String::new();
    for package in linked(&metadata)? {
        let field = |name: &str| package[name].as_str().unwrap_or_default();
        let crate_name = format!("{} {}", field("name"), field("version"));
        // Writing to a string cannot fail.
        let _ = writeln!(list, "{crate_name}: {}", field("license"));
        let folder = Path::new(field("manifest_path")).parent();
        for text in licence_files(folder.context("a crate without a folder")?)? {
            texts.entry(text).or_default().push(crate_name.clone());
        }
    }
    let mut all = format!(
        "tcp-status contains these crates, beside Rust's standard library (MIT OR Apache-2.0) and\n\
         {}:\n\n{list}",
        libc(triple)
    );
    for (text, mut crates) in texts {
        crates.dedup();
        let _ = write!(
            all,
            "\n{:-<80}\n{}:\n\n{}\n",
            "",
            crates.join(", "),
            text.trim_end()
        );
    }
    Ok(all)
}

/// Of the target.
fn libc(triple: &str) -> &'static str {
    if triple.ends_with("-musl") {
        "musl (MIT)"
    } else {
        "the GNU C library (LGPL-2.1-or-later), whose source your distribution has"
    }
}

/// The crates that are in the binary, by name: no build scripts, no macros.
fn linked(metadata: &Value) -> Result<Vec<&Value>> {
    let packages: BTreeMap<&str, &Value> = by_id(&metadata["packages"]);
    let nodes = by_id(&metadata["resolve"]["nodes"]);
    let root = packages.iter().find(|(_, package)| package["name"] == NAME);
    let mut open: Vec<&str> = root.map(|(&id, _)| id).into_iter().collect();
    let mut found = BTreeMap::new();
    while let Some(id) = open.pop() {
        let Some(&package) = packages.get(id).filter(|package| !is_macro(package)) else {
            continue;
        };
        if found.insert(id, package).is_none()
            && let Some(node) = nodes.get(id)
        {
            open.extend(normal_dependencies(node));
        }
    }
    ensure!(
        found.len() > 1,
        "`cargo metadata` shows no crates below {NAME}"
    );
    let mut linked: Vec<_> = found.into_values().collect();
    linked.sort_by_key(|package| package["name"].as_str());
    Ok(linked)
}

fn by_id(list: &Value) -> BTreeMap<&str, &Value> {
    let entries = array(list).iter();
    entries
        .filter_map(|entry| Some((entry["id"].as_str()?, entry)))
        .collect()
}

fn is_macro(package: &Value) -> bool {
    let mut kinds = array(&package["targets"])
        .iter()
        .flat_map(|target| array(&target["kind"]));
    kinds.any(|kind| kind == "proc-macro")
}

/// What a crate is linked with; not what its build script or its tests are.
fn normal_dependencies(node: &Value) -> impl Iterator<Item = &str> {
    let normal = |dependency: &&Value| {
        let mut kinds = array(&dependency["dep_kinds"]).iter();
        kinds.any(|kind| kind["kind"].is_null())
    };
    array(&node["deps"])
        .iter()
        .filter(normal)
        .filter_map(|dependency| dependency["pkg"].as_str())
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The texts that lie beside a crate's manifest.
fn licence_files(folder: &Path) -> Result<Vec<String>> {
    let cannot = || format!("cannot read licences in {}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_uppercase();
        if path.is_file() && NAMES.iter().any(|start| name.starts_with(start)) {
            paths.push(path);
        }
    }
    paths.sort();
    let read = |path| fs::read_to_string(path).with_context(cannot);
    paths.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{licence_files, linked};

    #[test]
    fn what_only_builds_the_binary_is_not_in_it() {
        let package = |name: &str, kind: &str| json!({"id": name, "name": name, "targets": [{"kind": [kind]}]});
        let dep =
            |name: &str, kind: Option<&str>| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [
                package("tcp-status", "bin"), package("used", "lib"), package("macro", "proc-macro"),
                package("of-macro", "lib"), package("builds", "lib"), package("other", "lib")
            ],
            "resolve": {"nodes": [
                {"id": "tcp-status", "deps": [
                    dep("used", None), dep("macro", None), dep("builds", Some("build"))
                ]},
                {"id": "macro", "deps": [dep("of-macro", None)]},
                {"id": "used", "deps": [dep("tcp-status", Some("dev"))]}
            ]}
        });
        let names: Vec<_> = linked(&metadata)
            .unwrap()
            .into_iter()
            .map(|package| package["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["tcp-status", "used"]);
        linked(&json!({})).unwrap_err();
    }

    #[test]
    fn licences_are_known_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["LICENSE-MIT", "license.txt", "README.md", "Cargo.toml"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let found = licence_files(folder.path()).unwrap();
        assert_eq!(found, ["LICENSE-MIT", "license.txt"]);
    }
}
