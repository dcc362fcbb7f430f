//! Queues of listeners that are full, or not used at all.

use std::io;

use super::{Stage, Verdict, listed, proof::Proof};
use crate::{
    churn::Ctx,
    endpoints::{Endpoint, Listener, Style},
    oracle::st,
};

const SHORT: Style = Style {
    backlog: 4,
    deferred: Some(30),
    ..Style::PLAIN
};

/// Clients that are in the accept queue before the others come: one less than have room.
const READY: usize = 4;

/// Every SYN is answered by a cookie: no request socket, and a child from nothing.
pub(super) fn syncookies(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let received = Proof::new("SyncookiesRecv")?;
    let opened = stage.each(|ctx| {
        let listener = ctx.listener(Style::PLAIN)?;
        let clients = ctx.connect(&listener, 4)?;
        Ok((listener, clients))
    })?;
    received.grown_by(4 * u64::try_from(opened.len()).expect("few"))?;
    stage.rest("children of cookies, waiting");
    for (listener, clients) in opened {
        for client in clients {
            drop(client);
            listener.accept()?.read_to_end()?;
        }
    }
    Ok(Verdict::Done)
}

/// Half-open connections fill the SYN queue; those that come then get cookies, and fill the
/// accept queue until nothing more gets in: their clients believe to be connected.
pub(super) fn syn_queue_overflow(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let sent = Proof::new("SyncookiesSent")?;
    let opened = stage.each(|ctx| {
        let listener = ctx.listener(SHORT)?;
        let mut clients = Vec::new();
        for _ in 0..16 {
            ctx.count(1);
            clients.push(listener.start_connect(&mut ctx.rng)?);
        }
        Ok((listener, clients))
    })?;
    sent.grown_by(u64::try_from(opened.len()).expect("few"))?;
    stage.rest("both queues full");
    for (listener, clients) in opened {
        clients.iter().try_for_each(Endpoint::reset_on_close)?;
        drop(clients);
        drop(listener);
    }
    Ok(Verdict::Done)
}

/// Half-open connections become ready and find the accept queue full: they stay half-open.
pub(super) fn accept_overflow_kept(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let overflows = Proof::new("ListenOverflows")?;
    let opened = stage.each(overflow)?;
    overflows.grown_by(u64::try_from(opened.len()).expect("few"))?;
    stage.rest("ready, and half-open");
    let wanted = |half_open: u64| half_open >= u64::try_from(opened.len()).expect("few");
    listed("half-open connections", |counts| {
        wanted(counts.both(st::SYN_RECV))
    })?;
    let mut late = Vec::new();
    for (listener, mut clients) in opened {
        for client in clients.drain(..READY) {
            drop(client);
            listener.accept()?.read_to_end()?;
        }
        late.push((listener, clients));
    }
    listed("end of SYN_RECV", |counts| counts.both(st::SYN_RECV) == 0)?;
    stage.rest("let in late");
    Ok(Verdict::Done)
}

/// As above, but the kernel resets those that find no room.
pub(super) fn accept_overflow_aborted(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let overflows = Proof::new("ListenOverflows")?;
    let opened = stage.each(overflow)?;
    overflows.grown_by(u64::try_from(opened.len()).expect("few"))?;
    listed("reset", |counts| counts.both(st::SYN_RECV) == 0)?;
    stage.rest("reset, or in the accept queue");
    Ok(Verdict::Done)
}

/// Seven clients, all of them ready, where five have room; the first four are in.
fn overflow(ctx: &mut Ctx) -> io::Result<(Listener, Vec<Endpoint>)> {
    let listener = ctx.listener(SHORT)?;
    let mut clients = ctx.connect(&listener, READY)?;
    clients.iter().try_for_each(Endpoint::send_byte)?;
    let late = ctx.connect(&listener, 3)?;
    late.iter().try_for_each(Endpoint::send_byte)?;
    clients.extend(late);
    Ok((listener, clients))
}
