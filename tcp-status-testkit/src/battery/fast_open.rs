//! Fast Open children that stay in SYN_RECV: full sockets, which the application may have while
//! the handshake is not over.

use std::{io, net::Shutdown};

use socket2::SockFilter;

use super::{Stage, Verdict, listed};
use crate::{
    churn::Ctx,
    endpoints::{Endpoint, Listener, Style},
    netns::allow_fast_open,
    oracle::st,
    sys,
};

/// Children whose clients are deaf: closed, reset, shut down, or completed when the client hears
/// the SYN-ACK that is sent again.
pub(super) fn held(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    allow_fast_open()?;
    let opened = stage.each(deaf)?;
    let number = u64::try_from(opened.len()).expect("few");
    let wanted = |half_open: u64| half_open >= number;
    listed("Fast Open", |counts| wanted(counts.both(st::SYN_RECV)))?;
    stage.rest("full sockets in SYN_RECV");
    let mut left = Vec::new();
    for (at, (listener, client, server)) in opened.into_iter().enumerate() {
        match at % 4 {
            0 => drop(server),
            1 => server.reset_on_close()?,
            2 => {
                server.socket.shutdown(Shutdown::Write)?;
                left.push((listener, client, server));
            }
            _ => left.push((listener, client, server)),
        }
    }
    stage.rest("closed, reset and shut down in SYN_RECV");
    for (_, client, _) in &left {
        client.socket.detach_filter()?;
    }
    listed("end of SYN_RECV", |counts| counts.both(st::SYN_RECV) == 0)?;
    stage.rest("completed");
    Ok(Verdict::Done)
}

fn deaf(ctx: &mut Ctx) -> io::Result<(Listener, Endpoint, Endpoint)> {
    let listener = ctx.listener(Style::PLAIN)?;
    sys::take_fast_open(&listener.end.socket)?;
    let (client, target) = listener.client(&mut ctx.rng)?;
    // BPF_RET | BPF_K, 0: keep nothing of any packet, which drops it.
    client
        .socket
        .attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])?;
    ctx.count(1);
    client.socket.set_nonblocking(true)?;
    let flags = libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL;
    match client.socket.send_to_with_flags(b"x", &target, flags) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        result => drop(result?),
    }
    let server = listener.accept()?;
    Ok((listener, client, server))
}
