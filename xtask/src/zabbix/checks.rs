//! What must hold, against the kernel's listing: values, discovered ports, triggers.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use tcp_status_testkit::oracle::{Counts, NAMES, st};

use super::{
    api::{Api, Host, MASTER},
    place::wait_for,
    report::Done,
    subject::Subject,
};

const PATIENCE: Duration = Duration::from_secs(40);

/// Minisockets last a minute, and so long may an answer be missing.
const LONG: Duration = Duration::from_secs(100);

/// The server takes tasks once a second.
const PAUSE: Duration = Duration::from_secs(1);

/// Part of the name of the trigger for a tracker without eBPF.
pub(super) const SCAN: &str = "Tier is degraded";

/// Part of the name of the trigger for a tracker that does not answer.
pub(super) const NO_ANSWER: &str = "does not answer";

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

/// Polls the hosts until `problems` finds none, or `patience` is over.
fn until(
    patience: Duration,
    api: &Api,
    hosts: &[Host],
    what: &str,
    mut problems: impl FnMut() -> Result<Vec<String>>,
) -> Result<()> {
    let mut found = Vec::new();
    let waited = wait_for(patience, || {
        for host in hosts {
            host.poll_now(api)?;
        }
        thread::sleep(PAUSE);
        found = problems()?;
        Ok(found.is_empty())
    });
    waited.with_context(|| format!("{what}: {}", found.join("; ")))
}

/// Every item has a value and none an error.
pub(super) fn values_arrive(api: &Api, hosts: &[Host]) -> Result<Done> {
    let mut all = 0;
    until(PATIENCE, api, hosts, "without a value", || {
        let mut missing = Vec::new();
        all = 0;
        for host in hosts {
            for item in host.items_and_rules(api)? {
                all += 1;
                if !item.is_supported() || (item.is_stored() && !item.has_value()) {
                    missing.push(format!("{}: {} {}", host.name, item.key, item.error));
                }
            }
        }
        Ok(missing)
    })?;
    Ok(Done::Passed(format!("{all} of {all} items supported")))
}

/// The gauges are what the kernel lists before and after.
pub(super) fn gauges_equal(api: &Api, host: &Host, subject: &Subject) -> Result<Done> {
    let mut seen = String::new();
    let mut wanted = Counts::default();
    let waited = wait_for(PATIENCE, || {
        let before = subject.listing()?;
        host.poll_now(api)?;
        thread::sleep(2 * PAUSE);
        let items = host.items(api)?;
        wanted = subject.listing()?;
        let mut equal = before == wanted;
        seen.clear();
        for (number, key) in keys() {
            let item = items.get(&format!("tcp.status[{key}]"));
            let value = &item.with_context(|| format!("no item for {key}"))?.value;
            equal &= *value == wanted.both(number).to_string();
            seen += &format!("{key} {value} ");
        }
        Ok(equal)
    });
    waited.with_context(|| format!("the server has {seen}, the kernel\n{wanted}"))?;
    for (number, key) in keys() {
        let held = number == st::CLOSE || wanted.both(number) > 0;
        ensure!(held, "no socket in {key} to compare with");
    }
    Ok(Done::Passed(seen.trim_end().to_owned()))
}

/// Every port with a listener is discovered, and its items have the kernel's numbers.
pub(super) fn ports_equal(api: &Api, host: &Host, subject: &Subject) -> Result<Done> {
    let ports: BTreeSet<u16> = subject.listening()?.into_iter().collect();
    ensure!(!ports.is_empty(), "no port to discover");
    let mut compared = 0;
    let hosts = std::slice::from_ref(host);
    until(PATIENCE, api, hosts, "not as the kernel lists them", || {
        let mut wrong = Vec::new();
        let listings = ports
            .iter()
            .map(|&port| Ok((port, subject.listing_of(port)?)));
        let listings = listings.collect::<Result<Vec<_>>>()?;
        let items = host.items(api)?;
        compared = 0;
        for (port, listing) in listings {
            let mut of_port = 0;
            for (number, state) in keys() {
                let key = format!("tcp.status[{state},{port}]");
                // States that are rare on a listening port have no item.
                let Some(item) = items.get(&key) else {
                    continue;
                };
                of_port += 1;
                let wanted = listing.both(number).to_string();
                if item.value != wanted || !item.has_value() || !item.is_supported() {
                    let (value, error) = (&item.value, &item.error);
                    wrong.push(format!("{key} is {value}, not {wanted} {error}"));
                }
            }
            let queue = items.get(&format!("tcp.status.accept_queue.pused[{port}]"));
            if of_port == 0 || !queue.is_some_and(|item| item.has_value()) {
                wrong.push(format!("port {port} has no items with values"));
            }
            compared += of_port + 1;
        }
        Ok(wrong)
    })?;
    Ok(Done::Passed(format!(
        "{} ports, {compared} values",
        ports.len()
    )))
}

/// Where a tracker answers by itself, it counts the servers' own sockets, which come and go: their
/// listeners stay.
pub(super) fn listeners_equal(api: &Api, hosts: &[Host]) -> Result<Done> {
    let listens = Counts::read()?.both(st::LISTEN);
    ensure!(listens > 0, "nothing listens");
    for host in hosts {
        let items = host.items(api)?;
        let item = items
            .get("tcp.status[listen]")
            .context("no item for listening sockets")?;
        ensure!(
            item.value == listens.to_string(),
            "{}: {} listening sockets, the kernel lists {listens}",
            host.name,
            item.value
        );
    }
    Ok(Done::Passed(format!("listen {listens}")))
}

/// Without a tracker, every polled item is unsupported for that reason; returns its error.
pub(super) fn unsupported(api: &Api, hosts: &[Host]) -> Result<String> {
    let mut error = String::new();
    until(PATIENCE, api, hosts, "supported without a tracker", || {
        let mut supported = Vec::new();
        for host in hosts {
            for item in host
                .items(api)?
                .into_values()
                .filter(|item| item.is_polled())
            {
                if item.is_supported() {
                    supported.push(item.key);
                    continue;
                }
                // The server puts a line of its own before it.
                let line = item.error.lines().last().unwrap_or_default();
                line.trim_start_matches("1. Failed: ")
                    .clone_into(&mut error);
                if !["tcp-status: cannot connect", "tcp-status run"]
                    .iter()
                    .all(|part| error.contains(part))
                {
                    bail!("{} is unsupported for another reason: {error}", item.key);
                }
            }
        }
        Ok(supported)
    })?;
    Ok(error)
}

/// With a tracker again, everything is as before.
pub(super) fn supported_again(api: &Api, hosts: &[Host]) -> Result<()> {
    until(PATIENCE, api, hosts, "still unsupported", || {
        let mut still = Vec::new();
        for host in hosts {
            let items = host.items_and_rules(api)?.into_iter();
            let unsupported = items.filter(|item| !item.is_supported());
            still.extend(unsupported.map(|item| format!("{}: {}", item.key, item.error)));
        }
        Ok(still)
    })
}

/// All triggers that are about connections fire; of those about queues, some on each host.
pub(super) fn triggers_fire(api: &Api, hosts: &[Host]) -> Result<Done> {
    let mut names = BTreeSet::new();
    let mut fired = 0;
    until(PATIENCE, api, hosts, "do not fire", || {
        let mut quiet = Vec::new();
        names.clear();
        fired = 0;
        for host in hosts {
            let triggers = host.triggers(api)?;
            for part in OF_PORTS.iter().filter(|_| host.template == MASTER) {
                let fires = triggers.iter().any(|trigger| {
                    let name = &trigger.name;
                    trigger.is_firing() && is_of_a_port(name) && name.contains(part)
                });
                if !fires {
                    quiet.push(format!("{}: {part}, of a port", host.name));
                }
            }
            for trigger in triggers {
                let (name, error) = (&trigger.name, trigger.error());
                if trigger.is_firing() {
                    fired += 1;
                    names.insert(name.clone());
                } else if !error.is_empty() || is_about_connections(name) {
                    quiet.push(format!("{}: {name} {error}", host.name));
                }
            }
        }
        let fires = |part: &&&str| names.iter().any(|name| name.contains(**part));
        let hiding = HIDING.iter().filter(|part| !fires(part));
        quiet.extend(hiding.map(|name| (*name).to_owned()));
        Ok(quiet)
    })?;
    let (hosts, names) = (hosts.len(), names.len());
    Ok(Done::Passed(format!(
        "{fired} on {hosts} hosts, {names} different ones"
    )))
}

/// A trigger fires on all those hosts that have it with a time that can be waited for.
pub(super) fn one_fires(api: &Api, hosts: &[Host], part: &str) -> Result<Done> {
    until(LONG, api, hosts, "does not fire", || {
        let mut quiet = Vec::new();
        for host in hosts.iter().filter(|host| host.template == MASTER) {
            let triggers = host.triggers(api)?;
            let mut named = triggers
                .iter()
                .filter(|trigger| trigger.name.contains(part));
            if !named.next().is_some_and(|trigger| trigger.is_firing()) {
                quiet.push(format!("{}: {part}", host.name));
            }
        }
        Ok(quiet)
    })?;
    Ok(Done::Passed(part.to_owned()))
}

/// No trigger fires any more, and none is unknown.
pub(super) fn triggers_recover(api: &Api, hosts: &[Host]) -> Result<Done> {
    let mut all = 0;
    until(LONG, api, hosts, "do not recover", || {
        let mut left = Vec::new();
        all = 0;
        for host in hosts {
            for trigger in host.triggers(api)? {
                all += 1;
                if trigger.is_firing() || !trigger.error().is_empty() {
                    left.push(format!(
                        "{}: {} {}",
                        host.name,
                        trigger.name,
                        trigger.error()
                    ));
                }
            }
        }
        Ok(left)
    })?;
    ensure!(all > 0, "no triggers");
    Ok(Done::Passed(format!(
        "none of {all} fires, none is unknown"
    )))
}

fn is_about_connections(name: &str) -> bool {
    let mut others = [SCAN, NO_ANSWER, DROPS].into_iter().chain(HIDING);
    !is_of_a_port(name) && !others.any(|part| name.contains(part))
}

fn is_of_a_port(name: &str) -> bool {
    name.starts_with("TCP port")
}

/// The states: number as in the kernel's listing, name as in keys.
fn keys() -> impl Iterator<Item = (usize, String)> {
    NAMES.iter().enumerate().skip(1).map(|(number, name)| {
        let key = match number {
            st::CLOSE => "closed".to_owned(),
            _ => name.replace('_', "").to_lowercase(),
        };
        (number, key)
    })
}
