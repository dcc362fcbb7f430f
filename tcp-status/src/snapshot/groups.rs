//! Groups listening sockets by address, and classifies how full their queues are.

use std::net::IpAddr;

use super::{Listener, Snapshot};

/// How full the queues of a listener are, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fullness {
    /// Neither queue was full within the window.
    Room,
    /// The accept queue was full within the window of [`super::Peaks`].
    WasFull,
    /// The SYN queue has more than [`MANY_HALF_OPEN`].
    SynFilling,
    /// The SYN queue is full: the kernel drops the next SYN, or answers it with a cookie.
    SynFull,
    /// The accept queue is full: the kernel queues no more connections.
    Full,
}

/// Half-open connections above which a listener is marked, whatever its limit.
pub const MANY_HALF_OPEN: u32 = 256;

impl Fullness {
    /// As outputs show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Room => "",
            Self::WasFull => "was full",
            Self::SynFilling => "syn",
            Self::SynFull => "SYN FULL",
            Self::Full => "FULL",
        }
    }
}

impl Listener {
    /// Whether the kernel would take another connection: `sk_acceptq_is_full()`, which admits one
    /// more than the limit, and `inet_csk_reqsk_queue_is_full()`.
    #[must_use]
    pub fn fullness(&self) -> Fullness {
        let worst_first = [
            Fullness::Full,
            Fullness::SynFull,
            Fullness::SynFilling,
            Fullness::WasFull,
        ];
        let found = worst_first.into_iter().find(|&one| self.is(one));
        found.unwrap_or(Fullness::Room)
    }

    /// Whether a condition holds, beside others or not.
    #[must_use]
    pub fn is(&self, fullness: Fullness) -> bool {
        let half_open = self.syn_queue.unwrap_or(0);
        match fullness {
            Fullness::Full => self.accept_queue > self.accept_queue_limit,
            Fullness::SynFull => {
                half_open > 0 && self.syn_queue_limit.is_some_and(|limit| half_open >= limit)
            }
            Fullness::SynFilling => half_open > MANY_HALF_OPEN,
            Fullness::WasFull => self.accept_queue_peak > Some(self.accept_queue_limit),
            Fullness::Room => true,
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

impl<'a> Group<'a> {
    /// Local address and port.
    #[must_use]
    pub fn address(&self) -> (IpAddr, u16) {
        (self.sockets[0].address, self.sockets[0].port)
    }

    /// Owner of all sockets; none if they have several, or the kernel does not report it.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        let uid = self.sockets[0].uid;
        uid.filter(|_| self.sockets.iter().all(|socket| socket.uid == uid))
    }

    /// systemd unit of all sockets; none if they have several, or it is not known.
    #[must_use]
    pub fn unit(&self) -> Option<&'a str> {
        let unit = self.sockets[0].unit.as_deref();
        unit.filter(|_| {
            self.sockets
                .iter()
                .all(|socket| socket.unit.as_deref() == unit)
        })
    }

    /// Connections waiting for `accept()`.
    #[must_use]
    pub fn accept_queue(&self) -> u64 {
        self.sum(|socket| socket.accept_queue)
    }

    /// Sum of the limits of the accept queues.
    #[must_use]
    pub fn accept_queue_limit(&self) -> u64 {
        self.sum(|socket| socket.accept_queue_limit)
    }

    /// Sum of the peaks: an upper bound of the connections that waited at one moment. None where nothing samples
    /// the queues.
    #[must_use]
    pub fn accept_queue_peak(&self) -> Option<u64> {
        let each = self.sockets.iter();
        each.map(|socket| socket.accept_queue_peak.map(u64::from))
            .sum()
    }

    /// Half-open connections; none where the kernel does not report them.
    #[must_use]
    pub fn syn_queue(&self) -> Option<u64> {
        let each = self.sockets.iter();
        each.map(|socket| socket.syn_queue.map(u64::from)).sum()
    }

    /// Those of them whose SYN+ACK timer has expired; none where the kernel does not report it.
    #[must_use]
    pub fn syn_queue_retransmitted(&self) -> Option<u64> {
        let each = self.sockets.iter();
        each.map(|socket| socket.syn_queue_retransmitted.map(u64::from))
            .sum()
    }

    /// Sum of the SYN queue limits; none if unknown.
    #[must_use]
    pub fn syn_queue_limit(&self) -> Option<u64> {
        let each = self.sockets.iter();
        each.map(|socket| socket.syn_queue_limit.map(u64::from))
            .sum()
    }

    /// Segments and handshakes that the sockets dropped, each since it was created; none where the kernel does not
    /// report it.
    #[must_use]
    pub fn drops(&self) -> Option<u64> {
        let each = self.sockets.iter();
        each.map(|socket| socket.drops.map(u64::from)).sum()
    }

    /// Utilisation of the fuller queue, in millionths, over all sockets.
    #[must_use]
    pub fn taken(&self) -> u64 {
        let part = |queue: u64, limit: u64| queue * 1_000_000 / (limit + 1);
        let half_open = self.syn_queue().zip(self.syn_queue_limit());
        let half_open = half_open.map_or(0, |(queue, limit)| part(queue, limit));
        part(self.accept_queue(), self.accept_queue_limit()).max(half_open)
    }

    /// Number of sockets with this fullness.
    #[must_use]
    pub fn count(&self, fullness: Fullness) -> usize {
        let full = |socket: &&&Listener| socket.fullness() == fullness;
        self.sockets.iter().filter(full).count()
    }

    /// The fullness of the fullest socket.
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
            uid: Some(33),
            accept_queue: queue,
            accept_queue_peak: Some(peak),
            syn_queue: Some(1),
            syn_queue_limit: Some(limit),
            ..Listener::new(address, port, limit)
        }
    }

    #[test]
    fn a_queue_is_full_only_beyond_its_limit() {
        let of = |numbers| listener("::", 1, numbers).fullness();
        assert_eq!(of([128, 128, 128]), Fullness::Room);
        assert_eq!(of([129, 128, 129]), Fullness::Full);
        assert_eq!(of([0, 128, 129]), Fullness::WasFull);
        assert_eq!(of([1, 0, 1]), Fullness::Full);
        let unsampled = Listener {
            accept_queue_peak: None,
            ..listener("::", 1, [0, 128, 0])
        };
        assert_eq!(unsampled.fullness(), Fullness::Room);
        let half_open = |syn_queue, limit: u32| {
            let listener = Listener {
                syn_queue,
                ..listener("::", 1, [0, limit, 0])
            };
            listener.fullness()
        };
        assert_eq!(half_open(Some(127), 128), Fullness::Room);
        assert_eq!(half_open(Some(128), 128), Fullness::SynFull);
        assert_eq!(half_open(Some(256), 4096), Fullness::Room);
        assert_eq!(half_open(Some(257), 4096), Fullness::SynFilling);
        assert_eq!(half_open(Some(0), 0), Fullness::Room);
        assert_eq!(half_open(None, 0), Fullness::Room);
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
            (2, 16, Some(12))
        );
        assert_eq!((shared.syn_queue(), shared.uid()), (Some(2), None));
        let full = |group: &super::Group<'_>| group.count(Fullness::Full);
        assert_eq!((full(&groups[1]), full(shared)), (1, 0));
        assert_eq!(shared.syn_queue_limit(), Some(16));
        snapshot.listeners[0].syn_queue = None;
        assert_eq!(snapshot.groups()[2].syn_queue(), None);
    }
}
