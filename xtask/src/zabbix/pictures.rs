//! Graphs and the dashboard as pictures, to be looked at.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    api::{Api, CLASSIC, Host, MASTER, PASSWORD, USER, text},
    sandbox::{Sandbox, output},
    servers::URL,
};
use crate::{files, test_totals::Outcome, toolchain::exists};

/// Program and package.
pub(super) const BROWSER: &str = "chromium";

/// It takes some ten seconds, but now and then it hangs.
const BROWSER_COMMAND: &str = "timeout --kill-after=5 60 chromium --headless --no-sandbox \
     --no-first-run --disable-gpu --disable-background-networking --disable-component-update \
     --disable-sync --hide-scrollbars --window-size=1500,1150 --virtual-time-budget=15000";

const TRIES: u32 = 3;

/// Every graph of the templates, and some of discovered ports, as the front end draws them.
pub(super) fn graphs(api: &Api, hosts: &[Host], folder: &Path) -> Result<Outcome> {
    files::create_folder(folder)?;
    let mut drawn = 0;
    for template in [CLASSIC, MASTER] {
        let host = hosts.iter().find(|host| host.template == template);
        let host = host.with_context(|| format!("no host has \"{}\"", template.name))?;
        let mut graphs: Vec<Value> = Vec::new();
        // Of the template, and of discovery, which has many.
        for (flags, limit) in [(0, 100), (4, 2)] {
            let of = json!({
                "hostids": host.id, "filter": {"flags": flags}, "limit": limit,
                "output": ["graphid", "name"],
            });
            graphs.extend(api.call::<Vec<Value>>("graph.get", &of)?);
        }
        ensure!(!graphs.is_empty(), "{} has no graphs", host.name);
        for graph in &graphs {
            let id = text(graph, "graphid")?;
            let picture = api.page(&format!(
                "chart2.php?graphid={id}&from=now-5m&to=now&width=900&height=200\
                 &profileIdx=web.charts.filter"
            ))?;
            let name = text(graph, "name")?;
            ensure!(is_picture(&picture), "\"{name}\" is no picture");
            let file = format!("{}-{}-{drawn}.png", api.version.name(), host.name);
            files::write(folder.join(file), picture)?;
            drawn += 1;
        }
    }
    Ok(format!("{drawn} in {}", folder.display()).into())
}

/// The dashboard of the newer template, as a browser shows it.
pub(super) fn dashboard(
    api: &Api,
    sandbox: &Sandbox,
    hosts: &[Host],
    folder: &Path,
) -> Result<Outcome> {
    let mut hosts = hosts.iter().filter(|host| host.template == MASTER);
    let host = hosts.next().context("no host has a dashboard")?;
    let of = json!({"templateids": MASTER.id(api)?, "output": ["dashboardid"]});
    let rows: Vec<Value> = api.call("templatedashboard.get", &of)?;
    let row = rows.first().context("the template has no dashboard")?;
    if !exists(BROWSER) {
        let reason = format!("no {BROWSER}; install it: cargo xtask zabbix --install");
        return Ok(Outcome::Skipped(reason));
    }
    // A page of the same origin that signs in and goes on: the browser takes no cookie from here.
    let page = format!(
        "<form id=f method=post action=index.php>\
         <input name=name value={USER}><input name=password value={PASSWORD}>\
         <input name=autologin value=1><input name=enter value='Sign in'>\
         <input name=request value='zabbix.php?action=host.dashboard.view&hostid={}&dashboardid={}\
         &from=now-5m&to=now&kiosk=1'></form><script>f.submit()</script>",
        host.id,
        text(row, "dashboardid")?
    );
    files::write(sandbox.tree("usr/share/zabbix/entrance.html"), page)?;
    let picture = (0..TRIES)
        .find_map(|attempt| screenshot(sandbox, attempt))
        .with_context(|| format!("the browser left no picture in {TRIES} tries"))?;
    ensure!(is_picture(&picture), "the dashboard is no picture");
    let kept = folder.join(format!("{}-dashboard.png", api.version.name()));
    files::write(&kept, picture)?;
    Ok(kept.display().to_string().into())
}

/// What the browser shows, if it shows anything in time.
fn screenshot(sandbox: &Sandbox, attempt: u32) -> Option<Vec<u8>> {
    // One that was killed leaves its profile locked.
    let profile = sandbox.create_folder(&format!("browser-{attempt}")).ok()?;
    let file = profile.join("dashboard.png");
    let mut command = sandbox.command(BROWSER_COMMAND);
    command
        .env_remove("LD_LIBRARY_PATH")
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--screenshot={}", file.display()))
        .arg(format!("{URL}/entrance.html"));
    output(&mut command).ok()?;
    files::read(&file).ok()
}

fn is_picture(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
}
