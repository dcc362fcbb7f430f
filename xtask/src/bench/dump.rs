//! A sock_diag dump at its barest: what any program pays that counts states by walking.

use std::os::fd::AsRawFd as _;

use anyhow::{Result, bail, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IPPROTO_TCP: u8 = 6;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Of `struct inet_diag_msg`, from its start.
const STATE: usize = 1;

/// Sockets by the kernel's number of their state, of both families.
pub(super) fn states() -> Result<[u64; 16]> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let mut counts = [0; 16];
    let mut part = vec![0; 1 << 16];
    for family in [libc::AF_INET, libc::AF_INET6] {
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::empty());
        send(fd, &request(family.try_into()?), flags)?;
        while {
            let length = recv(fd, &mut part, flags)?;
            !count(&part[..length], &mut counts)?
        } {}
    }
    Ok(counts)
}

fn request(family: u8) -> [u8; HEADER + REQUEST] {
    let mut request = [0; HEADER + REQUEST];
    let length = u32::try_from(request.len()).unwrap_or(0);
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request[HEADER] = family;
    request[HEADER + 1] = IPPROTO_TCP;
    // All states.
    request[HEADER + 4..HEADER + 8].copy_from_slice(&u32::MAX.to_ne_bytes());
    request
}

/// Counts what one datagram brings; true at the end of the dump.
fn count(mut datagram: &[u8], counts: &mut [u64; 16]) -> Result<bool> {
    while datagram.len() >= HEADER {
        let length = u32::from_ne_bytes(datagram[..4].try_into()?) as usize;
        let kind = u16::from_ne_bytes(datagram[4..6].try_into()?);
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => bail!("the kernel refuses a sock_diag dump"),
            _ => {}
        }
        ensure!(
            length > HEADER + STATE && length <= datagram.len(),
            "a netlink message is cut short"
        );
        counts[usize::from(datagram[HEADER + STATE] & 15)] += 1;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::states;

    #[test]
    fn a_listener_is_counted() {
        let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(states().unwrap()[10] > 0);
    }
}
