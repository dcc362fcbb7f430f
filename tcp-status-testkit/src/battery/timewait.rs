//! Minisockets: those that time out, are met by FIN, RST or data, give way to a new connection,
//! or find no room.

use std::{io, net::Shutdown, thread, time::Duration, time::Instant};

use libc::c_int;
use socket2::SockAddr;

use super::{
    LIMIT, Stage, Verdict, listed, not_shown, pair,
    proof::{Proof, minisockets, minisockets_now},
};
use crate::{
    churn::Ctx,
    endpoints::{Endpoint, Listener, Style},
    oracle::st,
    sys,
};

/// A client in TIME_WAIT, which may be replaced by the same addresses.
struct Waiting {
    listener: Listener,
    source: SockAddr,
    target: SockAddr,
    client: Endpoint,
}

/// A new connection from addresses that are in TIME_WAIT at the client: the connect ends the
/// minisocket, from one second after it began.
pub(super) fn reuse(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let recycled = Proof::new("TWRecycled")?;
    let waiting = stage.each(waiting)?;
    stage.rest("clients in TIME_WAIT");
    let number = u64::try_from(waiting.len()).expect("few");
    let mut ends = Vec::new();
    for Waiting {
        listener,
        source,
        target,
        client,
    } in waiting
    {
        stage.ctx.count(1);
        client.socket.bind(&source)?;
        reconnect(&client, &target)?;
        ends.push((client, listener.accept()?));
    }
    recycled.grown_by(number)?;
    stage.rest("the same addresses again");
    for (client, server) in ends {
        drop(client);
        server.read_to_end()?;
    }
    Ok(Verdict::Done)
}

fn waiting(ctx: &mut Ctx) -> io::Result<Waiting> {
    let listener = ctx.listener(Style::PLAIN)?;
    let (first, target) = listener.client(&mut ctx.rng)?;
    // Else its minisocket keeps the port to itself.
    first.socket.set_reuse_address(true)?;
    ctx.count(1);
    first.socket.connect(&target)?;
    let (source, table) = (first.address()?, first.table);
    let server = listener.accept()?;
    drop(first);
    server.read_to_end()?;
    let client = Endpoint::new(table)?;
    client.socket.set_reuse_address(true)?;
    Ok(Waiting {
        listener,
        source,
        target,
        client,
    })
}

fn reconnect(client: &Endpoint, target: &SockAddr) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match client.socket.connect(target) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                if start.elapsed() >= LIMIT {
                    return Err(not_shown("connect, from TIME_WAIT", &error.to_string()));
                }
                thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

/// More minisockets than `tcp_max_tw_buckets` allows: the others are closed at once.
pub(super) fn bucket_overflow(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let overflow = Proof::new("TCPTimeWaitOverflow")?;
    let peers = stage.each(half_dead)?;
    overflow.grown_by(1)?;
    stage.rest("some minisockets, in FIN_WAIT2");
    for peer in &peers {
        peer.socket.shutdown(Shutdown::Write)?;
    }
    stage.rest("some minisockets, in TIME_WAIT");
    Ok(Verdict::Done)
}

/// Minisockets in FIN_WAIT2 that meet a FIN, a reset, or data.
pub(super) fn fin_wait2_met(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let peers = stage.each(half_dead)?;
    stage.rest("minisockets in FIN_WAIT2");
    let mut left = Vec::new();
    for (number, peer) in peers.into_iter().enumerate() {
        match number % 3 {
            0 => drop(peer),
            1 => peer.reset_on_close()?,
            _ => {
                peer.send_byte()?;
                left.push(peer);
            }
        }
    }
    stage.rest("met by FIN, by RST, and by data, which is answered by RST");
    Ok(Verdict::Done)
}

/// Minisockets in FIN_WAIT2 that time out: to TIME_WAIT they do not come.
pub(super) fn fin_timeout_short(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let _peers = stage.each(half_dead)?;
    stage.rest("minisockets in FIN_WAIT2, for a short time");
    listed("end of FIN_WAIT2", |counts| counts.both(st::FIN_WAIT2) == 0)?;
    stage.rest("peers in CLOSE_WAIT");
    Ok(Verdict::Done)
}

/// A `tcp_fin_timeout` beyond the length of TIME_WAIT: orphans in FIN_WAIT2 stay full sockets
/// for the difference, and are minisockets for the same time again.
pub(super) fn fin_timeout_long(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let before = minisockets_now()?;
    let peers = stage.each(half_dead)?;
    stage.rest("orphans in FIN_WAIT2");
    minisockets(before + u64::try_from(peers.len()).expect("few"))?;
    stage.rest("minisockets in FIN_WAIT2");
    listed("end of FIN_WAIT2", |counts| counts.both(st::FIN_WAIT2) == 0)?;
    stage.rest("peers in CLOSE_WAIT");
    Ok(Verdict::Done)
}

/// `TCP_LINGER2`, the timeout of one socket: none at all, which resets, or a second.
pub(super) fn linger2(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let aborted = Proof::new("TCPAbortOnLinger")?;
    let mut seconds: c_int = 1;
    let pairs = stage.each(|ctx| {
        let (one, other) = pair(ctx)?;
        seconds = -seconds;
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_LINGER2);
        sys::set_option(&one.socket, level, name, seconds)?;
        one.socket.shutdown(Shutdown::Write)?;
        Ok((one, other))
    })?;
    let number = u64::try_from(pairs.len()).expect("few");
    listed("FIN_WAIT2", |counts| counts.both(st::FIN_WAIT2) == number)?;
    stage.rest("full sockets in FIN_WAIT2");
    let _peers: Vec<Endpoint> = pairs.into_iter().map(|(_, other)| other).collect();
    stage.rest("orphans for a second, and none");
    listed("end of FIN_WAIT2", |counts| counts.both(st::FIN_WAIT2) == 0)?;
    aborted.grown_by(1)?;
    stage.rest("peers reset, and in CLOSE_WAIT");
    Ok(Verdict::Done)
}

/// The peer of an end that was closed; it has seen the FIN, so that the end is in FIN_WAIT2.
fn half_dead(ctx: &mut Ctx) -> io::Result<Endpoint> {
    let (one, other) = pair(ctx)?;
    drop(one);
    other.read_to_end()?;
    Ok(other)
}
