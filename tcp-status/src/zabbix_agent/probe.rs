//! Whether it works: the tracker's socket as the agent's user sees it, and a key through the
//! running agent. Looks and asks; changes nothing.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use nix::unistd::{Gid, Group, Uid, User};

use crate::serve::zabbix::wire::{self, Reply};

/// What is asked for: there on every host, and a number.
pub const KEY: &str = "tcp.status[established]";

/// An agent's own limit for a key, and a little more.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the tracker's socket is for a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketAccess {
    /// It answers.
    Answers,
    /// The user is not on this host.
    NoUser,
    /// It cannot be tried as another user without root; what its permissions say.
    Untried(String),
    /// It does not; in the words of the client.
    No(String),
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentReply {
    /// A number: everything works.
    Value(String),
    /// It runs without the configuration.
    UnknownKey,
    /// An error text, of the agent or of tcp-status.
    Text(String),
    /// It closes the connection: `Server=` does not name this host.
    Rejected,
    /// Nobody listens there.
    Unreachable(String),
}

/// Asks the tracker as `user` would, by `program`, which is tcp-status.
#[must_use]
pub fn reach(program: &Path, user: &str, socket: &Path) -> SocketAccess {
    let Ok(Some(user)) = User::from_name(user) else {
        return SocketAccess::NoUser;
    };
    let own = Uid::effective();
    if own != user.uid && !own.is_root() {
        return SocketAccess::Untried(permissions(socket));
    }
    let mut command = if own == user.uid {
        Command::new(program)
    } else {
        // Groups as at a login, which is what the agent has from its next start on.
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &user.uid.to_string()])
            .args(["--regid", &user.gid.to_string()])
            .args(["--init-groups", "--"])
            .arg(program);
        command
    };
    command
        .args(["get", "established", "--socket"])
        .arg(socket)
        .current_dir("/")
        .stdin(Stdio::null());
    match command.output() {
        Ok(output) if output.status.success() => SocketAccess::Answers,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            SocketAccess::No(said.lines().next().unwrap_or("no answer").to_owned())
        }
        Err(error) => {
            SocketAccess::Untried(format!("{}: {error}", command.get_program().display()))
        }
    }
}

/// Who may connect, in words.
fn permissions(socket: &Path) -> String {
    match socket.metadata() {
        Ok(metadata) => {
            let gid = Gid::from_raw(metadata.gid());
            let group = Group::from_gid(gid).ok().flatten();
            let name = group.map_or_else(|| gid.to_string(), |group| group.name);
            format!("mode {:04o}, group {name}", metadata.mode() & 0o7777)
        }
        Err(error) => error.to_string(),
    }
}

/// Asks the agent that listens on `port` of this host.
#[must_use]
pub fn query_agent(port: u16) -> AgentReply {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ask = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&wire::encode_request(KEY))?;
        let mut answer = Vec::new();
        stream
            .take(wire::MAX_REQUEST as u64)
            .read_to_end(&mut answer)?;
        Ok(answer)
    };
    match ask() {
        Ok(answer) => match wire::decode_reply(&answer) {
            Reply::Value(text) if text.parse::<u64>().is_ok() => AgentReply::Value(text),
            Reply::Value(text) => AgentReply::Text(text),
            // In the words of agent and agent 2.
            Reply::NotSupported(why)
                if why.contains("Unsupported item key") || why.contains("Unknown metric") =>
            {
                AgentReply::UnknownKey
            }
            Reply::NotSupported(why) => AgentReply::Text(why),
            Reply::Nothing => AgentReply::Rejected,
        },
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => AgentReply::Rejected,
        Err(error) => AgentReply::Unreachable(error.to_string()),
    }
}
