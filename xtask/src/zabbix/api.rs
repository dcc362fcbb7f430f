//! The server as its API shows it: JSON-RPC, templates, hosts, items, triggers; and its web pages
//! for those who are signed in.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Version, servers::URL};
use crate::files;

/// Who signs in, as the database has it at first.
pub(super) const USER: &str = "Admin";
pub(super) const PASSWORD: &str = "zabbix";

const PATIENCE: Duration = Duration::from_secs(60);
const LONGEST_ANSWER: u64 = 64 << 20;

/// A session with the front end.
pub(super) struct Api {
    pub(super) version: Version,
    agent: ureq::Agent,
    token: String,
    cookie: String,
}

impl Api {
    pub(super) fn sign_in(version: Version) -> Result<Self> {
        let agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE));
        let agent = agent.max_redirects(0).http_status_as_error(false);
        let mut api = Self {
            version,
            agent: agent.build().into(),
            token: String::new(),
            cookie: String::new(),
        };
        let login = json!({"username": USER, "password": PASSWORD});
        api.token = api.call("user.login", &login)?;
        let form = [("name", USER), ("password", PASSWORD), ("enter", "Sign in")];
        let answer = api.agent.post(format!("{URL}/index.php")).send_form(form)?;
        let cookies = answer.headers().get_all("set-cookie").iter();
        let cookies = cookies.filter_map(|value| value.to_str().ok()?.split(';').next());
        let cookies: Vec<_> = cookies.collect();
        ensure!(!cookies.is_empty(), "cannot sign in: no cookie");
        api.cookie = cookies.join("; ");
        Ok(api)
    }

    /// Calls a method and returns its result.
    pub(super) fn call<T: DeserializeOwned>(&self, method: &str, params: &Value) -> Result<T> {
        let mut request = json!({"jsonrpc": "2.0", "method": method, "params": params, "id": 1});
        let mut post = self.agent.post(format!("{URL}/api_jsonrpc.php"));
        if !self.token.is_empty() {
            // In the request before 6.4.
            if self.version == Version::V6_0 {
                request["auth"] = json!(self.token);
            } else {
                post = post.header("Authorization", format!("Bearer {}", self.token));
            }
        }
        let mut answer = post
            .content_type("application/json-rpc")
            .send(request.to_string())
            .with_context(|| format!("cannot call {method}"))?;
        let body = answer.body_mut().with_config().limit(LONGEST_ANSWER);
        let text = body.read_to_string()?;
        let mut answer: Value = serde_json::from_str(&text)
            .with_context(|| format!("{method} is not answered by JSON: {text}"))?;
        if let Some(error) = answer.get("error") {
            bail!("{method}: {}", error["data"].as_str().unwrap_or(&text));
        }
        serde_json::from_value(answer["result"].take())
            .with_context(|| format!("{method} is answered by something else: {text}"))
    }

    /// The bytes of a page of the front end.
    pub(super) fn page(&self, path: &str) -> Result<Vec<u8>> {
        let get = self
            .agent
            .get(format!("{URL}/{path}"))
            .header("Cookie", &self.cookie);
        let mut answer = get.call().with_context(|| format!("cannot get {path}"))?;
        ensure!(answer.status() == 200, "{path}: {}", answer.status());
        let body = answer.body_mut().with_config().limit(LONGEST_ANSWER);
        Ok(body.read_to_vec()?)
    }
}

/// A member that is a text.
pub(super) fn text<'a>(row: &'a Value, name: &str) -> Result<&'a str> {
    let text = row[name].as_str();
    text.with_context(|| format!("no text \"{name}\" in {row}"))
}

/// A template of this repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Template {
    file: &'static str,
    pub(super) name: &'static str,
    format: &'static str,
}

/// For the keys of old: one item, one query.
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
    /// Imports it twice: the second time must change nothing. Returns how many items it has.
    pub(super) fn import(self, api: &Api, root: &Path) -> Result<usize> {
        let file = self.file;
        let import = json!({
            "format": self.format,
            "rules": import_rules(api.version),
            "source": files::read_text(root.join(file))?,
        });
        let stored = |_| -> Result<(Vec<Value>, Value)> {
            let _: Value = api.call("configuration.import", &import)?;
            self.stored(api)
        };
        let both: Result<Vec<_>> = (0..2).map(stored).collect();
        let both = both.with_context(|| format!("cannot import {file}"))?;
        ensure!(
            both[0] == both[1],
            "{file} imported again is another template"
        );
        Ok(both[0].0.len())
    }

    /// Its id in the server.
    pub(super) fn id(self, api: &Api) -> Result<String> {
        let filter = json!({"filter": {"host": self.name}, "output": ["templateid"]});
        let rows: Vec<Value> = api.call("template.get", &filter)?;
        let row = rows.first();
        let row = row.with_context(|| format!("no template \"{}\"", self.name))?;
        Ok(text(row, "templateid")?.to_owned())
    }

    /// As this server exports it.
    pub(super) fn export(self, api: &Api, format: &str) -> Result<String> {
        let of = json!({"format": format, "options": {"templates": [self.id(api)?]}});
        api.call("configuration.export", &of)
    }

    /// What the server made of it: its items and its export.
    fn stored(self, api: &Api) -> Result<(Vec<Value>, Value)> {
        let id = self.id(api)?;
        let of = json!({"templateids": id, "output": ["itemid", "key_"], "sortfield": "itemid"});
        let items = api.call("item.get", &of)?;
        let mut export: Value = serde_json::from_str(&self.export(api, "json")?)?;
        // When it was exported; not in all versions.
        if let Some(content) = export["zabbix_export"].as_object_mut() {
            content.remove("date");
        }
        Ok((items, export))
    }
}

/// What an import may do: create and update everything that a template holds.
fn import_rules(version: Version) -> Value {
    // Groups of templates and of hosts are apart from 6.2 on.
    let groups: &[_] = match version {
        Version::V6_0 => &["groups"],
        Version::V7_0 => &["template_groups", "host_groups"],
    };
    let all = "templates items triggers graphs discoveryRules templateDashboards valueMaps";
    let both = json!({"createMissing": true, "updateExisting": true});
    let names = all.split(' ').chain(groups.iter().copied());
    names.map(|name| (name.to_owned(), both.clone())).collect()
}

/// A host in the server.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) template: Template,
}

/// An item, or a discovery rule, which has no values; numbers are text in the API.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Item {
    #[serde(rename = "itemid")]
    pub(super) id: String,
    #[serde(rename = "key_")]
    pub(super) key: String,
    #[serde(default, rename = "lastclock")]
    clock: String,
    #[serde(default, rename = "lastvalue")]
    pub(super) value: String,
    #[serde(default)]
    pub(super) error: String,
    state: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    history: String,
}

impl Item {
    pub(super) fn is_supported(&self) -> bool {
        self.state == "0"
    }

    /// Queried from the agent, not made from another item.
    pub(super) fn is_polled(&self) -> bool {
        self.kind == "0"
    }

    /// Whether the server keeps its values.
    pub(super) fn is_stored(&self) -> bool {
        !["", "0"].contains(&self.history.as_str())
    }

    pub(super) fn has_value(&self) -> bool {
        !["", "0"].contains(&self.clock.as_str())
    }
}

/// A trigger of a host.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Trigger {
    #[serde(rename = "description")]
    pub(super) name: String,
    value: String,
    state: String,
    error: String,
}

impl Trigger {
    pub(super) fn is_firing(&self) -> bool {
        self.value == "1"
    }

    /// Why it cannot be evaluated; empty if it can.
    pub(super) fn error(&self) -> &str {
        if self.state == "0" { "" } else { &self.error }
    }
}

impl Host {
    /// Creates a host with an agent's interface and one template.
    pub(super) fn create(
        api: &Api,
        name: &str,
        port: u16,
        template: Template,
        macros: &[(&str, &str)],
    ) -> Result<Self> {
        let filter = json!({"filter": {"name": "Linux servers"}, "output": ["groupid"]});
        let groups: Value = api.call("hostgroup.get", &filter)?;
        let pair = |(name, value): &(&str, &str)| json!({"macro": name, "value": value});
        let host = json!({
            "host": name,
            "groups": groups,
            "templates": [{"templateid": template.id(api)?}],
            "macros": macros.iter().map(pair).collect::<Vec<_>>(),
            "interfaces": [{
                "type": 1, "main": 1, "useip": 1,
                "ip": "127.0.0.1", "dns": "", "port": port.to_string(),
            }],
        });
        let made: Value = api.call("host.create", &host)?;
        let id = made["hostids"][0].as_str();
        Ok(Self {
            name: name.to_owned(),
            id: id.context("host.create returned no id")?.to_owned(),
            template,
        })
    }

    /// All items by their key, those of discovery included; not the discovery rules.
    pub(super) fn items(&self, api: &Api) -> Result<BTreeMap<String, Item>> {
        let of = json!({"hostids": self.id, "output": "extend"});
        let items: Vec<Item> = api.call("item.get", &of)?;
        let by_key = items.into_iter().map(|item| (item.key.clone(), item));
        Ok(by_key.collect())
    }

    /// All items, and the discovery rules.
    pub(super) fn items_and_rules(&self, api: &Api) -> Result<Vec<Item>> {
        let output = ["itemid", "key_", "error", "state", "type"];
        let of = json!({"hostids": self.id, "output": output});
        let rules: Vec<Item> = api.call("discoveryrule.get", &of)?;
        Ok(self.items(api)?.into_values().chain(rules).collect())
    }

    pub(super) fn triggers(&self, api: &Api) -> Result<Vec<Trigger>> {
        let enabled = json!({"status": 0});
        let of = json!({"hostids": self.id, "filter": enabled, "expandDescription": true});
        api.call("trigger.get", &of)
    }

    /// The names of its problems that contain a text.
    pub(super) fn problems(&self, api: &Api, part: &str) -> Result<Vec<String>> {
        let of = json!({"hostids": self.id, "output": ["name"], "search": {"name": part}});
        let problems: Vec<BTreeMap<String, String>> = api.call("problem.get", &of)?;
        let names = problems.into_iter().filter_map(|mut of| of.remove("name"));
        Ok(names.collect())
    }

    /// Polls all values now instead of when their time comes.
    pub(super) fn poll_now(&self, api: &Api) -> Result<()> {
        let items = self.items_and_rules(api)?;
        let polled = items.iter().filter(|item| item.is_polled());
        let task = |item: &Item| json!({"type": 6, "request": {"itemid": item.id}});
        let _: Value = api.call("task.create", &polled.map(task).collect())?;
        Ok(())
    }
}
