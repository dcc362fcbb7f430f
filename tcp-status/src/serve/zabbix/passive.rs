//! Passive checks, answered by the tracker itself: no agent, and no process for a value. Owns the
//! address and who may ask; what the bytes mean is [`super::wire`]'s.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ipnet::IpNet;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};

use super::{
    key::{ItemKey, KeyError},
    wire::{MAX_REQUEST, ParsedRequest, Request},
};
use crate::serve::{
    Limits, Source,
    accept::{self, Handler, Listener},
    bind::{BindError, bind},
    calls::Calls,
    connections::{Connection, Peer},
};

/// Less of the tracker than its own clients may use.
pub const LIMITS: Limits = Limits {
    calls: 4,
    ..Limits::DEFAULT
};

/// Who may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedNetworks(Vec<IpNet>);

impl AllowedNetworks {
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

impl Default for AllowedNetworks {
    /// This host.
    fn default() -> Self {
        Self(vec![
            IpAddr::V4(Ipv4Addr::LOCALHOST).into(),
            IpAddr::V6(Ipv6Addr::LOCALHOST).into(),
        ])
    }
}

impl fmt::Display for AllowedNetworks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{network}")?;
        }
        Ok(())
    }
}

/// An address that is listened at and not served yet: servers wait.
#[derive(Debug)]
pub struct PassiveServer {
    listener: std::net::TcpListener,
    address: SocketAddr,
    allowed: AllowedNetworks,
    limits: Limits,
}

impl PassiveServer {
    /// Listens, and answers nothing yet.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(
        address: SocketAddr,
        allowed: AllowedNetworks,
        limits: Limits,
    ) -> Result<Self, BindError> {
        let hints = [
            "an agent may have it; choose another port and give the host an interface with it",
            "use a port from 1024 on",
        ];
        let (listener, address) = bind("--zabbix", address, hints)?;
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
    pub const fn allowed(&self) -> &AllowedNetworks {
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
        let listener = AllowedPeers {
            listener: TcpListener::from_std(self.listener)?,
            allowed: self.allowed,
            refused: AtomicBool::new(false),
        };
        let calls = Calls::new(source, &self.limits);
        accept::serve(listener, &self.limits, PassiveChecks { calls }, shutdown).await;
        Ok(())
    }
}

/// A listener whose other peers are disconnected at once.
struct AllowedPeers {
    listener: TcpListener,
    allowed: AllowedNetworks,
    /// Whether one was refused so far.
    refused: AtomicBool,
}

impl Listener for AllowedPeers {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        loop {
            let (stream, peer) = self.listener.accept().await?;
            if self.allowed.contains(peer.ip()) {
                return Ok((stream, peer.ip().into()));
            }
            // Logged once: whoever scans the network would fill the log.
            if !self.refused.swap(true, Ordering::Relaxed) {
                log::warn!(
                    peer:% = peer.ip(), allowed:% = self.allowed;
                    "refused a peer that --zabbix-allow does not list; later ones are not logged"
                );
            }
        }
    }
}

/// The handler of the protocol.
struct PassiveChecks {
    calls: Calls,
}

impl Handler<TcpStream> for PassiveChecks {
    async fn handle(&self, mut stream: TcpStream, connection: &Connection) {
        let request = match connection.in_time(read_request(&mut stream)).await {
            Some(Ok(request)) => request,
            Some(Err(error)) => {
                log::debug!(error:%; "invalid passive check");
                return;
            }
            None => return,
        };
        connection.request_started();
        if let Ok(answer) = self.answer(request, connection.peer()).await {
            connection.respond(&mut stream, &answer).await;
        }
    }
}

impl PassiveChecks {
    async fn answer(&self, request: Request, peer: Peer) -> serde_json::Result<Vec<u8>> {
        let request = Arc::new(request);
        let requested = Arc::clone(&request);
        let values = self.calls.call(peer, move |source| {
            let value = |key: &String| ItemKey::parse(key)?.answer(source);
            requested.keys().iter().map(value).collect()
        });
        let values: Vec<_> = values.await.unwrap_or_else(|refusal| {
            let error = KeyError::from(refusal);
            vec![Err(error); request.keys().len()]
        });
        request.answer(values)
    }
}

/// Reads until there is a request.
async fn read_request(stream: &mut TcpStream) -> io::Result<Request> {
    let mut bytes = Vec::new();
    let mut stream = stream.take(MAX_REQUEST as u64);
    loop {
        let ended = stream.read_buf(&mut bytes).await? == 0;
        match Request::read(&bytes, ended).map_err(io::Error::other)? {
            ParsedRequest::Complete(request) => return Ok(request),
            ParsedRequest::Incomplete if ended => return Err(ErrorKind::UnexpectedEof.into()),
            ParsedRequest::Incomplete => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AllowedNetworks;

    #[test]
    fn networks_let_in_whom_they_hold() {
        let allowed = AllowedNetworks::new(vec![
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
        assert_eq!(
            AllowedNetworks::default().to_string(),
            "127.0.0.1/32,::1/128"
        );
    }
}
