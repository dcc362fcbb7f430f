//! Open connections and their deadlines; chooses which connection to close when the limit is
//! reached.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{self, AsyncRead, AsyncWrite, AsyncWriteExt as _},
    pin, select,
    sync::Notify,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

/// Number of a connection of one listener, in the order of arrival.
pub(super) type ConnectionId = u64;

/// Who is at the other end. Connections are shared out fairly between peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// A local user, by UID.
    User(u32),
    /// A host: an IPv4 address, or the /64 network of an IPv6 address.
    Host(IpAddr),
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self::Host(match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                IpAddr::V6((address.to_bits() >> 64 << 64).into())
            }
            other => other,
        })
    }
}

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug)]
enum State {
    /// The first request, since the connection was accepted.
    FirstRequest(Instant),
    /// The client, which reads the response and may send another request, since the response was
    /// ready.
    Idle(Instant),
    /// The handler: a request is being processed.
    InFlight,
}

/// How long a connection may wait for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept to the end of the first request.
    pub first_request: Duration,
    /// From a response to the end of the next request, reading the response included.
    pub idle: Duration,
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    state: State,
    task: Option<AbortHandle>,
}

/// The open connections of one listener.
#[derive(Debug)]
pub(super) struct ConnectionTable {
    timeouts: Timeouts,
    entries: Mutex<BTreeMap<ConnectionId, Entry>>,
    /// Notified when a connection can be closed that could not be before.
    pub(super) evictable: Notify,
}

impl ConnectionTable {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        Self {
            timeouts,
            entries: Mutex::default(),
            evictable: Notify::new(),
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a connection.
    pub(super) fn insert(self: &Arc<Self>, id: ConnectionId, peer: Peer) -> Connection {
        let entry = Entry {
            peer,
            state: State::FirstRequest(Instant::now()),
            task: None,
        };
        self.entries().insert(id, entry);
        Connection {
            id,
            peer,
            table: Arc::clone(self),
        }
    }

    /// Enters the task that serves a connection, unless that has ended.
    pub(super) fn set_task(&self, id: ConnectionId, task: AbortHandle) {
        if let Some(entry) = self.entries().get_mut(&id) {
            entry.task = Some(task);
        }
    }

    fn set_state(&self, id: ConnectionId, state: State) {
        if let Some(entry) = self.entries().get_mut(&id) {
            entry.state = state;
        }
    }

    /// When the connection times out; `None` if it already has.
    fn deadline(&self, id: ConnectionId) -> Option<Instant> {
        let now = Instant::now();
        let deadline = match self.entries().get(&id)?.state {
            State::FirstRequest(since) => since + self.timeouts.first_request,
            State::Idle(since) => since + self.timeouts.idle,
            // The handler has deadlines of its own.
            State::InFlight => now + self.timeouts.idle,
        };
        (deadline > now).then_some(deadline)
    }

    /// Closes a connection of the peer that has most of them: of those that have sent no request
    /// yet, or of idle ones, whichever are more, the one that has waited longest. Connections with
    /// a request in flight are kept. Returns whether one was closed.
    ///
    /// So neither kind of connection displaces the other, however many there are.
    pub(super) fn evict_one(&self) -> bool {
        let mut entries = self.entries();
        let mut of_peer = BTreeMap::<Peer, [Vec<(Instant, ConnectionId)>; 2]>::new();
        for (id, entry) in &*entries {
            let (kind, since) = match entry.state {
                State::FirstRequest(since) => (1, since),
                State::Idle(since) => (0, since),
                State::InFlight => continue,
            };
            of_peer.entry(entry.peer).or_default()[kind].push((since, *id));
        }
        let evicted = of_peer
            .into_values()
            .max_by_key(|kinds| kinds[0].len() + kinds[1].len())
            .and_then(|kinds| kinds.into_iter().max_by_key(Vec::len)?.into_iter().min())
            .and_then(|(_, id)| entries.remove(&id));
        if let Some(Entry {
            task: Some(task), ..
        }) = &evicted
        {
            task.abort();
        }
        evicted.is_some()
    }
}

/// One connection's place in the table, for its handler. Leaves the table when dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    id: ConnectionId,
    peer: Peer,
    table: Arc<ConnectionTable>,
}

impl Connection {
    /// Who is at the other end.
    pub(crate) const fn peer(&self) -> Peer {
        self.peer
    }

    /// From now on the connection is kept.
    pub(crate) fn request_started(&self) {
        self.table.set_state(self.id, State::InFlight);
    }

    /// Connections of the same peer with a request in flight, this one included.
    pub(crate) fn in_flight(&self) -> usize {
        let entries = self.table.entries();
        let of_peer = entries.values().filter(|entry| entry.peer == self.peer);
        of_peer
            .filter(|entry| matches!(entry.state, State::InFlight))
            .count()
    }

    /// From now on the client has time to read the response, and to send another request.
    pub(crate) fn response_ready(&self) {
        self.table.set_state(self.id, State::Idle(Instant::now()));
        self.table.evictable.notify_one();
    }

    /// The output of `work`, or `None` once the connection has timed out.
    pub(crate) async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        pin!(work);
        while let Some(deadline) = self.table.deadline(self.id) {
            select! {
                biased;
                output = &mut work => return Some(output),
                () = sleep_until(deadline) => {}
            }
        }
        None
    }

    /// Sends the only response, and reads until the client closes: input that nobody reads would
    /// reset the connection before the client has read the response.
    pub(crate) async fn respond(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        response: &[u8],
    ) {
        self.response_ready();
        let sent = self.in_time(async {
            stream.write_all(response).await?;
            stream.shutdown().await?;
            io::copy(stream, &mut io::sink()).await
        });
        // A client that leaves or does not read harms only itself.
        let _: Option<io::Result<u64>> = sent.await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.table.entries().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc, thread, time::Duration};

    use super::{Connection, ConnectionTable, Peer, Timeouts};

    const HOUR: Duration = Duration::from_secs(3600);

    /// A table, and its connections: one for each peer.
    fn table(peers: &[u32]) -> (Arc<ConnectionTable>, Vec<Connection>) {
        let table = Arc::new(ConnectionTable::new(Timeouts {
            first_request: Duration::from_millis(20),
            idle: HOUR,
        }));
        let connections = (0..)
            .zip(peers)
            .map(|(id, uid)| table.insert(id, Peer::User(*uid)))
            .collect();
        (table, connections)
    }

    fn open(table: &ConnectionTable) -> Vec<u64> {
        table.entries().keys().copied().collect()
    }

    /// The connections in the order in which they are closed.
    fn evicted(table: &ConnectionTable) -> Vec<u64> {
        let mut order = Vec::new();
        loop {
            let before = open(table);
            if !table.evict_one() {
                return order;
            }
            let after = open(table);
            order.extend(before.into_iter().filter(|id| !after.contains(id)));
        }
    }

    fn answer(connection: &Connection) {
        connection.request_started();
        connection.response_ready();
    }

    #[test]
    fn the_longest_wait_ends_first_and_requests_in_flight_are_kept() {
        let (table, connections) = table(&[1; 6]);
        connections[0].request_started();
        for id in [1, 3, 1] {
            answer(&connections[id]);
        }
        // Of three silent ones and two idle ones.
        assert_eq!(evicted(&table), [2, 4, 3, 5, 1]);
        assert_eq!(open(&table), [0]);
        drop(connections);
        assert_eq!(open(&table), [0; 0]);
    }

    /// However many idle ones there are, a client has time to send its request.
    #[test]
    fn idle_ones_do_not_displace_new_ones() {
        let (table, mut connections) = table(&[1; 5]);
        for connection in &connections {
            answer(connection);
        }
        for id in 5..9 {
            connections.push(table.insert(id, Peer::User(1)));
            assert!(table.evict_one());
        }
        assert_eq!(open(&table), [2, 3, 4, 7, 8]);
        drop(connections);
    }

    /// However many silent ones there come, some that were answered may stay.
    #[test]
    fn silent_ones_do_not_displace_idle_ones() {
        let (table, mut connections) = table(&[1; 2]);
        for connection in &connections {
            answer(connection);
        }
        for id in 2..100 {
            connections.push(table.insert(id, Peer::User(1)));
            if id > 4 {
                assert!(table.evict_one());
            }
        }
        assert_eq!(open(&table), [0, 1, 97, 98, 99]);
        drop(connections);
    }

    #[test]
    fn a_peer_with_many_connections_displaces_its_own() {
        let (table, connections) = table(&[7, 1, 1, 8, 1, 1]);
        answer(&connections[1]);
        for left in [[0, 1, 3, 4, 5].as_slice(), &[0, 1, 3, 5], &[0, 1, 3]] {
            assert!(table.evict_one());
            assert_eq!(open(&table), left);
        }
    }

    #[test]
    fn a_host_is_an_address_or_a_network_of_ipv6() {
        let peer = |address: &str| Peer::from(address.parse::<IpAddr>().unwrap());
        assert_eq!(peer("::ffff:192.0.2.7"), peer("192.0.2.7"));
        assert_ne!(peer("192.0.2.8"), peer("192.0.2.7"));
        assert_eq!(peer("2001:db8:1:2:3::4"), peer("2001:db8:1:2::"));
        assert_ne!(peer("2001:db8:1:3::"), peer("2001:db8:1:2::"));
        assert_ne!(peer("::1"), peer("::2"));
    }

    #[test]
    fn deadlines_follow_what_is_waited_for() {
        let (table, connections) = table(&[1, 1]);
        assert!(table.deadline(0).is_some());
        connections[1].request_started();
        thread::sleep(table.timeouts.first_request * 2);
        assert_eq!(table.deadline(0), None);
        assert!(table.deadline(1).is_some());
        connections[1].response_ready();
        assert!(table.deadline(1).is_some());
        drop(connections);
        assert_eq!(table.deadline(1), None);
    }
}
