//! What is tried: the tracker, and sockets in every state in a network namespace of their own,
//! where nobody else has any.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tcp_status_testkit::{
    Family,
    hold::{Hold, Kind, Plan},
    netns::Netns,
    oracle::Counts,
};

use super::{
    place::Place,
    process::{Process, wait_for},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Sockets of each kind and family: enough to tell states apart, few enough to be made at once.
const MOST: u32 = 6;

/// The counted namespace.
pub(super) struct Subject {
    namespace: Netns,
    binary: PathBuf,
}

impl Subject {
    /// Copies the binary to where the ordinary user can start it.
    pub(super) fn prepare(place: &Place, built: &Path) -> Result<Self> {
        let binary = place.make_folder("bin")?.join("tcp-status");
        fs::copy(built, &binary).with_context(|| format!("cannot copy {}", built.display()))?;
        Ok(Self {
            namespace: Netns::new()?,
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
        let ports = self.namespace.run(Counts::read_by_port)??;
        let listens = tcp_status_testkit::oracle::st::LISTEN;
        Ok(ports
            .into_iter()
            .filter(|(_, counts)| counts.both(listens) > 0)
            .map(|(port, _)| port)
            .collect())
    }

    /// Sockets in every state; they go when the value does.
    pub(super) fn hold(&self, seed: u64) -> Result<Hold> {
        let plan = Plan::random(MOST, seed);
        let hold = self.namespace.run(|| {
            let hold = Hold::new(&plan)?;
            hold.wait(PATIENCE)?;
            std::io::Result::Ok(hold)
        })?;
        Ok(hold?)
    }

    /// Leaves some connections in TIME_WAIT, for a minute: those of [`Subject::hold`] may be over.
    pub(super) fn leave_timewait(&self) -> Result<()> {
        let mut plan = Plan::empty(0);
        for family in Family::ALL {
            plan = plan.with(family, Kind::TimeWait, 2);
        }
        self.namespace.run(|| {
            let hold = Hold::new(&plan)?;
            hold.wait(PATIENCE)?;
            std::io::Result::Ok(())
        })??;
        Ok(())
    }

    /// A tracker of the counted namespace.
    pub(super) fn start_tracker(&self, place: &Place, socket: &Path) -> Result<Process> {
        let mut command = self.tracker(place, socket)?;
        let started = self
            .namespace
            .run(|| start(place, "tracker", &mut command))??;
        self.wait_for_answer(socket)?;
        Ok(started)
    }

    /// A tracker of the namespace that Zabbix is in.
    pub(super) fn start_tracker_beside(
        &self,
        place: &Place,
        socket: &Path,
        arguments: &[&str],
    ) -> Result<Process> {
        let mut command = self.tracker(place, socket)?;
        let started = start(place, "tracker-beside", command.args(arguments))?;
        self.wait_for_answer(socket)?;
        Ok(started)
    }

    /// Not as the ordinary user: eBPF takes root.
    fn tracker(&self, place: &Place, socket: &Path) -> Result<Command> {
        let mut command = Command::new(&self.binary);
        command
            .args(["run", "--socket-group", &place.group()?, "--socket"])
            .arg(socket)
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Installs the agents' configuration below `root`, where nothing of it is yet.
    pub(super) fn install(&self, root: &Path) -> Result<()> {
        for (action, status) in [("check", 1), ("install", 0), ("check", 0)] {
            let mut command = Command::new(&self.binary);
            command.args(["zabbix", action, "--root"]).arg(root);
            if action == "install" {
                command.arg("--yes");
            }
            let output = command.output()?;
            ensure!(
                output.status.code() == Some(status),
                "tcp-status zabbix {action} ended with {}: {}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// How a tracker comes by its counts.
    pub(super) fn tier(&self, socket: &Path) -> Result<String> {
        let mut show = Command::new(&self.binary);
        show.args(["show", "--json", "--socket"]).arg(socket);
        let shown: serde_json::Value = serde_json::from_slice(&show.output()?.stdout)?;
        let tier = shown["tier"]
            .as_str()
            .context("the tracker names no tier")?;
        Ok(format!("tier {tier}"))
    }

    fn wait_for_answer(&self, socket: &Path) -> Result<()> {
        wait_for(PATIENCE, || {
            let mut get = Command::new(&self.binary);
            get.args(["get", "listen", "--socket"]).arg(socket);
            Ok(get.output()?.status.success())
        })
        .context("the tracker does not answer")
    }
}

fn start(place: &Place, name: &'static str, command: &mut Command) -> Result<Process> {
    place.start(name, command)
}
