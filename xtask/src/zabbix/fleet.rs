//! The hosts of a round: each agent with each template, and a tracker without an agent.

use anyhow::{Context as _, Result};

use super::{
    agents::Kind,
    api::Api,
    database::Database,
    hosts::{CLASSIC, Host, MASTER, Template},
};

/// Where the tracker answers passive checks.
const PORT: u16 = 10060;

/// What makes it do so.
pub(super) const PASSIVE: &[&str] = &["--zabbix", "127.0.0.1:10060"];

/// Thresholds that a few sockets are above.
const LOW: [(&str, &str); 3] = [
    ("{$TCP.STATUS.CLOSEWAIT.MAX.WARN}", "0"),
    ("{$TCP.STATUS.SYNRECV.MAX.WARN}", "0"),
    ("{$TCP.STATUS.SYNSENT.MAX.WARN}", "0"),
];

/// As [`LOW`], for thresholds of the newer template.
const LOW_MASTER: [(&str, &str); 3] = [
    ("{$TCP.STATUS.SURGE.MIN}", "0"),
    ("{$TCP.STATUS.OVERFLOWS.PERIOD}", "1m"),
    ("{$TCP.STATUS.OVERFLOWS.MAX.WARN}", "0"),
];

/// Open connections of the past hour, which a round has no time to wait for.
const FORMERLY: u64 = 1;

/// The hosts.
pub(super) struct Fleet {
    /// Of agents that ask the tracker of the counted namespace.
    pub(super) counted: Vec<Host>,
    /// Of the tracker that answers by itself.
    pub(super) beside: Vec<Host>,
}

impl Fleet {
    /// Makes the hosts, before there is a server: later, it would not look at the history of items
    /// that are new to it.
    pub(super) fn make(api: &Api, database: &Database<'_>) -> Result<Self> {
        let mut counted = Vec::new();
        for kind in Kind::ALL {
            for template in [CLASSIC, MASTER] {
                let mut macros = LOW.to_vec();
                if template == MASTER {
                    macros.extend(LOW_MASTER);
                    // One hides the other: each is tried on one of the hosts.
                    macros.push(match kind {
                        Kind::Agent => ("{$TCP.STATUS.PORTS.PUSED.MAX.WARN}", "0"),
                        Kind::Agent2 => ("{$TCP.STATUS.PORTS.PUSED.MAX.CRIT}", "0"),
                    });
                }
                let name = name(kind.name(), template);
                counted.push(Host::make(api, &name, kind.port(), template, &macros)?);
            }
        }
        let mut beside = Vec::new();
        for template in [CLASSIC, MASTER] {
            let macros = [("{$TCP.STATUS.NODATA.PERIOD}", "30s")];
            let name = name("tracker", template);
            beside.push(Host::make(api, &name, PORT, template, &macros)?);
        }
        let fleet = Self { counted, beside };
        for host in fleet.discovering() {
            remember(api, database, host)?;
        }
        Ok(fleet)
    }

    /// Hosts with the newer template, of agents.
    pub(super) fn discovering(&self) -> impl Iterator<Item = &Host> {
        self.counted.iter().filter(|host| host.template == MASTER)
    }

    pub(super) fn names(&self) -> String {
        let names: Vec<_> = self
            .counted
            .iter()
            .chain(&self.beside)
            .map(|host| host.name.as_str())
            .collect();
        names.join(", ")
    }
}

fn name(who: &str, template: Template) -> String {
    if template == CLASSIC {
        format!("{who}-classic")
    } else {
        who.to_owned()
    }
}

/// Gives a host an hour of few connections.
fn remember(api: &Api, database: &Database<'_>, host: &Host) -> Result<()> {
    let items = host.items_by_key(api)?;
    let item = items
        .get("tcp.status[established]")
        .context("no item for open connections")?;
    let insert = format!(
        "INSERT INTO history_uint (itemid, clock, value, ns)
         SELECT {}, extract(epoch FROM now())::integer - 360 - 60 * minute, {FORMERLY}, 0
         FROM generate_series(0, 50) AS minute;",
        item.id
    );
    database.execute(insert.as_bytes())
}
