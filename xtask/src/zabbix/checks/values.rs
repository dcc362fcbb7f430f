//! Every item has a value, and it is the kernel's; without a tracker, it says what is missing.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use tcp_status_testkit::oracle::{Counts, NAMES, st};

use super::super::{
    api::Api,
    hosts::{Host, Item, ask_now},
    process::wait_for,
    report::Done,
    subject::Subject,
};

const PATIENCE: Duration = Duration::from_secs(40);

/// The server takes tasks once a second.
const PAUSE: Duration = Duration::from_secs(1);

/// Every item has a value and none an error.
pub(in super::super) fn arrive(api: &Api, hosts: &[Host]) -> Result<Done> {
    let mut missing = Vec::new();
    let mut all = 0;
    let waited = wait_for(PATIENCE, || {
        ask(api, hosts)?;
        missing.clear();
        all = 0;
        for host in hosts {
            for item in everything(api, host)? {
                all += 1;
                if !item.supported || (item.stored && item.clock == 0) {
                    missing.push(format!("{}: {} {}", host.name, item.key, item.error));
                }
            }
        }
        Ok(missing.is_empty())
    });
    waited.with_context(|| format!("without a value: {}", missing.join("; ")))?;
    Ok(Done::Passed(format!("{all} of {all} items supported")))
}

/// The gauges are what the kernel lists before and after.
pub(in super::super) fn equal_the_listing(
    api: &Api,
    host: &Host,
    subject: &Subject,
) -> Result<Done> {
    let mut seen = String::new();
    let mut wanted = Counts::default();
    let waited = wait_for(PATIENCE, || {
        let before = subject.listing()?;
        ask(api, std::slice::from_ref(host))?;
        thread::sleep(PAUSE);
        let items = host.items_by_key(api)?;
        wanted = subject.listing()?;
        if before != wanted {
            return Ok(false);
        }
        let mut equal = true;
        seen.clear();
        for (number, key) in keys() {
            let item = items
                .get(&format!("tcp.status[{key}]"))
                .with_context(|| format!("no item for {key}"))?;
            equal &= item.value == wanted.both(number).to_string();
            seen.push_str(&format!("{key} {} ", item.value));
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

/// Where a tracker answers by itself, it counts the servers' own sockets, which come and go: their
/// listeners stay.
pub(in super::super) fn listening_here(api: &Api, hosts: &[Host]) -> Result<Done> {
    let listens = Counts::read()?.both(st::LISTEN);
    ensure!(listens > 0, "nothing listens");
    for host in hosts {
        let items = host.items_by_key(api)?;
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

/// Without a tracker, everything that is asked says so; gives the words.
pub(in super::super) fn unsupported(api: &Api, hosts: &[Host]) -> Result<String> {
    let mut words = String::new();
    let waited = wait_for(PATIENCE, || {
        ask(api, hosts)?;
        for host in hosts {
            for item in host.items(api)?.into_iter().filter(|item| item.polled) {
                if item.supported {
                    return Ok(false);
                }
                // The server puts a line of its own before it.
                let line = item.error.lines().last().unwrap_or_default();
                words = line.trim_start_matches("1. Failed: ").to_owned();
                if !words.contains("tcp-status: cannot connect")
                    || !words.contains("tcp-status run")
                {
                    bail!("{} is unsupported for another reason: {words}", item.key);
                }
            }
        }
        Ok(true)
    });
    waited.context("items are supported without a tracker")?;
    Ok(words)
}

/// With a tracker again, everything is as before.
pub(in super::super) fn supported_again(api: &Api, hosts: &[Host]) -> Result<()> {
    let mut still = Vec::new();
    let waited = wait_for(PATIENCE, || {
        ask(api, hosts)?;
        still.clear();
        for host in hosts {
            let items = everything(api, host)?;
            let unsupported = items.into_iter().filter(|item| !item.supported);
            still.extend(unsupported.map(|item| format!("{}: {}", item.key, item.error)));
        }
        Ok(still.is_empty())
    });
    waited.with_context(|| format!("still unsupported: {}", still.join("; ")))
}

/// Asks for all values of the hosts, without waiting for them.
pub(in super::super) fn ask(api: &Api, hosts: &[Host]) -> Result<()> {
    for host in hosts {
        ask_now(api, &everything(api, host)?)?;
    }
    thread::sleep(PAUSE);
    Ok(())
}

fn everything(api: &Api, host: &Host) -> Result<Vec<Item>> {
    let mut items = host.items(api)?;
    items.extend(host.rules(api)?);
    Ok(items)
}

/// The states: number as in the kernel's listing, name as in keys.
pub(super) fn keys() -> impl Iterator<Item = (usize, String)> {
    NAMES.iter().enumerate().skip(1).map(|(number, name)| {
        let key = match number {
            st::CLOSE => "closed".to_owned(),
            _ => name.replace('_', "").to_lowercase(),
        };
        (number, key)
    })
}
