//! The template in the formats of newer Zabbix versions. No server of these is at hand; what changes is
//! known from their import: 7.2 and 7.4 change widgets and maps that the template has not, 8.0 has
//! a value type for JSON. So a server of 7.0 imports the template of 6.0 and exports it, and the rest
//! is a label and a type.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::api::{Api, MASTER};
use crate::files;

/// The version whose export is taken.
const EXPORTED: &str = "7.0";

/// The versions that a file is kept for.
const KEPT: [&str; 2] = ["7.4", "8.0"];

/// The items that are not stored, and whose values are JSON.
const JSON_ITEMS: [&str; 2] = ["tcp.status.all", "tcp.status.cgroups"];

/// The file of a version, below the root of the workspace.
pub(super) fn file(version: &str) -> String {
    format!("templates/zabbix/template_tcp_status_{version}.yaml")
}

/// Writes the kept files, from what this server exports.
pub(super) fn keep(api: &Api, root: &Path) -> Result<String> {
    let exported = MASTER.export(api, "yaml")?;
    for version in KEPT {
        files::write(root.join(file(version)), convert(&exported, version)?)?;
    }
    Ok(KEPT.map(file).join(", "))
}

/// Compares the kept files with what this server exports.
pub(super) fn check(api: &Api, root: &Path) -> Result<()> {
    let exported = MASTER.export(api, "yaml")?;
    for version in KEPT {
        let file = file(version);
        let kept = files::read_text(root.join(&file))?;
        ensure!(
            kept == convert(&exported, version)?,
            "{file} is not made from this template; run: cargo xtask zabbix 7.0 --keep"
        );
    }
    Ok(())
}

/// The export of another version.
fn convert(exported: &str, version: &str) -> Result<String> {
    let label = |version| format!("  version: '{version}'\n");
    ensure!(
        exported.contains(&label(EXPORTED)),
        "not an export of {EXPORTED}"
    );
    let mut text = exported.replacen(&label(EXPORTED), &label(version), 1);
    if version == "8.0" {
        for key in JSON_ITEMS {
            text = with_json(&text, key)?;
        }
    }
    Ok(text)
}

/// Makes JSON the value type of an item.
fn with_json(text: &str, key: &str) -> Result<String> {
    // So deep lie the members of a template's items; keys of master items lie deeper.
    let line = format!("\n          key: {key}\n");
    let item = text.find(&line).with_context(|| format!("no item {key}"))?;
    let (before, item) = text.split_at(item + line.len());
    let end = item.find("        - uuid:").unwrap_or(item.len());
    let (item, after) = item.split_at(end);
    let changed = item.replacen("value_type: TEXT", "value_type: JSON", 1);
    ensure!(changed != item, "{key} is not of type TEXT");
    Ok(format!("{before}{changed}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_files_differ_by_label_and_type() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |version| files::read_text(root.join(file(version))).unwrap();
        let exported = read("7.4").replacen("'7.4'", "'7.0'", 1);
        for version in KEPT {
            assert_eq!(convert(&exported, version).unwrap(), read(version));
        }
        assert_eq!(read("8.0").matches("value_type: JSON").count(), 2);
        assert!(convert(&read("8.0"), "8.0").is_err());
    }
}
