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
use tcp_status::{
    kernel::sock_diag,
    serve::{Source as _, protocol::Show},
    snapshot::{Fullness, Listener},
};
use tcp_status_testkit::{netns::set_sysctl, raise_fd_limit, raw_peer::RawPeer, soon};

use crate::subject::{Subject, place};

/// What has a rate.
const NAMES: [&str; 4] = [
    "ListenOverflows",
    "ListenDrops",
    "SyncookiesSent",
    "SyncookiesFailed",
];

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
        assert!(started.elapsed() < soon(), "no listener has {HALF_OPEN}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// `SK_MEMINFO_DROPS`, which `ss -m` shows.
fn drops(listener: &TcpListener) -> u32 {
    let mut meminfo = [0_u32; 9];
    let mut length = libc::socklen_t::try_from(size_of_val(&meminfo)).unwrap();
    // SAFETY: the kernel writes at most as many bytes as it is told that there are.
    let got = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            meminfo.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(got, 0);
    meminfo[8]
}

/// A listener that has room for one connection.
fn narrow(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(0).unwrap();
    socket.into()
}

#[test]
fn each_listener_tells_what_it_dropped() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            let addresses = ["127.0.0.1:81", "127.0.0.1:82", "[::1]:81"];
            let listeners = addresses.map(|address| narrow(address.parse().unwrap()));
            // The second one is never full.
            for (listener, too_many) in listeners.iter().zip([3, 0, 5]) {
                let address = listener.local_addr().unwrap();
                let _waits = (too_many > 0).then(|| TcpStream::connect(address).unwrap());
                for _ in 0..too_many {
                    let in_time = TcpStream::connect_timeout(&address, Duration::from_millis(50));
                    assert!(in_time.is_err(), "it has room");
                }
            }
            let wanted = listeners.each_ref().map(drops);
            assert!(
                wanted[0] >= 3 && wanted[1] == 0 && wanted[2] >= 5,
                "{wanted:?}"
            );
            let total: u32 = wanted.iter().sum();
            assert_eq!(u64::from(total), counter("ListenDrops"));
            let found = subject.snapshot().listeners;
            let told = listeners.each_ref().map(|listener| {
                let address = listener.local_addr().unwrap();
                let mut at = found.iter().filter(|one| one.port == address.port());
                at.find(|one| one.address == address.ip()).unwrap().drops
            });
            assert_eq!(told, wanted.map(Some));
            let by_dump = sock_diag::listeners().unwrap().into_iter();
            let dumped: u32 = by_dump.filter_map(|one| one.drops).sum();
            assert_eq!(dumped, total);
        })
        .unwrap();
}

/// Without a state change, after which the tracker would look.
#[test]
fn rates_of_full_queues_are_what_the_kernel_counted_within_the_window() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            set_sysctl("ipv4/tcp_syncookies", "2").unwrap();
            let listeners = [0, 0].map(|port| narrow((Ipv4Addr::LOCALHOST, port).into()));
            let [full, free] = listeners.each_ref().map(|listener| {
                let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
                    unreachable!("it is of IPv4")
                };
                address
            });
            let _waits = TcpStream::connect(full).unwrap();
            let peer = RawPeer::new().unwrap();
            let before = NAMES.map(counter);
            let subject = Subject::start();
            // The sampler rests.
            thread::sleep(Duration::from_secs(4));
            for number in 0..30 {
                peer.open(full, number).unwrap();
                peer.open(free, number).unwrap();
            }
            for number in 100..120 {
                peer.acknowledge(free, number).unwrap();
            }
            let shown = |count: u64| count.to_string();
            let counts = |window| {
                let show = Show {
                    window: Some(window),
                    ..Show::default()
                };
                let of = subject.tracker.show(&show).unwrap().remove(0);
                let of = of.queue_rates.unwrap();
                let rates = [
                    of.listen_overflows,
                    of.listen_drops,
                    of.syncookies_sent,
                    of.syncookies_failed,
                ];
                rates.map(|rate| format!("{:.0}", rate * of.window_seconds))
            };
            let grown = || {
                let now = NAMES.map(counter);
                [0, 1, 2, 3].map(|i| now[i] - before[i])
            };
            assert_eq!(grown(), [30, 30, 30, 20]);
            for window in [10, 60, 86_400] {
                assert_eq!(counts(window), grown().map(shown), "{window} s");
            }
            let began = Instant::now();
            while counts(2) != [0; 4].map(shown) {
                assert!(began.elapsed() < 2 * soon(), "{:?}", counts(2));
                thread::sleep(Duration::from_millis(100));
            }
            assert_eq!(counts(60), grown().map(shown));
        })
        .unwrap();
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

/// Half-open connections of a port, and those of them that the kernel's listing shows as retransmitted.
pub(crate) fn listed_half_open(port: u16) -> [u32; 2] {
    let text = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let mut counts = [0; 2];
    for line in text.lines().skip(1) {
        let columns: Vec<_> = line.split_whitespace().collect();
        let local = columns[1].rsplit(':').next().unwrap();
        if u16::from_str_radix(local, 16) == Ok(port) && columns[3] == "03" {
            counts[0] += 1;
            counts[1] += u32::from(u32::from_str_radix(columns[6], 16).unwrap() > 0);
        }
    }
    counts
}

#[test]
fn each_listener_tells_whose_handshake_was_not_answered_in_time() {
    let Some(netns) = place() else { return };
    netns
        .run(|| {
            let subject = Subject::start_attentive();
            let [slow, other] = [deferring(), deferring()];
            let connect = |listener: &TcpListener, count: usize| -> Vec<_> {
                let address = listener.local_addr().unwrap();
                let each = (0..count).map(|_| TcpStream::connect(address).unwrap());
                each.collect()
            };
            let ports = [&slow, &other].map(|listener| listener.local_addr().unwrap().port());
            let told = || {
                let found = subject.snapshot().listeners;
                ports.map(|port| {
                    let one = found.iter().find(|one| one.port == port).unwrap();
                    [one.syn_queue, one.syn_queue_retransmitted].map(Option::unwrap)
                })
            };
            let _late = connect(&slow, 5);
            assert_eq!(told()[0], [5, 0]);
            let started = Instant::now();
            while listed_half_open(ports[0]) != [5, 5] {
                assert!(
                    started.elapsed() < Duration::from_secs(10),
                    "no timer fires"
                );
                thread::sleep(Duration::from_millis(10));
            }
            assert_eq!(told(), [[5, 5], [0, 0]]);
            let started = Instant::now();
            let _young = [connect(&slow, 3), connect(&other, 2)];
            let (told, listed) = (told(), ports.map(listed_half_open));
            assert!(
                started.elapsed() < Duration::from_secs(1),
                "their timers fired"
            );
            assert_eq!(told, [[8, 5], [2, 0]]);
            assert_eq!(told, listed);
        })
        .unwrap();
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
            let shown = subject.snapshot();
            let ports = [shown.ephemeral_ports, shown.reserved_ports];
            assert_eq!(ports, [Some(990), Some(10)]);
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
