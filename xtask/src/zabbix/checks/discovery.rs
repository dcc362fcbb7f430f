//! Every port with a listener is discovered, and its items have the kernel's numbers.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tcp_status_testkit::oracle::Counts;

use super::{
    super::{
        api::Api,
        hosts::{Host, Item},
        process::wait_for,
        report::Done,
        subject::Subject,
    },
    values,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Items of all listening ports, by state.
pub(in super::super) fn equals_the_listing(
    api: &Api,
    host: &Host,
    subject: &Subject,
) -> Result<Done> {
    let ports: BTreeSet<u16> = subject.listening()?.into_iter().collect();
    ensure!(!ports.is_empty(), "no port to discover");
    let mut wrong = Vec::new();
    let mut compared = 0;
    let waited = wait_for(PATIENCE, || {
        values::ask(api, std::slice::from_ref(host))?;
        let listings: Result<Vec<(u16, Counts)>> = ports
            .iter()
            .map(|&port| Ok((port, subject.listing_of(port)?)))
            .collect();
        let items = host.items(api)?;
        (compared, wrong) = compare(&items, &listings?)?;
        Ok(wrong.is_empty())
    });
    waited.with_context(|| format!("not as the kernel lists them: {}", wrong.join("; ")))?;
    Ok(Done::Passed(format!(
        "{} ports, {compared} values",
        ports.len()
    )))
}

/// How many values were compared, and what is wrong.
fn compare(items: &[Item], listings: &[(u16, Counts)]) -> Result<(usize, Vec<String>)> {
    let mut compared = 0;
    let mut wrong = Vec::new();
    for (port, listing) in listings {
        let mut of_port = 0;
        for (number, state) in values::keys() {
            let key = format!("tcp.status[{state},{port}]");
            // States that are rare on a listening port have no item.
            let Some(item) = items.iter().find(|item| item.key == key) else {
                continue;
            };
            of_port += 1;
            let wanted = listing.both(number).to_string();
            if item.value != wanted || item.clock == 0 || !item.supported {
                let Item { value, error, .. } = item;
                wrong.push(format!("{key} is {value}, not {wanted} {error}"));
            }
        }
        let queue = format!("tcp.status.accept_queue.pused[{port}]");
        let has_queue = items.iter().any(|item| item.key == queue && item.clock > 0);
        if of_port == 0 || !has_queue {
            wrong.push(format!("port {port} has no items with values"));
        }
        compared += of_port + 1;
    }
    Ok((compared, wrong))
}
