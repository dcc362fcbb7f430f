//! Zabbix's JSON-RPC, and its web pages for those who are signed in.

use std::{cell::Cell, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use ureq::Agent;

use super::{frontend::URL, version::Version};

/// Who signs in, as the database has it at first.
pub(super) const USER: &str = "Admin";
pub(super) const PASSWORD: &str = "zabbix";
const PATIENCE: Duration = Duration::from_secs(60);

/// A session with the front end.
pub(super) struct Api {
    pub(super) version: Version,
    agent: Agent,
    token: String,
    cookie: String,
    number: Cell<u64>,
}

impl Api {
    pub(super) fn sign_in(version: Version) -> Result<Self> {
        let agent: Agent = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .max_redirects(0)
            .http_status_as_error(false)
            .build()
            .into();
        let mut api = Self {
            version,
            agent,
            token: String::new(),
            cookie: String::new(),
            number: Cell::new(1),
        };
        let token = api.call(
            "user.login",
            &json!({"username": USER, "password": PASSWORD}),
        )?;
        token
            .as_str()
            .context("no session from user.login")?
            .clone_into(&mut api.token);
        let form = [("name", USER), ("password", PASSWORD), ("enter", "Sign in")];
        let answer = api
            .agent
            .post(format!("{URL}/index.php"))
            .send_form(form)
            .context("cannot sign in")?;
        let cookies: Vec<_> = answer
            .headers()
            .get_all("set-cookie")
            .iter()
            .filter_map(|value| value.to_str().ok()?.split(';').next())
            .collect();
        ensure!(!cookies.is_empty(), "signing in brought no cookie");
        api.cookie = cookies.join("; ");
        Ok(api)
    }

    /// Calls a method and gives its result.
    pub(super) fn call(&self, method: &str, parameters: &Value) -> Result<Value> {
        self.number.set(self.number.get() + 1);
        let mut request = json!({
            "jsonrpc": "2.0",
            "method": method,
            "params": parameters,
            "id": self.number.get(),
        });
        let mut post = self.agent.post(format!("{URL}/api_jsonrpc.php"));
        if !self.token.is_empty() {
            if self.version.takes_bearer() {
                post = post.header("Authorization", format!("Bearer {}", self.token));
            } else {
                request["auth"] = json!(self.token);
            }
        }
        let mut answer = post
            .content_type("application/json-rpc")
            .send(request.to_string())
            .with_context(|| format!("cannot call {method}"))?;
        let text = answer
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_string()?;
        let mut answer: Value = serde_json::from_str(&text)
            .with_context(|| format!("{method} is not answered by JSON: {text}"))?;
        if let Some(error) = answer.get("error") {
            bail!("{method}: {}", error["data"].as_str().unwrap_or(&text));
        }
        Ok(answer["result"].take())
    }

    /// The rows that a `get` method gives.
    pub(super) fn rows(&self, method: &str, parameters: &Value) -> Result<Vec<Value>> {
        match self.call(method, parameters)? {
            Value::Array(rows) => Ok(rows),
            other => bail!("{method} gives no rows: {other}"),
        }
    }

    /// The bytes of a page of the front end.
    pub(super) fn page(&self, path: &str) -> Result<Vec<u8>> {
        let mut answer = self
            .agent
            .get(format!("{URL}/{path}"))
            .header("Cookie", &self.cookie)
            .call()
            .with_context(|| format!("cannot get {path}"))?;
        ensure!(answer.status() == 200, "{path}: {}", answer.status());
        Ok(answer
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_vec()?)
    }
}

/// A member that is a text.
pub(super) fn text<'a>(row: &'a Value, name: &str) -> Result<&'a str> {
    row[name]
        .as_str()
        .with_context(|| format!("no text \"{name}\" in {row}"))
}

/// A member that is a number, which the API gives as text.
pub(super) fn number<T: std::str::FromStr>(row: &Value, name: &str) -> Result<T> {
    let text = text(row, name)?;
    text.parse()
        .ok()
        .with_context(|| format!("\"{name}\" is no number: {text}"))
}
