//! Listening ports and cgroups as Zabbix's low-level discovery wants them: an array of objects, one for
//! each, whose keys are macros and whose values are strings.

use std::{collections::BTreeSet, net::IpAddr};

use serde::Serialize;

use super::cgroups::name;
use crate::snapshot::{Cgroups, Listener, Snapshot};

/// A port that has a listener. The order of the array, and of what is listed within, depends on
/// nothing but the listeners: Zabbix compares it with the one before.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Local port.
    #[serde(rename = "{#PORT}")]
    port: String,
    /// Every address that is listened at, IPv4 first, separated by commas.
    #[serde(rename = "{#ADDRESSES}")]
    addresses: String,
    /// `4`, `6` or `4,6`.
    #[serde(rename = "{#FAMILIES}")]
    families: String,
    /// How many connections may wait for `accept()`, over all sockets of the port.
    #[serde(rename = "{#LIMIT}")]
    limit: String,
    /// Inode number of the network namespace, which `--netns` takes.
    #[serde(rename = "{#NETNS}")]
    netns: String,
}

/// The ports of all readings: by reading, then by number.
#[must_use]
pub fn ports(snapshots: &[Snapshot]) -> Vec<Port> {
    snapshots.iter().flat_map(of_one).collect()
}

/// A cgroup that has sockets.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct CgroupMacros<'a> {
    /// Its path, which `--cgroup` takes.
    #[serde(rename = "{#CGROUP}")]
    path: &'a str,
    /// Its shortest name.
    #[serde(rename = "{#NAME}")]
    name: String,
    /// systemd unit; empty where there is none.
    #[serde(rename = "{#UNIT}")]
    unit: &'a str,
    /// Id of the container; empty where there is none.
    #[serde(rename = "{#CONTAINER}")]
    container: &'a str,
    /// The pod; empty where there is none.
    #[serde(rename = "{#POD}")]
    pod: &'a str,
}

/// The cgroups of a reading that have a path, by path.
#[must_use]
pub fn cgroups(cgroups: &Cgroups) -> Vec<CgroupMacros<'_>> {
    let mut found: Vec<_> = cgroups
        .tracked
        .iter()
        .filter_map(|one| {
            Some(CgroupMacros {
                path: one.name.path.as_deref()?,
                name: name(one.id, &one.name),
                unit: one.name.unit.as_deref().unwrap_or(""),
                container: one.name.container.as_deref().unwrap_or(""),
                pod: one.name.pod.as_deref().unwrap_or(""),
            })
        })
        .collect();
    found.sort_by_key(|one| one.path);
    // One that was removed may still have sockets when another one is made at its path.
    found.dedup_by_key(|one| one.path);
    found
}

fn of_one(snapshot: &Snapshot) -> Vec<Port> {
    let mut listeners: Vec<_> = snapshot.listeners.iter().collect();
    listeners.sort_by_key(|listener| listener.port);
    listeners
        .chunk_by(|a, b| a.port == b.port)
        .map(|sockets| port(sockets, snapshot.netns))
        .collect()
}

fn port(sockets: &[&Listener], netns: u32) -> Port {
    let addresses: BTreeSet<IpAddr> = sockets.iter().map(|socket| socket.address).collect();
    let families: BTreeSet<u8> = sockets.iter().map(|socket| socket.family).collect();
    let limits = sockets.iter().map(|socket| socket.accept_queue_limit);
    Port {
        port: sockets[0].port.to_string(),
        addresses: list(addresses),
        families: list(families),
        limit: limits.map(u64::from).sum::<u64>().to_string(),
        netns: netns.to_string(),
    }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(",")
}

#[cfg(test)]
mod tests {
    use super::{cgroups, ports};
    use crate::snapshot::{CgroupCounts, CgroupName, Cgroups, Counts, Listener, Snapshot, Tier};

    fn listener(address: &str, port: u16) -> Listener {
        let address: std::net::IpAddr = address.parse().unwrap();
        Listener::new(address, port, u32::MAX)
    }

    #[test]
    fn one_object_for_each_port_whatever_the_order() {
        let mut snapshot = Snapshot::of(Tier::Full, 9, <_>::default());
        snapshot.listeners = vec![
            listener("::", 443),
            listener("::", 443),
            listener("127.0.0.1", 80),
            listener("10.0.0.1", 443),
            listener("9.0.0.1", 443),
        ];
        let json = serde_json::to_string(&ports(std::slice::from_ref(&snapshot))).unwrap();
        assert_eq!(
            json,
            concat!(
                r##"[{"{#PORT}":"80","{#ADDRESSES}":"127.0.0.1","{#FAMILIES}":"4","##,
                r##""{#LIMIT}":"4294967295","{#NETNS}":"9"},"##,
                r##"{"{#PORT}":"443","{#ADDRESSES}":"9.0.0.1,10.0.0.1,::","{#FAMILIES}":"4,6","##,
                r##""{#LIMIT}":"17179869180","{#NETNS}":"9"}]"##
            )
        );
        let before = ports(std::slice::from_ref(&snapshot));
        snapshot.listeners.reverse();
        assert_eq!(ports(&[snapshot]), before);
        assert_eq!(ports(&[]), []);
    }

    #[test]
    fn a_cgroup_that_was_made_again_is_one_object() {
        let one = |(id, path): (u64, &str)| CgroupCounts {
            id,
            name: CgroupName::of(path),
            states: Counts::default(),
        };
        let again = [(1, "/b.service"), (2, "/a.service"), (3, "/b.service")];
        let all = Cgroups {
            tracked: again.into_iter().map(one).collect(),
            ..Cgroups::default()
        };
        let found = cgroups(&all);
        let paths: Vec<_> = found.iter().map(|one| one.path).collect();
        assert_eq!(paths, ["/a.service", "/b.service"]);
    }
}
