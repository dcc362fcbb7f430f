//! Every trigger fires when its condition is real, recovers with it, and can be evaluated.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::super::{
    api::Api,
    hosts::{Host, MASTER, Trigger},
    process::wait_for,
    report::Done,
};
use super::values;

/// Evaluating takes as long as getting a value.
const PATIENCE: Duration = Duration::from_secs(20);

/// Minisockets last a minute, and so long may an answer be missing.
const LONG: Duration = Duration::from_secs(100);

/// Part of the name of the trigger for a tracker without eBPF.
pub(in super::super) const SCAN: &str = "Tier is degraded";

/// Part of the name of the trigger for a tracker that does not answer.
pub(in super::super) const NO_ANSWER: &str = "does not answer";

/// Triggers that hide others, which have to be tried apart.
const HIDING: [&str; 2] = [
    "Many local ports are held by outgoing connections",
    "Local ports are nearly used up by outgoing connections",
];

/// Parts of the names of the triggers that every port has; only some ports are in trouble.
const OF_PORTS: [&str; 2] = [
    "Accept queue is filling up",
    "Connections stay in CLOSE_WAIT",
];

/// Part of the name of the trigger for drops of which no overflow is the cause: none here.
const DROPS: &str = "Listeners drop connections";

/// All triggers that are about connections fire; of those about queues, some on each host.
pub(in super::super) fn fire(api: &Api, hosts: &[Host]) -> Result<Done> {
    let mut quiet = Vec::new();
    let mut names = BTreeSet::new();
    let mut fired = 0;
    let waited = wait_for(PATIENCE, || {
        values::ask(api, hosts)?;
        quiet.clear();
        names.clear();
        fired = 0;
        for host in hosts {
            let triggers = host.triggers(api)?;
            for part in OF_PORTS.iter().filter(|_| host.template == MASTER) {
                let fires = |trigger: &Trigger| {
                    trigger.firing && is_of_a_port(&trigger.name) && trigger.name.contains(part)
                };
                if !triggers.iter().any(fires) {
                    quiet.push(format!("{}: {part}, of a port", host.name));
                }
            }
            for Trigger {
                name,
                firing,
                error,
            } in triggers
            {
                if firing {
                    fired += 1;
                    names.insert(name);
                } else if !error.is_empty() || is_about_connections(&name) {
                    quiet.push(format!("{}: {name} {error}", host.name));
                }
            }
        }
        let hiding = HIDING
            .iter()
            .filter(|name| !names.iter().any(|fired| fired.contains(*name)));
        quiet.extend(hiding.map(|name| (*name).to_owned()));
        Ok(quiet.is_empty())
    });
    waited.with_context(|| format!("do not fire: {}", quiet.join("; ")))?;
    Ok(Done::Passed(format!(
        "{fired} on {} hosts, {} different ones",
        hosts.len(),
        names.len()
    )))
}

/// A trigger fires on all those hosts that have it with a time that can be waited for.
pub(in super::super) fn one_fires(api: &Api, hosts: &[Host], part: &str) -> Result<Done> {
    let waited = wait_for(LONG, || {
        values::ask(api, hosts)?;
        for host in hosts.iter().filter(|host| host.template == MASTER) {
            let triggers = host.triggers(api)?;
            let trigger = triggers
                .iter()
                .find(|trigger| trigger.name.contains(part))
                .with_context(|| format!("{} has no trigger \"{part}\"", host.name))?;
            if !trigger.firing {
                return Ok(false);
            }
        }
        Ok(true)
    });
    waited.with_context(|| format!("\"{part}\" does not fire"))?;
    Ok(Done::Passed(part.to_owned()))
}

/// Everything is well again, and nothing unknown.
pub(in super::super) fn recover(api: &Api, hosts: &[Host]) -> Result<Done> {
    let mut left = Vec::new();
    let mut all = 0;
    let waited = wait_for(LONG, || {
        values::ask(api, hosts)?;
        left.clear();
        all = 0;
        for host in hosts {
            for Trigger {
                name,
                firing,
                error,
            } in host.triggers(api)?
            {
                all += 1;
                if firing || !error.is_empty() {
                    left.push(format!("{}: {name} {error}", host.name));
                }
            }
        }
        Ok(left.is_empty())
    });
    waited.with_context(|| format!("do not recover: {}", left.join("; ")))?;
    ensure!(all > 0, "no triggers");
    Ok(Done::Passed(format!(
        "none of {all} fires, none is unknown"
    )))
}

fn is_about_connections(name: &str) -> bool {
    let others = [SCAN, NO_ANSWER, DROPS];
    let mut others = others.iter().chain(&HIDING);
    !is_of_a_port(name) && !others.any(|part| name.contains(part))
}

fn is_of_a_port(name: &str) -> bool {
    name.starts_with("TCP port")
}
