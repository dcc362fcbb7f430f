//! Namespaces of the test kit: apart from each other and from the host, with sysctls of their
//! own, for threads and processes.

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
};

use tcp_status_testkit::{
    netns::{Netns, set_sysctl, sysctl},
    oracle::{Counts, Table, st},
};

#[test]
fn is_empty_and_apart_from_others_and_has_loopback() {
    let (Some(one), Some(other)) = (Netns::for_test(), Netns::for_test()) else {
        return;
    };
    assert_ne!(one.inode(), other.inode());
    one.run(|| {
        assert_eq!(Counts::read().unwrap(), Counts::default());
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 7)).unwrap();
        let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 7)).unwrap();
        let _client = TcpStream::connect(v6.local_addr().unwrap()).unwrap();
        let counts = Counts::read().unwrap();
        assert_eq!(counts.get(Table::Tcp, st::LISTEN), 1);
        assert_eq!(counts.get(Table::Tcp6, st::LISTEN), 1);
        assert_eq!(counts.get(Table::Tcp6, st::ESTABLISHED), 2);
        assert_eq!(counts.total(), 4);
        other
            .run(|| assert_eq!(Counts::read().unwrap(), Counts::default()))
            .unwrap();
        drop(v4);
    })
    .unwrap();
}

#[test]
fn holds_threads_and_processes_that_start_inside() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    let wanted = format!("net:[{}]", netns.inode());
    let own = || fs::read_link("/proc/thread-self/ns/net").unwrap();
    assert_ne!(own().to_string_lossy(), wanted);
    netns
        .run(|| {
            assert_eq!(own().to_string_lossy(), wanted);
            let in_thread = thread::spawn(own).join().unwrap();
            assert_eq!(in_thread.to_string_lossy(), wanted);
            let mut child = Command::new(env!("CARGO_BIN_EXE_tcp-traffic"))
                .args(["hold", "1"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let in_child = fs::read_link(format!("/proc/{}/ns/net", child.id())).unwrap();
            assert_eq!(in_child.to_string_lossy(), wanted);
            drop(child.stdin.take());
            let mut text = String::new();
            let mut stdout = child.stdout.take().unwrap();
            stdout.read_to_string(&mut text).unwrap();
            assert!(child.wait().unwrap().success(), "{text}");
        })
        .unwrap();
}

#[test]
fn sysctls_are_its_own() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    let name = "ipv4/tcp_fin_timeout";
    let outside = sysctl(name).unwrap();
    netns
        .run(|| {
            set_sysctl(name, "7").unwrap();
            assert_eq!(sysctl(name).unwrap(), "7");
        })
        .unwrap();
    assert_eq!(sysctl(name).unwrap(), outside);
    netns
        .run(|| {
            assert_eq!(sysctl(name).unwrap(), "7");
            let error = set_sysctl("ipv4/no_such_thing", "1").unwrap_err();
            assert!(error.to_string().contains("no_such_thing"), "{error}");
        })
        .unwrap();
}
