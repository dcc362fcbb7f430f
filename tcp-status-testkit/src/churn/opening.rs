//! Scenarios that differ in how a connection begins, or does not.

use std::{io, net::Shutdown};

use super::Ctx;
use crate::{
    context,
    endpoints::{Endpoint, Listener, Style},
    sys,
};

/// A listener whose connections stay half-open until data comes.
const DEFERRED: Style = Style {
    deferred: Some(30),
    ..Style::PLAIN
};

/// To a port where nobody listens: SYN_SENT to CLOSE.
pub(super) fn refused(ctx: &mut Ctx) -> io::Result<()> {
    let family = ctx.family();
    let closed = Endpoint::bound(&mut ctx.rng, family)?;
    let client = Endpoint::bound(&mut ctx.rng, family)?;
    ctx.count(1);
    match client.socket.connect(&closed.address()?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(context("connect, on a closed port", &error)),
        Ok(()) => Err(io::Error::other("connect, on a closed port: not refused")),
    }
}

/// Clients in SYN_SENT that give up.
pub(super) fn connect_aborted(ctx: &mut Ctx) -> io::Result<()> {
    let (listener, _fillers) = ctx.full_listener()?;
    let number = ctx.few();
    ctx.start_connect(&listener, number)?;
    Ok(())
}

/// Clients in SYN_SENT that are disconnected and used again.
pub(super) fn connect_disconnected(ctx: &mut Ctx) -> io::Result<()> {
    let (full, _fillers) = ctx.full_listener()?;
    let clients = ctx.start_connect(&full, 1)?;
    sys::disconnect(&clients[0].socket)
}

/// More clients than the accept queue takes; those that are in are served.
pub(super) fn accept_queue_overflow(ctx: &mut Ctx) -> io::Result<()> {
    let (listener, fillers) = ctx.full_listener()?;
    let number = ctx.few();
    let _waiting = ctx.start_connect(&listener, number)?;
    for filler in fillers {
        drop(filler);
        listener.accept()?.read_to_end()?;
    }
    Ok(())
}

/// A listener goes while connections wait in its accept queue: they are reset.
pub(super) fn listener_closed(ctx: &mut Ctx) -> io::Result<()> {
    let listener = ctx.listener(Style::PLAIN)?;
    let number = ctx.few();
    let _clients = ctx.connect(&listener, number)?;
    drop(listener);
    Ok(())
}

/// One socket listens, ceases to, with a connection waiting, and listens again.
pub(super) fn listen_again(ctx: &mut Ctx) -> io::Result<()> {
    let listener = ctx.listener(Style::PLAIN)?;
    let waiting = ctx.connect(&listener, 1)?;
    if ctx.coin() {
        listener.end.socket.shutdown(Shutdown::Both)?;
    } else {
        sys::disconnect(&listener.end.socket)?;
    }
    drop(waiting);
    match listener.listen_again() {
        // Another listener has taken the port meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(()),
        result => result?,
    }
    drop(ctx.connect(&listener, 1)?);
    listener.accept()?.read_to_end()
}

/// Half-open until the client sends.
pub(super) fn deferred_data(ctx: &mut Ctx) -> io::Result<()> {
    let (listener, clients) = half_open(ctx, DEFERRED)?;
    for client in clients {
        client.send_byte()?;
        let server = listener.accept()?;
        drop(client);
        server.read_to_end()?;
    }
    Ok(())
}

/// Half-open until the client closes without a word.
pub(super) fn deferred_closed(ctx: &mut Ctx) -> io::Result<()> {
    let (listener, clients) = half_open(ctx, DEFERRED)?;
    let number = clients.len();
    drop(clients);
    for _ in 0..number {
        listener.accept()?.read_to_end()?;
    }
    Ok(())
}

/// Half-open until the client resets: the request socket goes without a child.
pub(super) fn deferred_reset(ctx: &mut Ctx) -> io::Result<()> {
    let (_listener, clients) = half_open(ctx, DEFERRED)?;
    clients.iter().try_for_each(Endpoint::reset_on_close)?;
    drop(clients);
    Ok(())
}

/// Half-open connections that all become ready, at a listener with little room: some stay
/// half-open although they need not.
pub(super) fn deferred_overflow(ctx: &mut Ctx) -> io::Result<()> {
    let style = Style {
        backlog: 4,
        ..DEFERRED
    };
    let listener = ctx.listener(style)?;
    let mut clients = ctx.connect(&listener, 4)?;
    clients.iter().try_for_each(Endpoint::send_byte)?;
    clients.append(&mut ctx.connect(&listener, 3)?);
    // What does not fit is sent again by timers, until the client goes.
    clients.iter().try_for_each(Endpoint::send_byte)
}

/// A listener goes while connections are half-open: their request sockets outlive it.
pub(super) fn deferred_listener_closed(ctx: &mut Ctx) -> io::Result<()> {
    let (listener, clients) = half_open(ctx, DEFERRED)?;
    drop(listener);
    if ctx.coin() {
        clients.iter().try_for_each(Endpoint::reset_on_close)?;
    }
    Ok(())
}

/// A socket that connects to itself, so that SYN meets SYN: SYN_SENT, SYN_RECV, ESTABLISHED,
/// then FIN meets FIN.
pub(super) fn simultaneous_open(ctx: &mut Ctx) -> io::Result<()> {
    let family = ctx.family();
    let end = Endpoint::bound(&mut ctx.rng, family)?;
    ctx.count(1);
    end.socket.connect(&end.address()?)?;
    if ctx.coin() {
        end.reset_on_close()?;
    }
    Ok(())
}

/// Data in the SYN, where `tcp_fastopen` allows it: a full socket in SYN_RECV.
pub(super) fn fast_open(ctx: &mut Ctx) -> io::Result<()> {
    let listener = ctx.listener(Style::PLAIN)?;
    let socket = &listener.end.socket;
    sys::set_option(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16)?;
    let (client, target) = listener.client(&mut ctx.rng)?;
    let flags = libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL;
    ctx.count(1);
    client.socket.send_to_with_flags(b"x", &target, flags)?;
    let server = listener.accept()?;
    drop(client);
    server.read_to_end()
}

fn half_open(ctx: &mut Ctx, style: Style) -> io::Result<(Listener, Vec<Endpoint>)> {
    let listener = ctx.listener(style)?;
    let number = ctx.few();
    let clients = ctx.connect(&listener, number)?;
    Ok((listener, clients))
}
