//! What must hold, against the kernel's listing: values, discovered ports, triggers. Each check
//! returns what it found.

use std::{
    collections::{BTreeMap, BTreeSet},
    slice::from_ref,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tcp_status_testkit::oracle::{Counts, NAMES, st};

use super::{
    api::{Api, Host, Item, MASTER},
    subject::{Destination, Subject},
};
use crate::process::wait_for;

const PATIENCE: Duration = Duration::from_secs(40);

/// Minisockets last a minute, and so long may an answer be missing.
const LONG: Duration = Duration::from_secs(100);

/// The server takes tasks once a second.
const PAUSE: Duration = Duration::from_secs(1);

/// Part of the name of the trigger for a tracker without eBPF.
pub(super) const SCAN: &str = "Tier is degraded";

/// Part of the name of the trigger for a tracker that does not answer.
pub(super) const NO_ANSWER: &str = "does not answer";

/// Part of the name of the trigger for a destination that uses up more and more ports.
const PORTS_RUN_OUT: &str = "runs out of ephemeral ports";

/// How names of what is discovered begin.
const OF_PORT: &str = "TCP port ";
const OF_CGROUP: &str = "TCP cgroup ";

/// Parts of the names of the triggers that are discovered; only some ports are in trouble.
const DISCOVERED: [(&str, &str); 3] = [
    (OF_PORT, "Accept queue is filling up"),
    (OF_PORT, "Connections stay in CLOSE_WAIT"),
    (OF_CGROUP, "Connections stay in CLOSE_WAIT"),
];

/// Part of the name of the trigger for drops of which no overflow is the cause: none here.
const DROPS: &str = "Listeners drop connections";

/// Polls the hosts and checks each, until no check adds a problem, or `patience` is over. Returns
/// the sum of what the checks returned: of how many things there are.
fn until(
    patience: Duration,
    api: &Api,
    hosts: &[Host],
    what: &str,
    mut check: impl FnMut(&Host, &mut Vec<String>) -> Result<usize>,
) -> Result<usize> {
    let (mut problems, mut count) = (Vec::new(), 0);
    let waited = wait_for(patience, || {
        for host in hosts {
            host.poll_now(api)?;
        }
        thread::sleep(PAUSE);
        (problems, count) = (Vec::new(), 0);
        for host in hosts {
            let before = problems.len();
            count += check(host, &mut problems)?;
            for problem in &mut problems[before..] {
                problem.insert_str(0, &format!("{}: ", host.name));
            }
        }
        Ok(problems.is_empty())
    });
    waited.with_context(|| format!("{what}: {}", problems.join("; ")))?;
    Ok(count)
}

/// Every item has a value and none an error.
pub(super) fn values_arrive(api: &Api, hosts: &[Host]) -> Result<String> {
    let all = until(PATIENCE, api, hosts, "without a value", |host, missing| {
        let items = host.items_and_rules(api)?;
        for item in &items {
            if !item.is_supported() || (item.is_stored() && !item.has_value()) {
                missing.push(format!("{} {}", item.key, item.error));
            }
        }
        Ok(items.len())
    })?;
    Ok(format!("{all} of {all} items supported"))
}

/// The gauges are what the kernel lists before and after.
pub(super) fn gauges_equal(api: &Api, host: &Host, subject: &Subject) -> Result<String> {
    let (mut seen, mut wanted) = (String::new(), Counts::default());
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
    Ok(seen)
}

/// Every port with a listener is discovered, and its items have the kernel's numbers.
pub(super) fn ports_equal(api: &Api, host: &Host, subject: &Subject) -> Result<String> {
    let ports: BTreeSet<u16> = subject.listening()?.into_iter().collect();
    ensure!(!ports.is_empty(), "no port to discover");
    let what = "not as the kernel lists them";
    let compared = until(PATIENCE, api, from_ref(host), what, |host, wrong| {
        let listings = ports.iter().map(|&port| subject.listing_of(port));
        let listings = listings.collect::<Result<Vec<_>>>()?;
        let items = host.items(api)?;
        let mut compared = 0;
        for (port, listing) in ports.iter().zip(listings) {
            let before = compared;
            for (number, state) in keys() {
                let key = format!("tcp.status[{state},{port}]");
                // States that are rare on a listening port have no item.
                let Some(item) = items.get(&key) else {
                    continue;
                };
                compared += 1;
                let wanted = listing.both(number).to_string();
                if item.value != wanted || !item.has_value() || !item.is_supported() {
                    let (value, error) = (&item.value, &item.error);
                    wrong.push(format!("{key} is {value}, not {wanted} {error}"));
                }
            }
            let reasons = ["closed", "reset_by_peer", "reset_locally", "timed_out"];
            let ends = reasons.map(|why| format!("connection_ends[{why},{port}]"));
            let of_listeners = ["accept_queue.pused", "listener_drops"];
            let of_listeners = of_listeners.map(|key| format!("{key}[{port}]"));
            let mut others = of_listeners.into_iter().chain(ends);
            let has_value = |key: String| {
                let item = items.get(&format!("tcp.status.{key}"));
                item.is_some_and(Item::has_value)
            };
            if compared == before || !others.all(has_value) {
                wrong.push(format!("port {port} has no items with values"));
            }
            compared += 1;
        }
        Ok(compared)
    })?;
    Ok(format!("{} ports, {compared} values", ports.len()))
}

/// The cgroup of the held sockets is discovered, and its items have the kernel's numbers: no other cgroup has
/// sockets in the namespace.
pub(super) fn cgroups_equal(api: &Api, host: &Host, subject: &Subject) -> Result<String> {
    let path = subject.cgroup();
    let mut seen = BTreeMap::new();
    let what = "not as the kernel lists them";
    until(PATIENCE, api, from_ref(host), what, |host, wrong| {
        let (listing, items) = (subject.listing()?, host.items(api)?);
        seen.clear();
        for (number, state) in keys() {
            // States that are rare have no item, those of minisockets none either.
            let Some(item) = items.get(&format!("tcp.status[{state},,{path}]")) else {
                continue;
            };
            let wanted = listing.both(number);
            if item.value != wanted.to_string() || !item.has_value() || wanted == 0 {
                wrong.push(format!("{} is {}, not {wanted}", item.key, item.value));
            }
            seen.insert(state, wanted);
        }
        if !seen.contains_key("closewait") {
            wrong.push(format!("no items of {path}"));
        }
        Ok(seen.len())
    })?;
    Ok(format!("{path}: {seen:?}"))
}

/// Where a tracker answers by itself, it counts the servers' own sockets, which come and go: their
/// listeners stay.
pub(super) fn listeners_equal(api: &Api, hosts: &[Host]) -> Result<String> {
    let listens = Counts::read()?.both(st::LISTEN);
    ensure!(listens > 0, "nothing listens");
    for host in hosts {
        let items = host.items(api)?;
        let item = items.get("tcp.status[listen]");
        let value = &item.context("no item for listening sockets")?.value;
        ensure!(
            *value == listens.to_string(),
            "{}: {value} listening sockets, the kernel lists {listens}",
            host.name,
        );
    }
    Ok(format!("listen {listens}"))
}

/// Without a tracker, every polled item is unsupported for that reason; returns its error.
pub(super) fn unsupported(api: &Api, hosts: &[Host]) -> Result<String> {
    let mut error = String::new();
    until(
        PATIENCE,
        api,
        hosts,
        "supported without a tracker",
        |host, supported| {
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
            Ok(0)
        },
    )?;
    Ok(error)
}

/// With a tracker again, everything is as before.
pub(super) fn supported_again(api: &Api, hosts: &[Host]) -> Result<()> {
    until(PATIENCE, api, hosts, "still unsupported", |host, still| {
        let items = host.items_and_rules(api)?.into_iter();
        let unsupported = items.filter(|item| !item.is_supported());
        still.extend(unsupported.map(|item| format!("{}: {}", item.key, item.error)));
        Ok(0)
    })
    .map(drop)
}

/// All triggers that are about connections fire; of those about queues, some on each host.
pub(super) fn triggers_fire(api: &Api, hosts: &[Host]) -> Result<String> {
    let mut names = BTreeSet::new();
    let fired = until(PATIENCE, api, hosts, "do not fire", |host, quiet| {
        let triggers = host.triggers(api)?;
        let (firing, others): (Vec<_>, Vec<_>) =
            triggers.iter().partition(|trigger| trigger.is_firing());
        if host.template == MASTER {
            for (of, part) in DISCOVERED {
                let fires = |name: &str| name.starts_with(of) && name.contains(part);
                if !firing.iter().any(|trigger| fires(&trigger.name)) {
                    quiet.push(format!("{of}... {part}"));
                }
            }
        }
        for trigger in others {
            let (name, error) = (&trigger.name, trigger.error());
            if !error.is_empty() || is_about_connections(name) {
                quiet.push(format!("{name} {error}"));
            }
        }
        names.extend(firing.iter().map(|trigger| trigger.name.clone()));
        Ok(firing.len())
    })?;
    let (hosts, names) = (hosts.len(), names.len());
    Ok(format!("{fired} on {hosts} hosts, {names} different ones"))
}

/// While a destination uses up more and more ports, a trigger says so before there is none. The name of the
/// problem has what the item of the fullest destination had when it began: on one host at least, since the item may
/// come a moment later.
pub(super) fn ports_run_out(
    api: &Api,
    hosts: &[Host],
    subject: &Subject,
    destination: &mut Destination,
) -> Result<String> {
    let hosts: Vec<_> = hosts
        .iter()
        .filter(|host| host.template == MASTER)
        .cloned()
        .collect();
    let mut seen = String::new();
    until(LONG, api, &hosts, "no forecast", |host, wrong| {
        subject.connect(destination)?;
        let items = host.items(api)?;
        let item = items.get("tcp.status.fullest_destination");
        seen.clone_from(&item.context("no item")?.value);
        if !["127.0.0.1", " uses ", ", all in "]
            .iter()
            .all(|part| seen.contains(part))
        {
            wrong.push(seen.clone());
        }
        let triggers = host.triggers(api)?;
        let mut named = triggers
            .iter()
            .filter(|trigger| trigger.name.contains(PORTS_RUN_OUT));
        if !named.next().is_some_and(|trigger| trigger.is_firing()) {
            wrong.push("no trigger fires".into());
        }
        Ok(1)
    })?;
    let names = hosts.iter().map(|host| host.problems(api, PORTS_RUN_OUT));
    let names = names.collect::<Result<Vec<_>>>()?.concat();
    let is_named = |name: &String| name.contains("127.0.0.1") && name.contains(" uses ");
    ensure!(names.iter().any(is_named), "{names:?}");
    Ok(seen)
}

/// A trigger fires on all those hosts that have it with a time that can be waited for.
pub(super) fn one_fires(api: &Api, hosts: &[Host], part: &str) -> Result<String> {
    until(LONG, api, hosts, "does not fire", |host, quiet| {
        let triggers = host.triggers(api)?;
        let mut named = triggers
            .iter()
            .filter(|trigger| trigger.name.contains(part));
        let fires = named.next().is_some_and(|trigger| trigger.is_firing());
        if host.template == MASTER && !fires {
            quiet.push(part.to_owned());
        }
        Ok(0)
    })?;
    Ok(part.to_owned())
}

/// No trigger fires any more, and none is unknown.
pub(super) fn triggers_recover(api: &Api, hosts: &[Host]) -> Result<String> {
    let all = until(LONG, api, hosts, "do not recover", |host, left| {
        let triggers = host.triggers(api)?;
        for trigger in &triggers {
            let (name, error) = (&trigger.name, trigger.error());
            if trigger.is_firing() || !error.is_empty() {
                left.push(format!("{name} {error}"));
            }
        }
        Ok(triggers.len())
    })?;
    ensure!(all > 0, "no triggers");
    Ok(format!("none of {all} fires, none is unknown"))
}

fn is_about_connections(name: &str) -> bool {
    let is_discovered = [OF_PORT, OF_CGROUP].iter().any(|of| name.starts_with(of));
    !is_discovered
        && ![SCAN, NO_ANSWER, DROPS, PORTS_RUN_OUT]
            .iter()
            .any(|part| name.contains(part))
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
