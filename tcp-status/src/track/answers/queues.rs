//! Listeners and their queues: converts the records of a walk, and keeps the peaks of accept queues between
//! two polls. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use tcp_status_common::{
    counters::{ClosedListener, ListenerRecord},
    state::Family,
};

use crate::{
    kernel::{sock_diag::MiniSplits, sysctl::Settings},
    snapshot::{FINE_WINDOW, Listener},
    track::history::seconds::WindowMax,
};

/// Half-open connections by local port and family.
pub type Requests = BTreeMap<u16, [u64; Family::COUNT]>;

/// The request sockets of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HalfOpen {
    /// Of each port that has a listener.
    pub at_listeners: Requests,
    /// Those whose listener is closed, by its port.
    pub orphaned: Requests,
    /// Those of listeners, by the listener's cgroup; every listener has one, if cgroups are read.
    pub by_cgroup: BTreeMap<u64, u64>,
}

impl HalfOpen {
    /// From a dump, which does not name listeners. Request sockets of other ports are at port 0, which no socket
    /// has.
    #[must_use]
    pub fn from_dump(walk: &MiniSplits) -> Self {
        let ports = walk.ports.iter().map(|(&port, at)| (port, at.requests));
        let mut orphaned: Requests = ports.collect();
        let apart = total(&orphaned);
        let rest = [0, 1].map(|i| walk.all.requests[i].saturating_sub(apart[i]));
        orphaned.insert(0, rest);
        Self {
            orphaned,
            ..Self::default()
        }
    }

    /// From listeners, and what closed ones have left.
    #[must_use]
    pub fn new(listeners: &[Listener], closed: &[ClosedListener]) -> Self {
        let mut half_open = Self {
            at_listeners: requests(listeners),
            orphaned: orphaned(closed),
            ..Self::default()
        };
        for listener in listeners {
            if let Some(id) = listener.cgroup {
                let at_cgroup = half_open.by_cgroup.entry(id).or_default();
                *at_cgroup += u64::from(listener.syn_queue.unwrap_or(0));
            }
        }
        half_open
    }

    /// Of all ports together.
    #[must_use]
    pub fn total(&self) -> [u64; Family::COUNT] {
        sum(total(&self.at_listeners), total(&self.orphaned))
    }

    /// Of one port.
    #[must_use]
    pub fn at(&self, port: u16) -> [u64; Family::COUNT] {
        let at = |requests: &Requests| requests.get(&port).copied().unwrap_or_default();
        sum(at(&self.at_listeners), at(&self.orphaned))
    }
}

/// Address and port; listeners that share them by `SO_REUSEPORT` are numbered in the order in
/// which the kernel lists them.
type Key = (IpAddr, u16, u32);

/// Maximum number of listeners with a history: any user may open listeners.
const MAX_QUEUES: usize = 1024;

/// The accept queue of one listener.
#[derive(Debug)]
struct QueueHistory {
    depths: WindowMax,
    /// When the listener was last sampled.
    seen: u64,
}

/// The depths of accept queues that were sampled.
///
/// Holds at most [`MAX_QUEUES`] listeners. A listener keeps its entry while it listens; a closed one is evicted
/// when its samples are too old, or earlier, the longest closed first, to make room. Among new listeners, those
/// with the deepest queues are added.
#[derive(Debug, Default)]
pub struct Queues(HashMap<Key, QueueHistory>);

impl Queues {
    /// Adds samples taken at `now`, in milliseconds, and evicts listeners closed for long.
    pub fn record(&mut self, now: u64, listeners: &[Listener]) {
        let mut new = Vec::new();
        for (key, listener) in keyed(listeners) {
            let depth = listener.accept_queue.into();
            match self.0.get_mut(&key) {
                Some(queue) => queue.record(now, depth),
                None => new.push((depth, key)),
            }
        }
        let oldest = now.saturating_sub(u64::from(FINE_WINDOW) * 1000);
        self.0.retain(|_, queue| queue.seen >= oldest);
        self.evict(new.len().min(MAX_QUEUES), now);
        new.sort_unstable_by_key(|&(depth, _)| Reverse(depth));
        new.truncate(MAX_QUEUES - self.0.len());
        for (depth, key) in new {
            let mut queue = QueueHistory {
                depths: WindowMax::default(),
                seen: now,
            };
            queue.record(now, depth);
            self.0.insert(key, queue);
        }
    }

    /// Forgets listeners that are gone, the longest gone first, until there are `targets` or none is
    /// left.
    fn evict(&mut self, targets: usize, now: u64) {
        let many = (self.0.len() + targets).saturating_sub(MAX_QUEUES);
        let gone = self.0.iter().filter(|(_, one)| one.seen < now);
        let mut gone: Vec<_> = gone.map(|(key, one)| (one.seen, *key)).collect();
        gone.sort_unstable();
        for (_, key) in gone.into_iter().take(many) {
            self.0.remove(&key);
        }
    }

    /// Sets the peak of each accept queue over the last `window` seconds; without a history, its current depth.
    pub fn annotate(&self, now: u64, window: u32, listeners: &mut [Listener]) {
        let from = now.saturating_sub(u64::from(window) * 1000);
        let keys: Vec<_> = keyed(listeners).map(|(key, _)| key).collect();
        for (key, listener) in keys.iter().zip(listeners) {
            let deepest = self.0.get(key).and_then(|one| one.depths.max_since(from));
            let deepest = deepest.and_then(|depth| u32::try_from(depth).ok());
            listener.accept_queue_peak = Some(deepest.unwrap_or(0).max(listener.accept_queue));
        }
    }
}

impl QueueHistory {
    fn record(&mut self, now: u64, depth: u64) {
        self.depths.record(now, depth);
        self.seen = now;
    }
}

/// Listeners are in the order of [`listeners`]: those that share an address follow each other.
fn keyed(listeners: &[Listener]) -> impl Iterator<Item = (Key, &Listener)> {
    let mut before: Option<Key> = None;
    listeners.iter().map(move |listener| {
        let number = match before {
            Some((address, port, number))
                if (address, port) == (listener.address, listener.port) =>
            {
                number + 1
            }
            _ => 1,
        };
        let key = (listener.address, listener.port, number);
        before = Some(key);
        (key, listener)
    })
}

/// Converts the records of a walk, ordered by port and address.
#[must_use]
pub fn listeners(records: &[ListenerRecord]) -> Vec<Listener> {
    let mut found: Vec<_> = records.iter().filter_map(listener).collect();
    found.sort_by_key(|listener| (listener.port, listener.family, listener.address));
    found
}

fn listener(record: &ListenerRecord) -> Option<Listener> {
    let family = Family::from_address_family(record.address_family.into())?;
    let [a, b, c, d, ..] = record.address;
    let address = match family {
        Family::V4 => IpAddr::from([a, b, c, d]),
        Family::V6 => IpAddr::from(record.address),
    };
    Some(Listener {
        uid: Some(record.uid),
        reuseport: record.reuseport == 1,
        accept_queue: record.accept_queue,
        syn_queue: Some(record.requests),
        syn_queue_retransmitted: Some(record.retransmitted),
        drops: Some(record.drops),
        cgroup: (record.cgroup > 0).then_some(record.cgroup),
        ..Listener::new(address, record.port, record.accept_queue_limit)
    })
}

/// Sets the SYN queue limit of each listener.
pub fn set_syn_queue_limits(listeners: &mut [Listener], settings: &Settings) {
    for listener in listeners {
        listener.syn_queue_limit = Some(settings.syn_queue_limit(listener.accept_queue_limit));
    }
}

/// Half-open connections of the listeners, by port.
#[must_use]
pub fn requests(listeners: &[Listener]) -> Requests {
    let mut requests = Requests::new();
    for listener in listeners {
        let family = usize::from(listener.family == Family::V6.number());
        requests.entry(listener.port).or_default()[family] +=
            u64::from(listener.syn_queue.unwrap_or(0));
    }
    requests
}

/// Half-open connections of closed listeners, by port.
#[must_use]
pub fn orphaned(closed: &[ClosedListener]) -> Requests {
    let mut requests = Requests::new();
    for listener in closed {
        let family = usize::from(listener.family) & 1;
        requests.entry(listener.port).or_default()[family] += u64::from(listener.requests);
    }
    requests
}

/// Half-open connections of all ports.
#[must_use]
pub fn total(requests: &Requests) -> [u64; Family::COUNT] {
    requests.values().copied().fold([0; Family::COUNT], sum)
}

fn sum(a: [u64; Family::COUNT], b: [u64; Family::COUNT]) -> [u64; Family::COUNT] {
    [a[0] + b[0], a[1] + b[1]]
}

/// Records of a walk, whatever they say.
#[cfg(any(test, fuzzing))]
pub fn fuzz(records: &[ListenerRecord]) {
    let mut listeners = listeners(records);
    assert!(listeners.len() <= records.len());
    let each = listeners.iter().filter_map(|listener| listener.syn_queue);
    let all: u64 = each.map(u64::from).sum();
    assert_eq!(total(&requests(&listeners)).iter().sum::<u64>(), all);
    let mut queues = Queues::default();
    queues.record(1, &listeners);
    queues.annotate(1, FINE_WINDOW, &mut listeners);
}

#[cfg(test)]
mod tests {
    use super::{
        ClosedListener, HalfOpen, ListenerRecord, MAX_QUEUES, Queues, listeners, orphaned, requests,
    };

    #[test]
    fn closed_listeners_keep_their_ports() {
        let closed = |port, family, requests| ClosedListener {
            port,
            family,
            requests,
            ..ClosedListener::default()
        };
        let half_open = HalfOpen {
            at_listeners: [(80, [5, 0]), (81, [1, 1])].into(),
            orphaned: orphaned(&[closed(80, 0, 2), closed(80, 0, 1), closed(90, 1, 4)]),
            ..HalfOpen::default()
        };
        assert_eq!(half_open.at(80), [8, 0]);
        assert_eq!(half_open.at(90), [0, 4]);
        assert_eq!(half_open.at(1), [0, 0]);
        assert_eq!(half_open.total(), [9, 5]);
    }

    fn record(port: u16, accept_queue: u32) -> ListenerRecord {
        ListenerRecord {
            address: [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            address_family: 2,
            port,
            uid: 7,
            accept_queue,
            accept_queue_limit: 128,
            requests: 3,
            retransmitted: 2,
            drops: 5,
            padding: 0,
            reuseport: 0,
            cgroup: 0,
        }
    }

    #[test]
    fn records_become_listeners_by_port() {
        let six = ListenerRecord {
            address_family: 10,
            reuseport: 1,
            ..record(80, 2)
        };
        let odd = ListenerRecord {
            address_family: 1,
            ..record(1, 1)
        };
        let found = listeners(&[record(443, 1), six, record(80, 0), odd]);
        let shown: Vec<_> = found
            .iter()
            .map(|l| (l.port, l.family, l.address.to_string(), l.reuseport))
            .collect();
        assert!(found.iter().all(|one| one.drops == Some(5)));
        assert!(
            found
                .iter()
                .all(|one| one.syn_queue_retransmitted == Some(2))
        );
        let address = "127.0.0.1".to_owned();
        assert_eq!(shown[0], (80, 4, address.clone(), false));
        assert_eq!(shown[1], (80, 6, "7f00:1::".into(), true));
        assert_eq!(shown[2], (443, 4, address, false));
        assert_eq!(requests(&found)[&80], [3, 3]);
    }

    #[test]
    fn the_deepest_queue_within_the_window_is_told_each_of_its_listener() {
        let mut queues = Queues::default();
        // Two of a group, and another port.
        let at = |a, b, c| listeners(&[record(80, a), record(80, b), record(443, c)]);
        queues.record(0, &at(5, 9, 0));
        queues.record(40_000, &at(1, 2, 7));
        let mut now = at(0, 3, 0);
        queues.annotate(60_000, 60, &mut now);
        let peaks = |listeners: &[super::Listener]| -> Vec<_> {
            listeners
                .iter()
                .filter_map(|l| l.accept_queue_peak)
                .collect()
        };
        assert_eq!(peaks(&now), [5, 9, 7]);
        queues.annotate(60_000, 30, &mut now);
        assert_eq!(peaks(&now), [1, 3, 7]);
        queues.record(700_000, &at(0, 0, 0)[..1]);
        assert_eq!(queues.0.len(), 1);
    }

    fn peaks(queues: &Queues, now: u64, listeners: &[super::Listener]) -> Vec<u32> {
        let mut listeners = listeners.to_vec();
        queues.annotate(now, 600, &mut listeners);
        listeners
            .iter()
            .filter_map(|one| one.accept_queue_peak)
            .collect()
    }

    /// Whatever users do with listeners: ports that come and go, and any number at once.
    #[test]
    fn what_is_remembered_of_listeners_is_bounded() {
        let mut queues = Queues::default();
        let service = record(1, 50);
        let mut now = 0;
        for round in 0..500_u16 {
            now += 100;
            let ports = round * 100 + 2..round * 100 + 102;
            let mut records: Vec<_> = ports.map(|port| record(port, 1)).collect();
            records.push(if round == 0 { service } else { record(1, 0) });
            queues.record(now, &listeners(&records));
            assert!(queues.0.len() <= MAX_QUEUES, "{}", queues.0.len());
        }
        assert_eq!(peaks(&queues, now, &listeners(&[service])), [50]);
        let many: Vec<_> = (2..=u16::MAX).map(|port| record(port, 1)).collect();
        queues.record(now + 100, &listeners(&many));
        assert_eq!(queues.0.len(), MAX_QUEUES);
        queues.record(now + 700_000, &[]);
        assert_eq!(queues.0.len(), 0);
    }

    /// A service that is started again keeps its peak while there is room; those that listen keep
    /// it in any case, and of new ones the deepest are remembered.
    #[test]
    fn those_that_listen_and_the_deepest_are_remembered() {
        let mut queues = Queues::default();
        let many = |depth| -> Vec<_> { (1..=1030).map(|port| record(port, depth)).collect() };
        let mut first = many(1);
        first[1029].accept_queue = 9;
        queues.record(0, &listeners(&first));
        let now = listeners(&many(0));
        let peak = peaks(&queues, 100, &now);
        assert_eq!((peak.iter().sum::<u32>(), peak[1029]), (1023 + 9, 9));
        // All but one go on listening, and a new one takes the place of the one that went.
        queues.record(100, &listeners(&many(0)[1..]));
        let peak = peaks(&queues, 200, &now);
        assert_eq!(peak[1029], 9);
        assert_eq!(queues.0.len(), MAX_QUEUES);
    }
}
