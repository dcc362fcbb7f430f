//! Who holds the sockets: one walk, grouped by remote, destination, process, cgroup or port. Memory
//! depends on the number of groups, not of sockets.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, hash_map::Entry},
    net::IpAddr,
    ops::RangeInclusive,
    time::Duration,
};

use ipnet::IpNet;
use serde::Serialize;
use tcp_status_common::state::State;

use super::{Counts, SCHEMA};

/// At most so many groups are kept; sockets of further ones are in the rest.
const MAX_GROUPS: usize = 1 << 16;

/// What sockets are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    /// Address of the peer, or its network.
    Remote,
    /// Of outgoing connections: local address, address and port of the peer. Two connections to one
    /// destination cannot have the same local port.
    Destination,
    /// The process that has the socket open.
    Process,
    /// The cgroup that created the socket, or its listener.
    Cgroup,
    /// Local port.
    Port,
}

/// One socket of a walk.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Its state.
    pub state: State,
    /// Local address and port.
    pub local: (IpAddr, u16),
    /// Address and port of the peer.
    pub peer: (IpAddr, u16),
    /// The process that has it open, by id and name; none if none has, or none that is visible.
    pub process: Option<(u32, String)>,
    /// The path of its cgroup; none if it has none.
    pub cgroup: Option<String>,
}

/// How sockets are grouped.
#[derive(Clone, Debug)]
pub struct Grouping {
    /// What by.
    pub by: GroupBy,
    /// Bits of an IPv4 and of an IPv6 address of a peer that make up its network.
    pub prefixes: [u8; 2],
    /// Local ports with a listener: connections at them are not outgoing.
    pub listening: BTreeSet<u16>,
    /// Local ports that `connect()` chooses from, and how many of them are not reserved.
    pub ephemeral: Option<(RangeInclusive<u16>, u32)>,
}

/// What sockets of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Remote(IpNet),
    Destination(IpAddr, (IpAddr, u16)),
    Process(u32, String),
    NoProcess,
    Cgroup(String),
    NoCgroup,
    Port(u16),
}

/// Sockets of a group, and how many of them have an ephemeral local port.
#[derive(Debug, Default)]
struct Members {
    states: Counts,
    ephemeral: u64,
}

/// The groups of a walk that is under way.
#[derive(Debug, Default)]
pub struct Groups {
    walked: u64,
    groups: HashMap<Key, Members>,
    beyond: Counts,
}

impl Groups {
    /// Takes a socket into its group, if it belongs to any.
    pub fn add(&mut self, socket: Socket, grouping: &Grouping) {
        self.walked += 1;
        let (state, port) = (socket.state, socket.local.1);
        let Some(key) = grouping.key(socket) else {
            return;
        };
        let is_full = self.groups.len() >= MAX_GROUPS;
        let members = match self.groups.entry(key) {
            Entry::Vacant(_) if is_full => {
                self.beyond[state] += 1;
                return;
            }
            entry => entry.or_default(),
        };
        members.states[state] += 1;
        let ephemeral = grouping.ephemeral.as_ref();
        members.ephemeral += u64::from(ephemeral.is_some_and(|(range, _)| range.contains(&port)));
    }

    /// The `limit` largest groups, and the rest.
    #[must_use]
    pub fn report(self, netns: u32, grouping: &Grouping, limit: usize, took: Duration) -> Who {
        let mut groups: Vec<_> = self
            .groups
            .into_iter()
            .map(|(key, members)| Group::new(key, &members, grouping))
            .collect();
        groups.sort_by(|a, b| (Reverse(a.sockets), &a.key).cmp(&(Reverse(b.sockets), &b.key)));
        let more = groups.split_off(limit.min(groups.len()));
        let mut rest_states = self.beyond;
        for group in &more {
            rest_states += &group.states;
        }
        let listed: u64 = groups.iter().map(|group| group.sockets).sum();
        let rest = rest_states.total();
        Who {
            schema: SCHEMA,
            netns,
            by: grouping.by,
            total: listed + rest,
            groups,
            rest,
            rest_groups: more.len(),
            rest_states,
            walked: self.walked,
            milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Grouping {
    fn key(&self, socket: Socket) -> Option<Key> {
        let (address, port) = socket.peer;
        let is_connection = !matches!(socket.state, State::Listen | State::Closed);
        match self.by {
            GroupBy::Remote if is_connection => {
                let [v4, v6] = self.prefixes;
                let address = address.to_canonical();
                let prefix = if address.is_ipv4() { v4 } else { v6 };
                IpNet::new(address, prefix)
                    .ok()
                    .map(|network| Key::Remote(network.trunc()))
            }
            GroupBy::Destination if is_connection && !self.listening.contains(&socket.local.1) => {
                let local = socket.local.0.to_canonical();
                Some(Key::Destination(local, (address.to_canonical(), port)))
            }
            GroupBy::Remote | GroupBy::Destination => None,
            GroupBy::Process => Some(match socket.process {
                Some((pid, comm)) => Key::Process(pid, comm),
                None => Key::NoProcess,
            }),
            GroupBy::Cgroup => Some(socket.cgroup.map_or(Key::NoCgroup, Key::Cgroup)),
            GroupBy::Port => Some(Key::Port(socket.local.1)),
        }
    }
}

/// The answer: the largest groups, and the rest. `total` is the sum of both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Who {
    schema: u32,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// What the sockets are grouped by.
    pub by: GroupBy,
    /// Sockets in all groups.
    pub total: u64,
    /// The largest first.
    pub groups: Vec<Group>,
    /// Sockets in further groups.
    pub rest: u64,
    /// How many further groups there are; those beyond the 65,536 that are kept are not counted.
    pub rest_groups: usize,
    /// Their sockets by state.
    pub rest_states: Counts,
    /// Sockets that the walk visited.
    pub walked: u64,
    /// How long the walk took.
    pub milliseconds: u64,
}

/// Sockets that have something in common.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// What they have in common.
    pub key: String,
    /// How many there are.
    pub sockets: u64,
    /// By state.
    pub states: Counts,
    /// With destinations: how many local ports `connect()` chooses from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral_range: Option<u32>,
    /// With destinations: the part of these that connections to it use, to a tenth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_percent: Option<f64>,
    /// How many that are.
    #[serde(skip)]
    pub ephemeral_used: u64,
    /// With processes: the process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// With processes: the name of the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
}

impl Group {
    fn new(key: Key, members: &Members, grouping: &Grouping) -> Self {
        let mut group = Self {
            key: String::new(),
            sockets: members.states.total(),
            states: members.states,
            ephemeral_range: None,
            used_percent: None,
            ephemeral_used: members.ephemeral,
            pid: None,
            comm: None,
        };
        group.key = match key {
            Key::Remote(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().to_string()
            }
            Key::Remote(network) => network.to_string(),
            Key::Destination(local, peer) => {
                if let Some((_, size)) = grouping.ephemeral {
                    group.ephemeral_range = Some(size);
                    group.used_percent = percent(members.ephemeral, size);
                }
                format!("{local} -> {}", std::net::SocketAddr::from(peer))
            }
            Key::Process(pid, comm) => {
                let key = format!("{comm} ({pid})");
                (group.pid, group.comm) = (Some(pid), Some(comm));
                key
            }
            Key::NoProcess => "no process".into(),
            Key::Cgroup(path) => path,
            Key::NoCgroup => "unattributed".into(),
            Key::Port(port) => port.to_string(),
        };
        group
    }

    /// One of a destination.
    #[cfg(test)]
    pub(crate) fn of_destination(key: String, ephemeral_used: u64, range: u32) -> Self {
        Self {
            key,
            sockets: ephemeral_used,
            states: Counts::default(),
            ephemeral_range: Some(range),
            used_percent: None,
            ephemeral_used,
            pid: None,
            comm: None,
        }
    }
}

/// To a tenth; none where nothing can be used.
#[expect(
    clippy::cast_precision_loss,
    reason = "a connection needs a port, of which there are 65,535 for an address"
)]
fn percent(used: u64, size: u32) -> Option<f64> {
    (size > 0).then(|| (used as f64 * 1000.0 / f64::from(size)).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::{Duration, GroupBy, Grouping, Groups, MAX_GROUPS, Socket, State, Who};

    fn socket(state: State, local: &str, peer: &str) -> Socket {
        let [local, peer] = [local, peer].map(|text| {
            let address: std::net::SocketAddr = text.parse().unwrap();
            (address.ip(), address.port())
        });
        Socket {
            state,
            local,
            peer,
            process: None,
            cgroup: None,
        }
    }

    fn grouping(by: GroupBy) -> Grouping {
        Grouping {
            by,
            prefixes: [32, 128],
            listening: [443].into(),
            ephemeral: Some((40_000..=40_999, 990)),
        }
    }

    fn report(grouping: &Grouping, sockets: &[Socket], limit: usize) -> Who {
        let mut groups = Groups::default();
        for socket in sockets {
            groups.add(socket.clone(), grouping);
        }
        groups.report(1, grouping, limit, Duration::from_millis(5))
    }

    fn keys(who: &Who) -> Vec<(&str, u64)> {
        let groups = who.groups.iter();
        groups.map(|one| (one.key.as_str(), one.sockets)).collect()
    }

    fn some() -> Vec<Socket> {
        vec![
            socket(State::Listen, "[::]:443", "[::]:0"),
            socket(
                State::Established,
                "[::ffff:10.0.0.1]:443",
                "[::ffff:192.0.2.7]:5000",
            ),
            socket(State::TimeWait, "10.0.0.1:443", "192.0.2.7:5001"),
            socket(State::Established, "10.0.0.1:443", "192.0.2.9:5001"),
            socket(State::TimeWait, "10.0.0.1:40000", "198.51.100.1:80"),
            socket(State::SynSent, "10.0.0.1:50000", "198.51.100.1:80"),
            socket(
                State::Established,
                "[2001:db8::1]:40001",
                "[2001:db8:1::9]:80",
            ),
        ]
    }

    #[test]
    fn remotes_are_grouped_by_network_whatever_the_family_of_the_socket() {
        let mut by = grouping(GroupBy::Remote);
        let who = report(&by, &some(), 2);
        assert_eq!(keys(&who), [("192.0.2.7", 2), ("198.51.100.1", 2)]);
        assert_eq!(
            (who.total, who.rest, who.rest_groups, who.walked),
            (6, 2, 2, 7)
        );
        assert_eq!(who.rest_states[State::Established], 2);
        by.prefixes = [24, 32];
        let wide = report(&by, &some(), 9);
        let expected = [
            ("192.0.2.0/24", 3),
            ("198.51.100.0/24", 2),
            ("2001:db8::/32", 1),
        ];
        assert_eq!(keys(&wide), expected);
    }

    #[test]
    fn destinations_are_of_outgoing_connections_and_use_up_ports() {
        let who = report(&grouping(GroupBy::Destination), &some(), 9);
        assert_eq!(
            keys(&who),
            [
                ("10.0.0.1 -> 198.51.100.1:80", 2),
                ("2001:db8::1 -> [2001:db8:1::9]:80", 1)
            ]
        );
        // One of the two has a local port that connect() does not choose.
        assert_eq!(who.groups[0].used_percent, Some(0.1));
        assert_eq!(who.groups[0].ephemeral_range, Some(990));
    }

    #[test]
    fn every_socket_has_a_port_and_is_held_or_not() {
        let sum = |by| report(&grouping(by), &some(), 1);
        let ports = sum(GroupBy::Port);
        assert_eq!((keys(&ports), ports.rest), (vec![("443", 4)], 3));
        assert_eq!(keys(&sum(GroupBy::Process)), [("no process", 7)]);
        assert_eq!(keys(&sum(GroupBy::Cgroup)), [("unattributed", 7)]);
    }

    #[test]
    fn memory_is_bounded_and_what_does_not_fit_is_in_the_rest() {
        let by = grouping(GroupBy::Remote);
        let mut groups = Groups::default();
        let more = 100;
        for number in 0..u32::try_from(MAX_GROUPS + more).unwrap() {
            let mut one = socket(State::SynRecv, "10.0.0.1:443", "192.0.2.7:5000");
            one.peer.0 = std::net::Ipv4Addr::from(number).into();
            groups.add(one, &by);
        }
        let who = groups.report(1, &by, 1, Duration::ZERO);
        assert_eq!(who.total, (MAX_GROUPS + more) as u64);
        assert_eq!((who.rest, who.rest_groups), (who.total - 1, MAX_GROUPS - 1));
    }
}
