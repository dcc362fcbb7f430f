//! Multipath TCP: its subflows are TCP sockets and are listed, its own sockets are neither.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Stage, Verdict};
use crate::{endpoints::Endpoint, oracle::Table};

/// Connections of each kind and family.
const NUMBER: usize = 3;

/// Both ends speak MPTCP.
pub(super) fn both(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    play(stage, &[(Protocol::MPTCP, Protocol::MPTCP)])
}

/// One end does not: the other falls back to TCP, under its own kind of socket.
pub(super) fn fallback(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let ways = [
        (Protocol::MPTCP, Protocol::TCP),
        (Protocol::TCP, Protocol::MPTCP),
    ];
    play(stage, &ways)
}

fn play(stage: &mut Stage<'_>, ways: &[(Protocol, Protocol)]) -> io::Result<Verdict> {
    if let Err(error) = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)) {
        return match error.raw_os_error() {
            Some(libc::EPROTONOSUPPORT | libc::ENOPROTOOPT | libc::EINVAL) => Ok(Verdict::Lacking(
                format!("socket of IPPROTO_MPTCP: {error} (CONFIG_MPTCP, net.mptcp.enabled)"),
            )),
            _ => Err(error),
        };
    }
    let mut pairs = Vec::new();
    for &(ours, theirs) in ways {
        for (table, listen, target) in addresses() {
            let listener = end(table, theirs)?;
            if table == Table::Tcp6 {
                listener.socket.set_only_v6(false)?;
            }
            listener.socket.bind(&listen.into())?;
            listener.socket.listen(16)?;
            let bound = listener.address()?;
            let port = bound.as_socket().map_or(0, |address| address.port());
            let target = SocketAddr::new(target.ip(), port);
            for _ in 0..NUMBER {
                stage.ctx.count(1);
                let client = end(table, ours)?;
                client.socket.connect(&target.into())?;
                let (socket, _) = listener.socket.accept()?;
                pairs.push((client, Endpoint { socket, table }));
            }
            stage.rest("a listener, and connections");
        }
    }
    for (client, server) in &pairs {
        client.send_byte()?;
        server.read_byte()?;
        server.send_byte()?;
        // Else its close would be a reset.
        client.read_byte()?;
    }
    stage.rest("connections that have been used");
    for (at, (client, server)) in pairs.iter().enumerate() {
        if at % 3 == 0 {
            client.socket.shutdown(Shutdown::Write)?;
            server.read_to_end()?;
        }
    }
    stage.rest("some of them shut down");
    for (at, (client, server)) in pairs.into_iter().enumerate() {
        if at % 2 == 0 {
            drop(client);
            server.read_to_end()?;
        } else {
            drop(server);
        }
    }
    stage.rest("closed");
    Ok(Verdict::Done)
}

fn end(table: Table, protocol: Protocol) -> io::Result<Endpoint> {
    let domain = match table {
        Table::Tcp => Domain::IPV4,
        Table::Tcp6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::STREAM, Some(protocol))?;
    Ok(Endpoint { socket, table })
}

/// Where to listen and where to connect to: IPv4, IPv6, v4-mapped.
fn addresses() -> [(Table, SocketAddr, SocketAddr); 3] {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0));
    [
        (Table::Tcp, v4, v4),
        (Table::Tcp6, v6, v6),
        (Table::Tcp6, any, mapped),
    ]
}
