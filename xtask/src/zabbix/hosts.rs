//! Templates and hosts in the server, and what it knows of them: items, values, triggers.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::api::{Api, number, text};

/// A template of this repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) file: &'static str,
    pub(super) name: &'static str,
    format: &'static str,
}

/// For the keys of old: one item, one question.
pub(super) const CLASSIC: Template = Template {
    file: "templates/zabbix/template_tcp_status_3.0.xml",
    name: "Template TCP status",
    format: "xml",
};

/// One master item, and what depends on it.
pub(super) const MASTER: Template = Template {
    file: "templates/zabbix/template_tcp_status_6.0.yaml",
    name: "TCP status by Zabbix agent",
    format: "yaml",
};

impl Template {
    /// Imports it twice: the second time must change nothing. Says how many items it has.
    pub(super) fn import(self, api: &Api, root: &Path) -> Result<usize> {
        let path = root.join(self.file);
        let source =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let import = json!({
            "format": self.format,
            "rules": api.version.import_rules(),
            "source": source,
        });
        api.call("configuration.import", &import)
            .with_context(|| format!("cannot import {}", self.file))?;
        let first = self.stored(api)?;
        api.call("configuration.import", &import)
            .with_context(|| format!("cannot import {} again", self.file))?;
        let second = self.stored(api)?;
        ensure!(
            second == first,
            "{} imported again is another template",
            self.file
        );
        Ok(first.items.len())
    }

    /// Its id in the server.
    pub(super) fn id(self, api: &Api) -> Result<String> {
        let rows = api.rows(
            "template.get",
            &json!({"filter": {"host": self.name}, "output": ["templateid"]}),
        )?;
        let row = rows
            .first()
            .with_context(|| format!("no template \"{}\"", self.name))?;
        Ok(text(row, "templateid")?.to_owned())
    }

    fn stored(self, api: &Api) -> Result<Stored> {
        let id = self.id(api)?;
        let items = api.rows(
            "item.get",
            &json!({"templateids": id, "output": ["itemid", "key_"], "sortfield": "itemid"}),
        )?;
        let export = api.call(
            "configuration.export",
            &json!({"format": "json", "options": {"templates": [id]}}),
        )?;
        let export = export.as_str().context("the export is no text")?;
        let mut export: Value = serde_json::from_str(export)?;
        // When it was exported; not in all versions.
        if let Some(content) = export["zabbix_export"].as_object_mut() {
            content.remove("date");
        }
        Ok(Stored { items, export })
    }
}

/// What the server made of a template.
#[derive(PartialEq)]
struct Stored {
    items: Vec<Value>,
    export: Value,
}

/// A host in the server.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) template: Template,
}

/// An item, or a discovery rule.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) key: String,
    pub(super) clock: u64,
    pub(super) value: String,
    pub(super) error: String,
    pub(super) supported: bool,
    /// Whether the server keeps its values.
    pub(super) stored: bool,
    /// Asked from the agent, not made from another item.
    pub(super) polled: bool,
}

/// A trigger of a host.
#[derive(Debug, Clone)]
pub(super) struct Trigger {
    pub(super) name: String,
    pub(super) firing: bool,
    /// Why it cannot be evaluated; empty if it can.
    pub(super) error: String,
}

impl Host {
    /// Makes a host with an agent's interface and one template.
    pub(super) fn make(
        api: &Api,
        name: &str,
        port: u16,
        template: Template,
        macros: &[(&str, &str)],
    ) -> Result<Self> {
        let groups = api.rows(
            "hostgroup.get",
            &json!({"filter": {"name": "Linux servers"}, "output": ["groupid"]}),
        )?;
        let macros: Vec<_> = macros
            .iter()
            .map(|(name, value)| json!({"macro": name, "value": value}))
            .collect();
        let made = api.call(
            "host.create",
            &json!({
                "host": name,
                "groups": groups,
                "templates": [{"templateid": template.id(api)?}],
                "macros": macros,
                "interfaces": [{
                    "type": 1, "main": 1, "useip": 1,
                    "ip": "127.0.0.1", "dns": "", "port": port.to_string(),
                }],
            }),
        )?;
        let id = made["hostids"][0]
            .as_str()
            .context("host.create gave no id")?;
        Ok(Self {
            name: name.to_owned(),
            id: id.to_owned(),
            template,
        })
    }

    /// All items, those of discovery included; not the discovery rules.
    pub(super) fn items(&self, api: &Api) -> Result<Vec<Item>> {
        let output = [
            "itemid",
            "key_",
            "lastclock",
            "lastvalue",
            "error",
            "state",
            "type",
            "history",
        ];
        let rows = api.rows("item.get", &json!({"hostids": self.id, "output": output}))?;
        rows.iter().map(item).collect()
    }

    /// Items by their key.
    pub(super) fn items_by_key(&self, api: &Api) -> Result<BTreeMap<String, Item>> {
        let items = self.items(api)?;
        Ok(items
            .into_iter()
            .map(|item| (item.key.clone(), item))
            .collect())
    }

    /// Discovery rules; they have no values.
    pub(super) fn rules(&self, api: &Api) -> Result<Vec<Item>> {
        let output = ["itemid", "key_", "error", "state", "type"];
        let rows = api.rows(
            "discoveryrule.get",
            &json!({"hostids": self.id, "output": output}),
        )?;
        rows.iter().map(item).collect()
    }

    pub(super) fn triggers(&self, api: &Api) -> Result<Vec<Trigger>> {
        let rows = api.rows(
            "trigger.get",
            &json!({
                "hostids": self.id,
                "output": ["description", "value", "state", "error", "status"],
                "filter": {"status": 0},
                "expandDescription": true,
            }),
        )?;
        rows.iter()
            .map(|row| {
                let known = text(row, "state")? == "0";
                Ok(Trigger {
                    name: text(row, "description")?.to_owned(),
                    firing: text(row, "value")? == "1",
                    error: if known {
                        String::new()
                    } else {
                        text(row, "error")?.to_owned()
                    },
                })
            })
            .collect()
    }
}

fn item(row: &Value) -> Result<Item> {
    let kept = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    Ok(Item {
        id: text(row, "itemid")?.to_owned(),
        key: text(row, "key_")?.to_owned(),
        clock: if row["lastclock"].is_null() {
            0
        } else {
            number(row, "lastclock")?
        },
        value: kept("lastvalue"),
        error: kept("error"),
        supported: text(row, "state")? == "0",
        stored: row["history"].as_str().is_some_and(|kept| kept != "0"),
        polled: text(row, "type")? == "0",
    })
}

/// Asks for values now instead of when their time comes.
pub(super) fn ask_now(api: &Api, items: &[Item]) -> Result<()> {
    let tasks: Vec<_> = items
        .iter()
        .filter(|item| item.polled)
        .map(|item| json!({"type": 6, "request": {"itemid": item.id}}))
        .collect();
    api.call("task.create", &Value::Array(tasks))?;
    Ok(())
}
