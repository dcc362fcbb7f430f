//! Graphs and the dashboard as pictures, to be looked at.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    api::{Api, PASSWORD, USER, text},
    frontend::URL,
    hosts::{CLASSIC, Host, MASTER},
    place::Place,
    report::Done,
};
use crate::step::Step;

/// What brings a browser.
pub(super) const PACKAGE: &str = "chromium";

/// How long the browser may take, in seconds: some ten, but now and then it hangs.
const PATIENCE: &str = "60";

const TRIES: u32 = 3;

/// Every graph of the templates, and some of discovered ports, as the front end draws them.
pub(super) fn graphs(api: &Api, hosts: &[Host], folder: &Path) -> Result<Done> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut drawn = 0;
    for template in [CLASSIC, MASTER] {
        let host = hosts.iter().find(|host| host.template == template);
        let host = host.with_context(|| format!("no host has \"{}\"", template.name))?;
        for graph in graphs_of(api, host)? {
            let (id, name) = (text(&graph, "graphid")?, text(&graph, "name")?);
            let picture = api.page(&format!(
                "chart2.php?graphid={id}&from=now-5m&to=now&width=900&height=200\
                 &profileIdx=web.charts.filter"
            ))?;
            ensure!(width(&picture).is_some(), "\"{name}\" is no picture");
            let file = folder.join(format!("{}-{}-{drawn}.png", api.version, host.name));
            fs::write(&file, picture)
                .with_context(|| format!("cannot write {}", file.display()))?;
            drawn += 1;
        }
    }
    Ok(Done::Passed(format!("{drawn} in {}", folder.display())))
}

fn graphs_of(api: &Api, host: &Host) -> Result<Vec<Value>> {
    // Where they come from: the template, or discovery, which has many.
    let kinds = [json!({"flags": 0}), json!({"flags": 4})];
    let mut all = Vec::new();
    for (kind, limit) in kinds.iter().zip([100, 2]) {
        let graphs = api.rows(
            "graph.get",
            &json!({
                "hostids": host.id, "filter": kind, "limit": limit,
                "output": ["graphid", "name"],
            }),
        )?;
        all.extend(graphs);
    }
    ensure!(!all.is_empty(), "{} has no graphs", host.name);
    Ok(all)
}

/// The dashboard of the newer template, as a browser shows it.
pub(super) fn dashboard(api: &Api, place: &Place, hosts: &[Host], folder: &Path) -> Result<Done> {
    let Some(host) = hosts.iter().find(|host| host.template == MASTER) else {
        bail!("no host has a dashboard");
    };
    let rows = api.rows(
        "templatedashboard.get",
        &json!({"templateids": MASTER.id(api)?, "output": ["dashboardid"]}),
    )?;
    let dashboard = text(
        rows.first().context("the template has no dashboard")?,
        "dashboardid",
    )?;
    if Step::new(PACKAGE).arg("--version").ask().is_none() {
        return Ok(Done::Skipped(format!(
            "no {PACKAGE}; `cargo xtask zabbix --install` brings it"
        )));
    }
    // A page of the same origin that signs in and goes on: the browser takes no cookie from here.
    let target = format!(
        "zabbix.php?action=host.dashboard.view&hostid={}&dashboardid={dashboard}&from=now-5m&to=now&kiosk=1",
        host.id
    );
    let page = format!(
        "<form id=f method=post action=index.php>\
         <input name=name value={USER}><input name=password value={PASSWORD}>\
         <input name=autologin value=1><input name=enter value='Sign in'>\
         <input name=request value='{target}'></form><script>f.submit()</script>"
    );
    let entrance = place.tree("usr/share/zabbix/entrance.html");
    fs::write(&entrance, page).with_context(|| format!("cannot write {}", entrance.display()))?;
    let picture = (0..TRIES)
        .find_map(|attempt| screenshot(place, attempt))
        .with_context(|| format!("the browser left no picture in {TRIES} tries"))?;
    ensure!(width(&picture).is_some(), "the dashboard is no picture");
    let kept = folder.join(format!("{}-dashboard.png", api.version));
    fs::write(&kept, picture).with_context(|| format!("cannot write {}", kept.display()))?;
    Ok(Done::Passed(kept.display().to_string()))
}

/// What the browser shows, if it shows anything in time.
fn screenshot(place: &Place, attempt: u32) -> Option<Vec<u8>> {
    // One that was killed leaves its profile locked.
    let profile = place.make_folder(&format!("browser-{attempt}")).ok()?;
    let file = profile.join("dashboard.png");
    let mut command = place.command("timeout");
    command
        .env_remove("LD_LIBRARY_PATH")
        .args(["--kill-after=5", PATIENCE, PACKAGE])
        .args([
            "--headless",
            "--no-sandbox",
            "--no-first-run",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
        ])
        .args(["--window-size=1500,1150", "--virtual-time-budget=15000"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--screenshot={}", file.display()))
        .arg(format!("{URL}/entrance.html"));
    place.run(&mut command).ok()?;
    fs::read(&file).ok()
}

/// The width of a PNG.
fn width(picture: &[u8]) -> Option<u32> {
    let rest = picture.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    let width = rest.strip_prefix(b"\0\0\0\rIHDR")?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*width))
}
