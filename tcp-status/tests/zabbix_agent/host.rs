//! The agent, the tracker, and where they run. Counted sockets live in one network namespace, the
//! agent in another: so its own connections are not counted, and the answers must equal the
//! kernel's listing. Owns no assertions about answers.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Group, Pid, Uid},
};
use tcp_status_testkit::{netns::Netns, oracle::Counts, skip_unprepared};
use tempfile::TempDir;

const CONFIGURATION: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../templates/zabbix/userparameter_tcp_status.conf"
);

/// In a namespace of its own, the agent has every port for itself.
const PORT: u16 = 10050;

/// The agent leaves root for this user, as an installed one does.
const USER: &str = "zabbix";

/// Starting, seeding and ending take far less; a loaded machine takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Two namespaces, and a folder that the agent's user can read.
pub struct Host {
    pub counted: Netns,
    agents: Netns,
    folder: TempDir,
    agentd: PathBuf,
}

impl Host {
    /// Everything that the test needs of this machine; without it says so, and gives nothing.
    pub fn prepare() -> Option<Self> {
        if !Uid::effective().is_root() {
            skip_unprepared(
                "zabbix_agent: needs root, for network namespaces and the agent's user",
            );
            return None;
        }
        let Some(agentd) = on_path("zabbix_agentd") else {
            skip_unprepared(
                "zabbix_agent: no zabbix_agentd on PATH; install Debian's zabbix-agent",
            );
            return None;
        };
        if Group::from_name(USER).unwrap().is_none() {
            skip_unprepared("zabbix_agent: no group zabbix; install Debian's zabbix-agent");
            return None;
        }
        let counted = Netns::for_test()?;
        let agents = Netns::for_test()?;
        let folder = tempfile::tempdir().unwrap();
        // Logs and the process file are the agent's own.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let host = Self {
            counted,
            agents,
            folder,
            agentd,
        };
        // Copied, since the build's folder may be closed to the agent's user.
        fs::create_dir(host.path("bin")).unwrap();
        fs::copy(
            env!("CARGO_BIN_EXE_tcp-status"),
            host.path("bin/tcp-status"),
        )
        .unwrap();
        Some(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn listing(&self) -> Counts {
        self.counted.run(Counts::read).unwrap().unwrap()
    }

    /// A tracker that answers, in the namespace of the counted sockets.
    pub fn start_tracker(&self) -> Process {
        let (binary, socket) = (self.path("bin/tcp-status"), self.path("socket"));
        let mut command = Command::new(&binary);
        command
            .args(["run", "--socket-group", USER, "--backend", "auto"])
            .env("TCP_STATUS_SOCKET", &socket)
            .stdout(Stdio::null());
        let tracker = Process(self.counted.run(move || command.spawn()).unwrap().unwrap());
        let mut get = Command::new(binary);
        get.args(["get", "listen"]).env("TCP_STATUS_SOCKET", socket);
        wait_until("the tracker answers", || {
            get.output().unwrap().status.success()
        });
        tracker
    }

    pub fn start_agent(&self) -> Agent<'_> {
        let configuration = self.path("agent.conf");
        let text = format!(
            "Server=127.0.0.1\nListenIP=127.0.0.1\nListenPort={PORT}\nHostname=test\n\
             ServerActive=\nStartAgents=2\nUser={USER}\nLogType=file\nLogFile={}\nPidFile={}\n\
             Include={CONFIGURATION}\n",
            self.path("agent.log").display(),
            self.path("agent.pid").display(),
        );
        fs::write(&configuration, text).unwrap();
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        let mut command = Command::new(&self.agentd);
        command
            .arg("--foreground")
            .arg("--config")
            .arg(configuration)
            .env("PATH", path)
            .env("TCP_STATUS_SOCKET", self.path("socket"))
            .current_dir("/")
            .stdout(Stdio::null());
        let process = Process(self.agents.run(move || command.spawn()).unwrap().unwrap());
        let agent = Agent {
            host: self,
            _process: process,
        };
        wait_until("the agent answers", || {
            agent.try_ask("agent.ping").is_ok_and(|pong| pong == "1")
        });
        agent
    }
}

/// A running agent.
pub struct Agent<'a> {
    pub host: &'a Host,
    _process: Process,
}

impl Agent<'_> {
    /// What a server gets for a key.
    pub fn ask(&self, key: &str) -> String {
        self.try_ask(key).unwrap()
    }

    fn try_ask(&self, key: &str) -> io::Result<String> {
        self.host.agents.run(|| passive_check(key))?
    }
}

/// By `zabbix_get`, as users do; Debian has it in the server's packages, so the same request is
/// made by hand where it is missing.
fn passive_check(key: &str) -> io::Result<String> {
    let get = Command::new("zabbix_get")
        .args(["-s", "127.0.0.1", "-p", &PORT.to_string(), "-k", key])
        .output();
    let answer = match get {
        Ok(output) if output.status.success() => output.stdout,
        Ok(output) => return Err(io::Error::other(format!("{output:?}"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => passive_check_by_hand(key)?,
        Err(error) => return Err(error),
    };
    let text = String::from_utf8(answer).map_err(io::Error::other)?;
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

/// <https://www.zabbix.com/documentation/6.0/en/manual/appendix/protocols/header_datalen>
fn passive_check_by_hand(key: &str) -> io::Result<Vec<u8>> {
    const HEADER: usize = 13;
    let length = u32::try_from(key.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = [
        b"ZBXD\x01",
        &length.to_le_bytes()[..],
        &[0; 4],
        key.as_bytes(),
    ]
    .concat();
    stream.write_all(&request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.len() < HEADER {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer.split_off(HEADER))
}

/// A child of this test, ended with it.
pub struct Process(Child);

impl Process {
    pub fn end(&mut self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id().cast_signed());
        kill(pid, signal).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM, not SIGKILL: the agent's first process ends the others. Only a child that was
        // not waited for still has its id for sure.
        if let Ok(None) = self.0.try_wait() {
            self.end(Signal::SIGTERM);
        }
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([Path::new("/usr/sbin").into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}
