//! Passive checks, answered by the tracker itself: no agent, and no process for a value. Owns the
//! address, who may ask, and the connections; what the bytes mean is [`super::wire`]'s.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    select,
    sync::Semaphore,
    task::{self, JoinSet},
    time::timeout,
};

use super::{
    key::{KeyError, Question},
    wire::{Heard, MAX_REQUEST, Request},
};
use crate::server::{
    Source,
    accept::{Door, finish},
};

/// What servers may take of the tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; one more waits until another ends.
    pub connections: usize,
    /// Calls of the [`Source`] at the same time.
    pub calls: usize,
    /// The time for a request: less than what a server waits for its answer.
    pub request: Duration,
    /// The time for reading an answer.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            calls: 4,
            request: Duration::from_secs(2),
            answer: Duration::from_secs(3),
        }
    }
}

/// Who may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed(Vec<IpNet>);

impl Allowed {
    /// Who is in one of `networks`.
    #[must_use]
    pub const fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    fn contains(&self, address: IpAddr) -> bool {
        // An IPv6 listener sees IPv4 peers as mapped addresses.
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl Default for Allowed {
    /// This host.
    fn default() -> Self {
        Self(vec![
            IpAddr::V4(Ipv4Addr::LOCALHOST).into(),
            IpAddr::V6(Ipv6Addr::LOCALHOST).into(),
        ])
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{network}")?;
        }
        Ok(())
    }
}

/// The address cannot be listened at.
#[derive(Debug, thiserror::Error)]
#[error("listen, on --zabbix {address}: {why}; {cure}")]
pub struct BindError {
    address: SocketAddr,
    why: io::Error,
    cure: &'static str,
}

impl BindError {
    fn new(address: SocketAddr, why: io::Error) -> Self {
        let cure = match why.kind() {
            ErrorKind::AddrInUse => {
                "an agent may have it; choose another port and give the host an interface with it"
            }
            ErrorKind::AddrNotAvailable => "use an address of this host, such as 127.0.0.1",
            ErrorKind::PermissionDenied => "use a port from 1024 on",
            _ => "choose another address",
        };
        Self { address, why, cure }
    }

    /// Whether another address would do.
    #[must_use]
    pub fn is_argument(&self) -> bool {
        matches!(
            self.why.kind(),
            ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable
        )
    }
}

/// An address that is listened at and not served yet: servers wait.
#[derive(Debug)]
pub struct Passive {
    listener: std::net::TcpListener,
    address: SocketAddr,
    allowed: Allowed,
    limits: Limits,
}

impl Passive {
    /// Listens, and answers nothing yet.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(address: SocketAddr, allowed: Allowed, limits: Limits) -> Result<Self, BindError> {
        let bind = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bind().map_err(|why| BindError::new(address, why))?;
        Ok(Self {
            listener,
            address,
            allowed,
            limits,
        })
    }

    /// Where it listens; with a port, even if none was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who may ask.
    #[must_use]
    pub const fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    /// Answers until `shutdown` completes. Needs a runtime with timers and I/O.
    ///
    /// # Errors
    /// When the runtime cannot watch the listener. Failing servers are no error.
    pub async fn run(
        self,
        source: Arc<dyn Source>,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let desk = Arc::new(Desk {
            source,
            allowed: self.allowed,
            limits: self.limits,
            calls: Arc::new(Semaphore::new(self.limits.calls)),
            turned_away: AtomicBool::new(false),
        });
        let mut connections = JoinSet::new();
        select! {
            () = desk.accept_all(&listener, &mut connections) => {}
            () = shutdown => {}
        }
        drop(listener);
        finish(connections).await;
        Ok(())
    }
}

/// What all connections share.
struct Desk {
    source: Arc<dyn Source>,
    allowed: Allowed,
    limits: Limits,
    calls: Arc<Semaphore>,
    turned_away: AtomicBool,
}

impl Desk {
    async fn accept_all(self: &Arc<Self>, listener: &TcpListener, connections: &mut JoinSet<()>) {
        let mut door = Door::default();
        loop {
            // Each ends by itself: its request and its answer have their time.
            while connections.len() >= self.limits.connections {
                connections.join_next().await;
            }
            let accept = async || listener.accept().await;
            let (stream, peer) = door.next(accept, connections, || false).await;
            if self.allowed.contains(peer.ip()) {
                connections.spawn(Arc::clone(self).converse(stream));
            } else {
                self.turn_away(peer.ip());
            }
        }
    }

    /// Said once: whoever scans the network would fill the log.
    fn turn_away(&self, peer: IpAddr) {
        if !self.turned_away.swap(true, Ordering::Relaxed) {
            log::warn!(
                peer:%, allowed:% = self.allowed;
                "passive check refused, the first one: add the peer to --zabbix-allow if it may ask"
            );
        }
    }

    async fn converse(self: Arc<Self>, mut stream: TcpStream) {
        let request = match timeout(self.limits.request, hear(&mut stream)).await {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => {
                log::debug!(error:%; "no passive check");
                return;
            }
            Err(_) => return,
        };
        if let Ok(answer) = self.answer(request).await {
            // A server that leaves or does not read harms only itself.
            let _: Result<_, _> = timeout(self.limits.answer, async {
                stream.write_all(&answer).await?;
                stream.shutdown().await
            })
            .await;
        }
    }

    async fn answer(&self, request: Request) -> io::Result<Vec<u8>> {
        let permit = Arc::clone(&self.calls)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let source = Arc::clone(&self.source);
        task::spawn_blocking(move || {
            let value = |key: &String| -> Result<String, KeyError> {
                Question::parse(key)?.answer(source.as_ref())
            };
            let answer = request.answer(request.keys().iter().map(value).collect());
            // With the call, not with the connection, which may end before it.
            drop(permit);
            answer
        })
        .await?
        .map_err(io::Error::other)
    }
}

/// Reads until there is a request.
async fn hear(stream: &mut TcpStream) -> io::Result<Request> {
    let mut bytes = Vec::new();
    let mut stream = stream.take(MAX_REQUEST as u64);
    loop {
        let ended = stream.read_buf(&mut bytes).await? == 0;
        match Request::read(&bytes, ended).map_err(io::Error::other)? {
            Heard::Whole(request) => return Ok(request),
            Heard::Part if ended => return Err(ErrorKind::UnexpectedEof.into()),
            Heard::Part => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Allowed;

    #[test]
    fn networks_let_in_whom_they_hold() {
        let allowed = Allowed::new(vec![
            "10.1.0.0/16".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ]);
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::9"] {
            assert!(allowed.contains(address.parse().unwrap()), "{address}");
        }
        for address in ["10.2.0.1", "127.0.0.1", "::1", "::ffff:10.2.0.1"] {
            assert!(!allowed.contains(address.parse().unwrap()), "{address}");
        }
        assert_eq!(allowed.to_string(), "10.1.0.0/16,2001:db8::/32");
        assert_eq!(Allowed::default().to_string(), "127.0.0.1/32,::1/128");
    }
}
