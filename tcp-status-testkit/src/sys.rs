//! The few system calls that std, nix and socket2 do not offer. All `unsafe` of this crate.

use std::{
    io, mem,
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use libc::{c_int, c_ulong, c_void, socklen_t};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// `SIOCOUTQNSD` of `include/uapi/linux/sockios.h`: bytes not yet sent at all.
const SIOCOUTQNSD: c_ulong = 0x894B;

/// Lifts this process's limit of open files to what it may have; gives the limit.
///
/// # Errors
/// What `setrlimit` says.
pub fn raise_fd_limit() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Lets the calling thread run only while nothing else wants its CPU (`SCHED_IDLE`).
pub(crate) fn run_only_when_idle() -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sched_param; libraries differ in its members.
    let param: libc::sched_param = unsafe { mem::zeroed() };
    // Not sched_setscheduler(), which musl refuses.
    // SAFETY: the pointer is to a local, 0 is the calling thread.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_IDLE,
            &raw const param,
        )
    };
    check(c_int::try_from(result).unwrap_or(-1))
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn length<T>() -> socklen_t {
    socklen_t::try_from(size_of::<T>()).expect("socket options are small")
}

/// Sets a socket option that is an `int`.
pub(crate) fn set_option(
    socket: &impl AsRawFd,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    // SAFETY: the pointer is to an int that lives over the call, and the length is an int's.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast::<c_void>(),
            length::<c_int>(),
        )
    })
}

/// Reads a socket option that is an `int`.
pub(crate) fn option(socket: &impl AsRawFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = length::<c_int>();
    // SAFETY: both pointers are to locals, and len is the size of the int.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_mut(&mut value).cast::<c_void>(),
            &raw mut len,
        )
    })?;
    Ok(value)
}

/// Lets a listener take data from the SYN (TCP Fast Open).
///
/// # Errors
/// What `setsockopt` says.
pub fn take_fast_open(listener: &impl AsRawFd) -> io::Result<()> {
    set_option(listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16)
}

/// Whether the kernel took data from the SYN of a connection.
///
/// # Errors
/// What `getsockopt` says.
pub fn has_syn_data(connection: &impl AsRawFd) -> io::Result<bool> {
    /// `TCPI_OPT_SYN_DATA` of `include/uapi/linux/tcp.h`.
    const SYN_DATA: u8 = 32;
    Ok(tcp_info(connection)?.tcpi_options & SYN_DATA != 0)
}

/// Connections that wait in a listener's accept queue.
pub(crate) fn accept_queue(listener: &impl AsRawFd) -> io::Result<u32> {
    // tcp_get_info() puts sk_ack_backlog there for a listener.
    Ok(tcp_info(listener)?.tcpi_unacked)
}

fn tcp_info(socket: &impl AsRawFd) -> io::Result<libc::tcp_info> {
    // SAFETY: all-zero bytes are a valid tcp_info: integers only.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut len = length::<libc::tcp_info>();
    // SAFETY: both pointers are to locals, and len is the size of the buffer.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            ptr::from_mut(&mut info).cast::<c_void>(),
            &raw mut len,
        )
    })?;
    Ok(info)
}

/// Bytes written that have not been sent once.
pub(crate) fn unsent(socket: &impl AsRawFd) -> io::Result<c_int> {
    let mut bytes: c_int = 0;
    // SAFETY: this ioctl writes one int to the pointer. Libraries differ in the request's type.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCOUTQNSD as _, &raw mut bytes) })?;
    Ok(bytes)
}

/// Dissolves a connection, or a listener, and leaves the socket fit for use
/// (`tcp_disconnect()`).
pub(crate) fn disconnect(socket: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sockaddr; family 0 is AF_UNSPEC.
    let unspecified: libc::sockaddr = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a local of the length given.
    check(unsafe {
        libc::connect(
            socket.as_raw_fd(),
            &raw const unspecified,
            length::<libc::sockaddr>(),
        )
    })
}

/// Routes a network to `lo` in the calling thread's network namespace: `ip route add .. dev lo`.
pub(crate) fn route_to_loopback(network: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
    let socket = datagram_socket()?;
    let address = |address: Ipv4Addr| {
        let octets = address.octets();
        let mut data = [0; 14];
        for (to, from) in data[2..].iter_mut().zip(octets) {
            *to = from.cast_signed() as _;
        }
        libc::sockaddr {
            sa_family: libc::sa_family_t::try_from(libc::AF_INET).expect("a small number"),
            sa_data: data,
        }
    };
    // SAFETY: all-zero bytes are a valid rtentry.
    let mut route: libc::rtentry = unsafe { mem::zeroed() };
    route.rt_dst = address(network);
    route.rt_genmask = address(mask);
    route.rt_flags = libc::RTF_UP;
    route.rt_dev = c"lo".as_ptr().cast_mut();
    // SAFETY: SIOCADDRT reads an rtentry and the name that it points to.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &raw const route) })
}

fn datagram_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed; a descriptor that is returned belongs to nobody else.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sets `lo` of the calling thread's network namespace up or down: `ip link set lo up`.
pub(crate) fn set_loopback(up: bool) -> io::Result<()> {
    let socket = datagram_socket()?;
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed() as _;
    request.ifr_name[1] = b'o'.cast_signed() as _;
    let flags = if up {
        libc::IFF_UP | libc::IFF_RUNNING
    } else {
        0
    };
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).expect("both flags fit");
    // SAFETY: SIOCSIFFLAGS reads an ifreq; libraries differ in the type of the request.
    check(unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    })
}
