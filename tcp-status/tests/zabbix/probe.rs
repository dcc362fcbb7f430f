//! What `tcp-status zabbix check` sees: a tracker's socket as another user, and an agent's answers.

use std::{net::TcpListener, path::Path, sync::Arc, thread};

use nix::unistd::Uid;
use tcp_status::{
    serve::{Limits, unix::Server, zabbix::passive::AllowedNetworks},
    zabbix_agent::probe::{AgentReply, SocketAccess, query_agent, reach},
};
use tcp_status_testkit::skip_unprepared;

use crate::passive::{Fake, serve};

#[test]
fn an_agent_that_works_says_a_number() {
    let port = serve(AllowedNetworks::default()).port();
    assert_eq!(query_agent(port), AgentReply::Value("5".into()));
}

#[test]
fn an_agent_that_does_not_is_told_apart() {
    let port = serve(AllowedNetworks::new(vec!["192.0.2.0/24".parse().unwrap()])).port();
    assert_eq!(query_agent(port), AgentReply::Rejected);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    assert!(matches!(query_agent(port), AgentReply::Unreachable(_)));
}

#[test]
fn the_socket_is_tried_as_the_agents_user() {
    if !Uid::effective().is_root() {
        skip_unprepared("zabbix: needs root, to become another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Copied, since the build's folder may be closed to others.
    let program = folder.path().join("tcp-status");
    std::fs::copy(env!("CARGO_BIN_EXE_tcp-status"), &program).unwrap();
    open(folder.path());
    let (closed, opened) = (folder.path().join("closed"), folder.path().join("open"));
    listen(&closed, 0o600);
    listen(&opened, 0o666);
    assert_eq!(reach(&program, "nobody", &opened), SocketAccess::Answers);
    let SocketAccess::No(why) = reach(&program, "nobody", &closed) else {
        panic!("nobody may ask");
    };
    assert!(why.contains("permission denied"), "{why}");
    assert_eq!(reach(&program, "root", &closed), SocketAccess::Answers);
    assert_eq!(
        reach(&program, "no-such-user", &opened),
        SocketAccess::NoUser
    );
}

fn open(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Serves until the tests end.
fn listen(path: &Path, mode: u32) {
    let server = Server::bind(path, None, mode, Limits::default()).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime
            .block_on(server.run(Arc::new(Fake), std::future::pending()))
            .unwrap();
    });
}
