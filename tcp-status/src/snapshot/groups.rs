//! Listening sockets put together: those that share an address, and whether a queue is full.

use std::net::IpAddr;

use super::{Listener, Snapshot};

/// How much room an accept queue has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fullness {
    /// There was room all the time.
    Room,
    /// It was full within the window of [`super::Peaks`].
    WasFull,
    /// The kernel takes no more connections now.
    Full,
}

impl Listener {
    /// Whether the kernel would take another connection: `sk_acceptq_is_full()`, which admits one
    /// more than the limit.
    #[must_use]
    pub const fn fullness(&self) -> Fullness {
        if self.accept_queue > self.accept_queue_limit {
            Fullness::Full
        } else if self.accept_queue_peak > self.accept_queue_limit {
            Fullness::WasFull
        } else {
            Fullness::Room
        }
    }
}

/// All sockets that listen at one address: one, or several by `SO_REUSEPORT`, among which the
/// kernel spreads connections. Each has a queue of its own, so one may be full alone.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// The sockets; never empty.
    pub sockets: Vec<&'a Listener>,
}

impl Group<'_> {
    /// Local address and port.
    #[must_use]
    pub fn address(&self) -> (IpAddr, u16) {
        (self.sockets[0].address, self.sockets[0].port)
    }

    /// Owner of all sockets; none where they have several, or the kernel does not tell.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        let uid = self.sockets[0].uid;
        uid.filter(|_| self.sockets.iter().all(|socket| socket.uid == uid))
    }

    /// Connections that wait for `accept()`.
    #[must_use]
    pub fn accept_queue(&self) -> u64 {
        self.sum(|socket| socket.accept_queue)
    }

    /// How many may wait.
    #[must_use]
    pub fn accept_queue_limit(&self) -> u64 {
        self.sum(|socket| socket.accept_queue_limit)
    }

    /// The sum of the peaks: the most that can have waited, if all peaks were at one moment.
    #[must_use]
    pub fn accept_queue_peak(&self) -> u64 {
        self.sum(|socket| socket.accept_queue_peak)
    }

    /// Half-open connections; none where the kernel does not tell.
    #[must_use]
    pub fn syn_queue(&self) -> Option<u64> {
        let each = self.sockets.iter();
        each.map(|socket| socket.syn_queue.map(u64::from)).sum()
    }

    /// How many sockets are full.
    #[must_use]
    pub fn full(&self) -> usize {
        let full = |socket: &&&Listener| socket.fullness() == Fullness::Full;
        self.sockets.iter().filter(full).count()
    }

    /// Of the socket that is worst off.
    #[must_use]
    pub fn fullness(&self) -> Fullness {
        let each = self.sockets.iter().map(|socket| socket.fullness());
        each.max().unwrap_or(Fullness::Room)
    }

    fn sum(&self, of: impl Fn(&Listener) -> u32) -> u64 {
        self.sockets
            .iter()
            .map(|socket| u64::from(of(socket)))
            .sum()
    }
}

impl Snapshot {
    /// The listening sockets by address, in the order of ports.
    #[must_use]
    pub fn groups(&self) -> Vec<Group<'_>> {
        let key = |socket: &Listener| (socket.port, socket.family, socket.address);
        let mut sockets: Vec<_> = self.listeners.iter().collect();
        // Stable: sockets of a group stay in the order in which the tracker lists them.
        sockets.sort_by_key(|socket| key(socket));
        sockets
            .chunk_by(|a, b| key(a) == key(b))
            .map(|sockets| Group {
                sockets: sockets.to_vec(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Fullness, Listener};
    use crate::snapshot::{Snapshot, Tier};

    fn listener(address: &str, port: u16, [queue, limit, peak]: [u32; 3]) -> Listener {
        let address: IpAddr = address.parse().unwrap();
        Listener {
            family: if address.is_ipv4() { 4 } else { 6 },
            address,
            port,
            uid: Some(33),
            reuseport: false,
            accept_queue: queue,
            accept_queue_limit: limit,
            accept_queue_peak: peak,
            syn_queue: Some(1),
        }
    }

    #[test]
    fn a_queue_is_full_only_beyond_its_limit() {
        let of = |numbers| listener("::", 1, numbers).fullness();
        assert_eq!(of([128, 128, 128]), Fullness::Room);
        assert_eq!(of([129, 128, 129]), Fullness::Full);
        assert_eq!(of([0, 128, 129]), Fullness::WasFull);
        assert_eq!(of([1, 0, 1]), Fullness::Full);
    }

    #[test]
    fn sockets_of_one_address_are_one_group() {
        let mut snapshot = Snapshot::of(Tier::Full, 1, <_>::default());
        snapshot.listeners = vec![
            listener("::", 443, [0, 8, 3]),
            listener("0.0.0.0", 443, [9, 8, 9]),
            listener("::", 443, [2, 8, 9]),
            listener("127.0.0.1", 22, [0, 8, 0]),
        ];
        snapshot.listeners[2].uid = None;
        let groups = snapshot.groups();
        let found: Vec<_> = groups
            .iter()
            .map(|group| (group.address().1, group.sockets.len(), group.fullness()))
            .collect();
        assert_eq!(
            found,
            [
                (22, 1, Fullness::Room),
                (443, 1, Fullness::Full),
                (443, 2, Fullness::WasFull)
            ]
        );
        let shared = &groups[2];
        assert_eq!(
            (
                shared.accept_queue(),
                shared.accept_queue_limit(),
                shared.accept_queue_peak()
            ),
            (2, 16, 12)
        );
        assert_eq!((shared.syn_queue(), shared.uid()), (Some(2), None));
        assert_eq!((groups[1].full(), shared.full()), (1, 0));
        snapshot.listeners[0].syn_queue = None;
        assert_eq!(snapshot.groups()[2].syn_queue(), None);
    }
}
