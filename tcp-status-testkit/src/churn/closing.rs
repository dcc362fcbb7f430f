//! Scenarios that differ in how an open connection ends.

use std::{io, net::Shutdown};

use super::Ctx;
use crate::{
    Family,
    endpoints::{Endpoint, Style},
    sys,
};

/// The client closes, then the server: TIME_WAIT at the client.
pub(super) fn client_first(ctx: &mut Ctx) -> io::Result<()> {
    let (client, server) = ctx.pair()?;
    drop(client);
    server.read_to_end()
}

/// The server closes, then the client: TIME_WAIT at the server.
pub(super) fn server_first(ctx: &mut Ctx) -> io::Result<()> {
    let (client, server) = ctx.pair()?;
    drop(server);
    client.read_to_end()
}

/// Both FINs cross, for certain, since the first waits behind a full window: FIN_WAIT1,
/// CLOSING, TIME_WAIT.
pub(super) fn both_at_once(ctx: &mut Ctx) -> io::Result<()> {
    let (one, other) = closing(ctx)?;
    other.read_to_end()?;
    one.read_to_end()
}

/// Two threads close the two ends; the FINs may cross or not.
pub(super) fn both_raced(ctx: &mut Ctx) -> io::Result<()> {
    let (client, server) = ctx.pair()?;
    if ctx.coin() {
        ctx.close_elsewhere(client);
        drop(server);
    } else {
        ctx.close_elsewhere(server);
        drop(client);
    }
    Ok(())
}

/// The client resets: ESTABLISHED to CLOSE at both ends.
pub(super) fn client_reset(ctx: &mut Ctx) -> io::Result<()> {
    let (client, _server) = ctx.pair()?;
    client.reset_on_close()?;
    drop(client);
    Ok(())
}

/// The server resets.
pub(super) fn server_reset(ctx: &mut Ctx) -> io::Result<()> {
    let (_client, server) = ctx.pair()?;
    server.reset_on_close()?;
    drop(server);
    Ok(())
}

/// The client shuts down, and the server answers through the half that is open: FIN_WAIT2 of
/// a full socket.
pub(super) fn half_closed(ctx: &mut Ctx) -> io::Result<()> {
    let (client, server) = ctx.pair()?;
    client.socket.shutdown(Shutdown::Write)?;
    server.read_to_end()?;
    server.send_byte()?;
    drop(server);
    client.read_to_end()
}

/// One end closes with data unread, which is a reset (RFC 2525, 2.17).
pub(super) fn unread_data(ctx: &mut Ctx) -> io::Result<()> {
    let (one, other) = ctx.small_pair()?;
    one.send_byte()?;
    if ctx.coin() {
        one.socket.shutdown(Shutdown::Write)?;
    }
    drop(other);
    Ok(())
}

/// Closed behind a full window: FIN_WAIT1 without an owner, until the peer has read all.
pub(super) fn orphan_fin_wait1(ctx: &mut Ctx) -> io::Result<()> {
    let (one, other) = ctx.small_pair()?;
    one.fill()?;
    drop(one);
    other.read_to_end()
}

/// The peer of a socket in FIN_WAIT1 resets.
pub(super) fn reset_fin_wait1(ctx: &mut Ctx) -> io::Result<()> {
    let (one, other) = ctx.small_pair()?;
    one.fill()?;
    one.socket.shutdown(Shutdown::Write)?;
    drop(other);
    Ok(())
}

/// Closed by one end only: a minisocket in FIN_WAIT2, then TIME_WAIT when the other follows.
pub(super) fn orphan_fin_wait2(ctx: &mut Ctx) -> io::Result<()> {
    let (one, other) = ctx.small_pair()?;
    drop(one);
    other.read_to_end()?;
    other.socket.shutdown(Shutdown::Write)
}

/// A minisocket, or a full socket, in FIN_WAIT2 that is reset.
pub(super) fn reset_fin_wait2(ctx: &mut Ctx) -> io::Result<()> {
    let (one, other) = ctx.small_pair()?;
    one.socket.shutdown(Shutdown::Write)?;
    other.read_to_end()?;
    let closed = ctx.coin();
    if closed {
        drop(one);
    }
    other.reset_on_close()?;
    Ok(())
}

/// The end that closes last does so behind a full window: LAST_ACK for a while.
pub(super) fn last_ack(ctx: &mut Ctx) -> io::Result<()> {
    let (one, other) = ctx.small_pair()?;
    one.socket.shutdown(Shutdown::Write)?;
    other.read_to_end()?;
    other.fill()?;
    drop(other);
    if ctx.coin() {
        one.read_to_end()?;
    }
    Ok(())
}

/// A socket in CLOSING whose peer resets.
pub(super) fn reset_closing(ctx: &mut Ctx) -> io::Result<()> {
    let (one, other) = closing(ctx)?;
    drop(other);
    drop(one);
    Ok(())
}

/// connect(AF_UNSPEC) on an open connection, a reset; the socket then connects once more.
pub(super) fn disconnected(ctx: &mut Ctx) -> io::Result<()> {
    let listener = ctx.listener(Style::PLAIN)?;
    let client = ctx.connect(&listener, 1)?.remove(0);
    let target = client.socket.peer_addr()?;
    let _server = listener.accept()?;
    sys::disconnect(&client.socket)?;
    ctx.count(1);
    client.socket.connect(&target)?;
    drop(client);
    listener.accept()?.read_to_end()
}

/// A new connection from the very address whose last one is in TIME_WAIT at the server: the
/// SYN ends the minisocket.
pub(super) fn time_wait_reused(ctx: &mut Ctx) -> io::Result<()> {
    let listener = ctx.listener(Style::PLAIN)?;
    let client = ctx.connect(&listener, 1)?.remove(0);
    let (source, table) = (client.address()?, client.table);
    let target = client.socket.peer_addr()?;
    drop(listener.accept()?);
    client.read_to_end()?;
    drop(client);
    let again = Endpoint::new(table)?;
    again.socket.set_reuse_address(true)?;
    match again.socket.bind(&source) {
        // Another connection has the port by now.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(()),
        result => result?,
    }
    ctx.count(1);
    again.socket.connect(&target)?;
    drop(again);
    listener.accept()?.read_to_end()
}

/// A connected IPv6 socket with v4-mapped addresses becomes an IPv4 socket.
pub(super) fn address_form(ctx: &mut Ctx) -> io::Result<()> {
    let (client, server) = ctx.pair_of(Family::Mapped, Style::PLAIN)?;
    let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_ADDRFORM);
    sys::set_option(&server.socket, level, name, libc::AF_INET)?;
    drop(client);
    server.read_to_end()
}

/// The first end in CLOSING, behind a window that the second has full.
fn closing(ctx: &mut Ctx) -> io::Result<(Endpoint, Endpoint)> {
    let (one, other) = ctx.small_pair()?;
    one.fill()?;
    one.socket.shutdown(Shutdown::Write)?;
    other.socket.shutdown(Shutdown::Write)?;
    Ok((one, other))
}
