//! The layout of <https://github.com/zabbix/community-templates>: a folder for each export version
//! with the template, a readme, and what the agent needs in `files/`.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    api::{Api, MASTER, text},
    formats,
};
use crate::files;

/// Where its templates of this kind lie, and the name of this one.
const FOLDER: &str = "Operating_Systems/Linux/template_tcp_status_by_zabbix_agent";
const AGENT: &str = "userparameter_tcp_status.conf";

/// Versions that it imports for a check. Of 8.0 it has no server so far.
const VERSIONS: [&str; 2] = ["6.0", "7.4"];

/// Writes the folders below `to`.
pub(super) fn write(api: &Api, root: &Path, to: &Path) -> Result<String> {
    let content: Value = serde_json::from_str(&MASTER.export(api, "json")?)?;
    let template = &content["zabbix_export"]["templates"][0];
    for version in VERSIONS {
        let folder = to.join(FOLDER).join(version);
        files::create_folder(folder.join("files"))?;
        files::copy(
            root.join(formats::file(version)),
            folder.join("template_tcp_status_by_zabbix_agent.yaml"),
        )?;
        let agent = root.join("templates/zabbix").join(AGENT);
        files::copy(agent, folder.join("files").join(AGENT))?;
        files::write(folder.join("README.md"), readme(template, version)?)?;
    }
    Ok(format!(
        "{}, {}",
        to.join(FOLDER).display(),
        VERSIONS.join(", ")
    ))
}

fn readme(template: &Value, version: &str) -> Result<String> {
    let mut page = format!(
        "# {}\n\n## Overview\n\n{}\n\nFor Zabbix {version} and later.\n\n## Setup\n\n\
         1. Install [tcp-status]({repository}) and start its tracker.\n\
         2. Copy `files/{AGENT}` to the agent's configuration folder, let the agent's user query the \
         tracker, and restart the agent: `tcp-status zabbix install` does the first and names the rest.\n\
         3. Import the template and link it to the host.\n\n\
         ## Author\n\nThe tcp-status authors, {repository}\n",
        text(template, "name")?,
        text(template, "description")?.trim(),
        repository = env!("CARGO_PKG_REPOSITORY"),
    );
    let rows = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let items = rows(&template["items"]);
    let rules = rows(&template["discovery_rules"]);
    let prototypes: Vec<_> = rules
        .iter()
        .flat_map(|it| rows(&it["item_prototypes"]))
        .collect();
    let triggers = |items: &[Value], key: &str| -> Vec<Value> {
        items.iter().flat_map(|item| rows(&item[key])).collect()
    };
    for (title, rows, columns) in [
        (
            "Macros used",
            rows(&template["macros"]),
            ["macro", "value", "description"],
        ),
        ("Discovery rules", rules, ["name", "key", "description"]),
        (
            "Items collected",
            items.clone(),
            ["name", "key", "description"],
        ),
        (
            "Item prototypes",
            prototypes.clone(),
            ["name", "key", "description"],
        ),
        (
            "Triggers",
            triggers(&items, "triggers"),
            ["name", "priority", "description"],
        ),
        (
            "Trigger prototypes",
            triggers(&prototypes, "trigger_prototypes"),
            ["name", "priority", "description"],
        ),
    ] {
        table(&mut page, title, &rows, columns).with_context(|| format!("cannot list {title}"))?;
    }
    Ok(page)
}

fn table(page: &mut String, title: &str, rows: &[Value], columns: [&str; 3]) -> Result<()> {
    writeln!(
        page,
        "\n## {title}\n\n| {} |\n|---|---|---|",
        columns.join(" | ")
    )?;
    for row in rows {
        let cells = columns.map(|column| {
            let cell = row[column].as_str().unwrap_or_default().trim();
            cell.replace('|', "\\|")
                .replace("\r\n", " ")
                .replace('\n', " ")
        });
        writeln!(page, "| {} |", cells.join(" | "))?;
    }
    Ok(())
}
