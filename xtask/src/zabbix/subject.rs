//! What is tried: the tracker, and sockets in every state in a network namespace and a cgroup of
//! their own, where nobody else has any.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tcp_status_testkit::{
    Family,
    cgroup::Cgroup,
    held_sockets::{HeldSockets, SocketKind, SocketPlan},
    netns::{Netns, set_sysctl, sysctl},
    oracle::{Counts, st},
};

use super::sandbox::{Sandbox, output};
use crate::{
    files,
    process::{Process, wait_for},
    step::step,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Sockets of each kind and family: enough to distinguish states, few enough to be made at once.
const MOST: u32 = 6;

const PORT_RANGE: &str = "ipv4/ip_local_port_range";

/// Connections to one address.
pub(super) struct Destination {
    listener: TcpListener,
    connections: Vec<[TcpStream; 2]>,
}

/// The counted namespace.
pub(super) struct Subject<'a> {
    sandbox: &'a Sandbox,
    namespace: Netns,
    unit: Cgroup,
    binary: PathBuf,
}

impl<'a> Subject<'a> {
    /// Copies the binary to where the ordinary user can start it.
    pub(super) fn new(sandbox: &'a Sandbox, built: &Path) -> Result<Self> {
        let binary = sandbox.create_folder("bin")?.join("tcp-status");
        files::copy(built, &binary)?;
        Ok(Self {
            sandbox,
            namespace: Netns::new()?,
            unit: Cgroup::new(None, "held.service")?,
            binary,
        })
    }

    /// What the kernel lists.
    pub(super) fn listing(&self) -> Result<Counts> {
        Ok(self.namespace.run(Counts::read)??)
    }

    /// What the kernel lists of one local port.
    pub(super) fn listing_of(&self, port: u16) -> Result<Counts> {
        Ok(self.namespace.run(|| Counts::read_port(port))??)
    }

    /// Ports with a listener.
    pub(super) fn listening(&self) -> Result<Vec<u16>> {
        let ports = self.namespace.run(Counts::read_by_port)??.into_iter();
        let listening = ports.filter(|(_, counts)| counts.both(st::LISTEN) > 0);
        Ok(listening.map(|(port, _)| port).collect())
    }

    /// The path of the cgroup of all held sockets.
    pub(super) fn cgroup(&self) -> String {
        format!("/{}", self.unit.name())
    }

    /// Sockets in every state; they go when the value does.
    pub(super) fn hold(&self) -> Result<HeldSockets> {
        self.hold_plan(&SocketPlan::random(MOST, tcp_status_testkit::seed()))
    }

    /// Leaves some connections in TIME_WAIT, for a minute: those of [`Subject::hold`] may be over.
    pub(super) fn leave_timewait(&self) -> Result<()> {
        let with = |plan: SocketPlan, family| plan.with(family, SocketKind::TimeWait, 2);
        let plan = Family::ALL.into_iter().fold(SocketPlan::empty(0), with);
        self.hold_plan(&plan).map(drop)
    }

    /// Lets a connect fail for want of a local port.
    pub(super) fn exhaust_ports(&self) -> Result<()> {
        self.namespace.run(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let connect = || TcpStream::connect(listener.local_addr()?);
            let range = sysctl(PORT_RANGE)?;
            set_sysctl(PORT_RANGE, "61000 61000")?;
            let results = [connect(), connect()];
            set_sysctl(PORT_RANGE, &range)?;
            let [first, second] = results;
            first?;
            let failed = second.is_err_and(|why| why.kind() == ErrorKind::AddrNotAvailable);
            ensure!(failed, "two connections have the same port");
            Ok(())
        })?
    }

    /// A destination that uses up more than half of the 200 ephemeral ports that the namespace has from now on.
    pub(super) fn destination(&self) -> Result<Destination> {
        let listener = self.namespace.run(|| {
            set_sysctl(PORT_RANGE, "61000 61199")?;
            anyhow::Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
        })??;
        let mut destination = Destination {
            listener,
            connections: Vec::new(),
        };
        for _ in 0..110 {
            self.connect(&mut destination)?;
        }
        Ok(destination)
    }

    /// One connection more.
    pub(super) fn connect(&self, to: &mut Destination) -> Result<()> {
        let connect = || {
            let address = to.listener.local_addr()?;
            let ends = [TcpStream::connect(address)?, to.listener.accept()?.0];
            std::io::Result::Ok(ends)
        };
        let ends = self.namespace.run(|| self.unit.run(connect))???;
        to.connections.push(ends);
        Ok(())
    }

    fn hold_plan(&self, plan: &SocketPlan) -> Result<HeldSockets> {
        let make = || {
            let hold = HeldSockets::new(plan)?;
            hold.wait(PATIENCE)?;
            std::io::Result::Ok(hold)
        };
        Ok(self.namespace.run(|| self.unit.run(make))???)
    }

    /// A tracker of the counted namespace; and its tier.
    pub(super) fn start_tracker(&self) -> Result<(Process, String)> {
        let start = || self.start("tracker", &self.socket(), &[]);
        self.namespace.run(start)?
    }

    /// A tracker of the namespace that Zabbix is in.
    pub(super) fn start_tracker_beside(&self, arguments: &[&str]) -> Result<(Process, String)> {
        let socket = self.sandbox.path("socket-beside");
        self.start("tracker-beside", &socket, arguments)
    }

    /// Of the tracker of the counted namespace.
    pub(super) fn socket(&self) -> PathBuf {
        self.sandbox.path("socket")
    }

    /// Not as the ordinary user: eBPF takes root.
    fn start(&self, name: &str, socket: &Path, arguments: &[&str]) -> Result<(Process, String)> {
        let mut command = Command::new(&self.binary);
        command
            .args(["run", "--socket-group", &self.sandbox.group()?, "--socket"])
            .arg(socket)
            .args(arguments)
            .stdin(Stdio::null());
        let process = self.sandbox.start(name, &mut command)?;
        let show = || {
            let mut show = Command::new(&self.binary);
            output(show.args(["show", "--json", "--socket"]).arg(socket))
        };
        wait_for(PATIENCE, || Ok(show().is_ok())).context("the tracker does not answer")?;
        let shown: Value = serde_json::from_str(&show()?)?;
        let tier = shown["tier"]
            .as_str()
            .context("the tracker names no tier")?;
        Ok((process, format!("tier {tier}")))
    }

    /// Installs the agents' configuration into the packages, where nothing of it is yet.
    pub(super) fn install(&self) -> Result<()> {
        for (action, status) in [("check", 1), ("install", 0), ("check", 0)] {
            let step = step!(
                &self.binary,
                "zabbix",
                action,
                "--root",
                self.sandbox.tree("")
            );
            let yes = if action == "install" { "--yes" } else { "" };
            let ended = step.clone().with(yes).output(Stdio::inherit())?.status;
            ensure!(
                ended.code() == Some(status),
                "`{step}` ended with {ended}, not {status}; what it printed is above"
            );
        }
        Ok(())
    }
}
