//! Both Zabbix agents, with the configuration file of this repository.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    place::Place,
    process::{Process, wait_for},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// An agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The one in C.
    Agent,
    /// The one in Go.
    Agent2,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Agent, Self::Agent2];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Agent2 => "agent2",
        }
    }

    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Agent => 10050,
            Self::Agent2 => 10052,
        }
    }

    /// Where Debian's package of it looks for more configuration.
    const fn includes(self) -> &'static str {
        match self {
            Self::Agent => "etc/zabbix/zabbix_agentd.conf.d",
            Self::Agent2 => "etc/zabbix/zabbix_agent2.d",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Agent => "usr/sbin/zabbix_agentd",
            Self::Agent2 => "usr/sbin/zabbix_agent2",
        }
    }

    fn configuration(self, place: &Place) -> String {
        let own = match self {
            Self::Agent => "StartAgents=2\n".to_owned(),
            Self::Agent2 => format!(
                "ControlSocket={}\nPluginSocket={}\n",
                place.path("agent2.control").display(),
                place.path("agent2.plugins").display(),
            ),
        };
        format!(
            "Server=127.0.0.1\nListenIP=127.0.0.1\nListenPort={port}\nHostname={name}\n\
             LogType=console\nPidFile={pid}\nInclude={includes}/*.conf\n{own}",
            port = self.port(),
            name = self.name(),
            pid = place.path(format!("{}.pid", self.name())).display(),
            includes = place.tree(self.includes()).display(),
        )
    }
}

/// What the installation of Debian's packages does: the one agent's configuration lies elsewhere
/// in the package.
pub(super) fn provide_configuration(place: &Place) -> Result<()> {
    let packaged = place.tree("usr/share/zabbix-agent/zabbix_agentd.conf");
    let installed = place.tree("etc/zabbix/zabbix_agentd.conf");
    fs::copy(&packaged, &installed)
        .with_context(|| format!("cannot copy {}", packaged.display()))?;
    Ok(())
}

/// Starts an agent that finds `tcp-status` in the place's `bin` and its tracker at `socket`.
pub(super) fn start(place: &Place, kind: Kind, socket: &Path) -> Result<Process> {
    let name = kind.name();
    let configuration = place.write(&format!("{name}.conf"), &kind.configuration(place))?;
    let path = format!("{}:/usr/bin:/bin", place.path("bin").display());
    let mut process = place.start(
        name,
        place
            .command(place.tree(kind.program()))
            .arg("--foreground")
            .arg("--config")
            .arg(configuration)
            .env("PATH", path)
            .env("TCP_STATUS_SOCKET", socket)
            .current_dir("/"),
    )?;
    wait_for(PATIENCE, || {
        if let Some(status) = process.ended()? {
            bail!("it ended ({status}): {}", place.log(name).trim_end());
        }
        Ok(TcpStream::connect(("127.0.0.1", kind.port())).is_ok())
    })
    .with_context(|| format!("{name} does not start"))?;
    Ok(process)
}

/// Asks an agent as a user does.
pub(super) fn zabbix_get(place: &Place, port: u16, key: &str) -> Result<String> {
    let program: PathBuf = place.tree("usr/bin/zabbix_get");
    let mut command = place.command(program);
    command.args(["-s", "127.0.0.1", "-p", &port.to_string(), "-k", key]);
    Ok(place.run(&mut command)?.trim_end().to_owned())
}
