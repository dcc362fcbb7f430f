//! `TCP_REPAIR`: connections that begin and end without a packet, as when a container is moved.

use std::{io, net::Shutdown};

use libc::c_int;
use rand::RngExt;
use socket2::SockAddr;

use super::{Stage, Verdict, pair};
use crate::{
    endpoints::{Endpoint, Style},
    oracle::Table,
    sys,
};

const OFF: c_int = 0;
const ON: c_int = 1;
/// Values of `TCP_REPAIR_QUEUE`.
const RECEIVE: c_int = 1;
const SEND: c_int = 2;

/// Connections that nobody is at the other end of.
pub(super) fn alone(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let mut ends = stage.each(|ctx| {
        let listener = ctx.listener(Style::PLAIN)?;
        let (end, target) = listener.client(&mut ctx.rng)?;
        ctx.count(1);
        set(&end, libc::TCP_REPAIR, ON)?;
        end.socket.connect(&target)?;
        Ok(end)
    })?;
    stage.rest("established without a packet");
    for end in ends.drain(..ends.len() / 2) {
        if stage.ctx.coin() {
            sys::disconnect(&end.socket)?;
        }
    }
    stage.rest("half of them closed without a packet");
    for end in &ends {
        set(end, libc::TCP_REPAIR, OFF)?;
    }
    stage.rest("out of repair: what they send to find out is answered by RST");
    Ok(Verdict::Done)
}

/// Everything that is needed to go on elsewhere.
struct Saved {
    table: Table,
    local: SockAddr,
    remote: SockAddr,
    sent: c_int,
    received: c_int,
}

/// Open connections of which one end goes without a word and comes back as another socket.
pub(super) fn moved(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let moved = stage.each(|ctx| {
        let (one, other) = pair(ctx)?;
        let saved = save(&one)?;
        drop(one);
        Ok((saved, other))
    })?;
    stage.rest("one end is gone, the other one established");
    let mut pairs = Vec::new();
    for (saved, other) in moved {
        stage.ctx.count(1);
        pairs.push((restore(&saved)?, other));
    }
    stage.rest("both ends, one of them in repair");
    for (one, other) in pairs {
        set(&one, libc::TCP_REPAIR, OFF)?;
        one.send_byte()?;
        drop(one);
        other.read_to_end()?;
    }
    Ok(Verdict::Done)
}

/// Sockets on their way out, closed in repair: none of them ends as the protocol has it.
pub(super) fn closing(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let pairs = stage.each(|ctx| {
        let (one, other) = pair(ctx)?;
        if ctx.coin() {
            one.fill()?;
        }
        one.socket.shutdown(Shutdown::Write)?;
        if ctx.coin() {
            other.socket.shutdown(Shutdown::Write)?;
        }
        Ok((one, other))
    })?;
    stage.rest("in FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, CLOSING");
    let mut left = Vec::new();
    for (one, other) in pairs {
        // Where both have shut down, there may be nothing left to repair.
        for end in [&one, &other] {
            match set(end, libc::TCP_REPAIR, ON) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
                _ => {}
            }
        }
        if stage.ctx.rng.random() {
            left.push(other);
        }
    }
    stage.rest("closed in repair, some at one end only");
    Ok(Verdict::Done)
}

fn save(end: &Endpoint) -> io::Result<Saved> {
    set(end, libc::TCP_REPAIR, ON)?;
    let queue = |queue| {
        set(end, libc::TCP_REPAIR_QUEUE, queue)?;
        sys::option(&end.socket, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ)
    };
    Ok(Saved {
        table: end.table,
        local: end.socket.local_addr()?,
        remote: end.socket.peer_addr()?,
        sent: queue(SEND)?,
        received: queue(RECEIVE)?,
    })
}

fn restore(saved: &Saved) -> io::Result<Endpoint> {
    let end = Endpoint::new(saved.table)?;
    // A listener may have the port.
    end.socket.set_reuse_address(true)?;
    set(&end, libc::TCP_REPAIR, ON)?;
    end.socket.bind(&saved.local)?;
    for (queue, number) in [(SEND, saved.sent), (RECEIVE, saved.received)] {
        set(&end, libc::TCP_REPAIR_QUEUE, queue)?;
        set(&end, libc::TCP_QUEUE_SEQ, number)?;
    }
    end.socket.connect(&saved.remote)?;
    Ok(end)
}

fn set(end: &Endpoint, name: c_int, value: c_int) -> io::Result<()> {
    sys::set_option(&end.socket, libc::IPPROTO_TCP, name, value)
}
