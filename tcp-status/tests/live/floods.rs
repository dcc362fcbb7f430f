//! Listeners with more half-open connections than they may have, and what became of the rest,
//! against the kernel's own counters.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tcp_status::snapshot::{Fullness, Listener};
use tcp_status_testkit::{netns::set_sysctl, raise_fd_limit};

use crate::subject::{SOON, Subject, place};

/// Three quarters of 400.
const HALF_OPEN: u32 = 300;

/// A listener whose connections stay half-open until the client sends data.
fn deferring() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    let seconds: libc::c_int = 60;
    // SAFETY: the kernel reads the integer, whose size it is told.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            libc::socklen_t::try_from(size_of_val(&seconds)).unwrap(),
        )
    };
    assert_eq!(set, 0);
    socket.listen(1024).unwrap();
    TcpListener::from(socket)
}

/// The listener with the most half-open connections, once it has so many.
fn flooded(subject: &Subject) -> Listener {
    let started = Instant::now();
    loop {
        let listeners = subject.snapshot().listeners;
        let worst = listeners.into_iter().max_by_key(|one| one.syn_queue);
        if let Some(worst) = worst.filter(|one| one.syn_queue == Some(HALF_OPEN)) {
            return worst;
        }
        assert!(started.elapsed() < SOON, "no listener has {HALF_OPEN}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A counter of TcpExt.
fn counter(wanted: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let names: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    let values: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    let column = names.iter().position(|name| *name == wanted).unwrap();
    values[column].parse().unwrap()
}

#[test]
fn a_flooded_listener_is_marked_and_cookies_are_counted() {
    let Some(netns) = place() else { return };
    raise_fd_limit().unwrap();
    netns
        .run(|| {
            set_sysctl("ipv4/tcp_syncookies", "0").unwrap();
            set_sysctl("ipv4/tcp_max_syn_backlog", "400").unwrap();
            set_sysctl("ipv4/ip_local_port_range", "20000 20999").unwrap();
            set_sysctl("ipv4/ip_local_reserved_ports", "20010-20019,30000").unwrap();
            let subject = Subject::start_attentive();
            let deferring = deferring();
            let address = deferring.local_addr().unwrap();
            let _clients: Vec<_> = (0..HALF_OPEN)
                .map(|_| TcpStream::connect(address).unwrap())
                .collect();
            assert_eq!(subject.snapshot().ephemeral_ports, Some(990));
            let full = flooded(&subject);
            assert_eq!(full.syn_queue_limit, Some(HALF_OPEN));
            assert_eq!(full.fullness(), Fullness::SynFull);
            // With cookies, the backlog is the limit.
            set_sysctl("ipv4/tcp_syncookies", "2").unwrap();
            let filling = flooded(&subject);
            assert_eq!(filling.syn_queue_limit, Some(filling.accept_queue_limit));
            assert_eq!(filling.fullness(), Fullness::SynFilling);
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let _accepted = listener.accept().unwrap();
            let told = subject.snapshot().syncookies.unwrap();
            assert!(told.sent > 0 && told.received > 0, "{told:?}");
            let listed = [
                "SyncookiesSent",
                "SyncookiesRecv",
                "SyncookiesFailed",
                "TCPReqQFullDoCookies",
                "TCPReqQFullDrop",
            ];
            assert_eq!(
                [
                    told.sent,
                    told.received,
                    told.failed,
                    told.queue_full_cookies,
                    told.queue_full_drops
                ],
                listed.map(counter)
            );
        })
        .unwrap();
}
