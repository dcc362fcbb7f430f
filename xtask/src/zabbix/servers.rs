//! Zabbix's own programs, configured for short rounds, on loopback: database, server, front end
//! and both agents. In a network namespace of their own, they have every port for themselves.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::sandbox::{Sandbox, output};
use crate::{
    files,
    process::{Process, listens},
    step::step,
};

const POSTGRES: &str = "usr/lib/postgresql/15/bin";
const SQL: &str = "usr/share/zabbix-server-pgsql";

/// Name of the database, and of its user.
const NAME: &str = "zabbix";

/// Tables whose rows are loaded. The rest are stock templates, which take ten times as long.
const TABLES: &str = "config config_autoreg_tls globalmacro graph_theme hgset hgset_group hstgrp \
                      module role role_rule settings ugset ugset_group user_ugset users \
                      users_groups usrgrp";

const SERVER_PORT: &str = "10051";

/// The front end, inside the namespace.
const FRONTEND: &str = "127.0.0.1:8080";
pub(super) const URL: &str = "http://127.0.0.1:8080";

/// Debian's package fixes where the front end's configuration lies.
const CONFIGURATION: &str = "/etc/zabbix/zabbix.conf.php";
const READS_IT: &str = "usr/share/zabbix/include/classes/core/CConfigFile.php";

/// PostgreSQL on a Unix socket; the data go with the sandbox.
pub(super) struct Database<'a> {
    sandbox: &'a Sandbox,
    _process: Process,
}

impl<'a> Database<'a> {
    /// With the schema, and as much of Zabbix's data as users, roles and groups need.
    pub(super) fn start(sandbox: &'a Sandbox) -> Result<Self> {
        let data = sandbox.create_folder("database")?;
        let program = |name| sandbox.command(sandbox.tree(POSTGRES).join(name));
        let options = "--auth trust --encoding UTF8 --locale C.UTF-8 --no-sync";
        let mut initdb = program("initdb");
        initdb.args(["--username", NAME]).args(options.split(' '));
        output(initdb.arg("--pgdata").arg(&data))?;
        let mut postgres = program("postgres");
        // A round is shorter than the server's own pauses for saving work.
        let options = "-c listen_addresses= -c fsync=off -c synchronous_commit=off -c jit=off";
        postgres.args(options.split(' '));
        postgres.arg("-k").arg(&data).arg("-D").arg(&data);
        let process = sandbox.start_until("postgres", &mut postgres, || {
            output(&mut client(sandbox, "pg_isready")).is_ok()
        })?;
        let database = Self {
            sandbox,
            _process: process,
        };
        output(client(sandbox, "createdb").arg(NAME))?;
        let sql = |name| step!("gzip -dc", sandbox.tree(SQL).join(name)).read();
        database.execute(&sql("schema.sql.gz")?)?;
        database.execute(&rows_of(&sql("data.sql.gz")?))?;
        Ok(database)
    }

    /// Executes statements; the first that fails ends it.
    pub(super) fn execute(&self, sql: &str) -> Result<()> {
        let mut child = client(self.sandbox, "psql")
            .args(["--quiet", "--no-psqlrc", "--single-transaction"])
            .args(["--set", "ON_ERROR_STOP=1", "--dbname", NAME])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start psql")?;
        let mut stdin = child.stdin.take().context("psql has no stdin")?;
        let written = stdin.write_all(sql.as_bytes());
        drop(stdin);
        let status = child.wait()?;
        ensure!(
            status.success(),
            "psql failed ({status}); the reason is above"
        );
        written.context("cannot write to psql")
    }
}

/// A client of the database; the folder of the socket stands for a host's name.
fn client(sandbox: &Sandbox, name: &str) -> Command {
    let mut command = sandbox.command(sandbox.tree(POSTGRES).join(name));
    command
        .arg("--host")
        .arg(sandbox.path("database"))
        .args(["--username", NAME]);
    command
}

/// The INSERT statements into [`TABLES`]. A statement begins at the beginning of a line; its rows
/// and texts can go over many.
fn rows_of(sql: &str) -> String {
    let mut keeps = false;
    let kept = sql.lines().filter(|line| {
        if let Some(rest) = line.strip_prefix("INSERT INTO ") {
            let name = rest.split(' ').next().unwrap_or_default();
            keeps = TABLES.split_whitespace().any(|table| table == name);
        } else if line.starts_with("COMMIT") || line.starts_with("UPDATE") {
            keeps = false;
        }
        keeps
    });
    kept.map(|line| format!("{line}\n")).collect()
}

pub(super) fn start_server(sandbox: &Sandbox) -> Result<Process> {
    sandbox.create_folder("sockets")?;
    let words = [("@SERVER_PORT@", SERVER_PORT)];
    let configuration =
        sandbox.configure("server.conf", include_str!("conf/server.conf"), &words)?;
    let mut command = sandbox.command(sandbox.tree("usr/sbin/zabbix_server"));
    command
        .args(["--foreground", "--config"])
        .arg(configuration);
    // The last process that starts is of no fixed kind; the first poller is enough.
    sandbox.start_until("server", &mut command, || {
        sandbox.log("server").contains("[poller #1]")
    })
}

/// The web front end on PHP's own server.
pub(super) fn start_frontend(sandbox: &Sandbox) -> Result<Process> {
    let words = [("@SERVER_PORT@", SERVER_PORT)];
    let configuration =
        sandbox.configure("zabbix.conf.php", include_str!("conf/frontend.php"), &words)?;
    let reader = sandbox.tree(READS_IT);
    let text = files::read_text(&reader)?;
    let moved = text.replace(CONFIGURATION, &configuration.display().to_string());
    ensure!(moved != text, "{READS_IT} names no {CONFIGURATION}");
    files::write(&reader, moved)?;

    sandbox.create_folder("sessions")?;
    let mut command = sandbox.command(sandbox.tree("usr/bin/php8.2"));
    command
        // Neither the host's settings nor its extensions.
        .env("PHP_INI_SCAN_DIR", "")
        .arg("-c")
        .arg(sandbox.configure("php.ini", include_str!("conf/php.ini"), &[])?)
        .args(["-S", FRONTEND, "-t"])
        .arg(sandbox.tree("usr/share/zabbix"))
        .env("PHP_CLI_SERVER_WORKERS", "4")
        .env("LC_ALL", "en_US.UTF-8");
    sandbox.start_until("frontend", &mut command, || listens(FRONTEND))
}

/// A Zabbix agent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Agent {
    pub(super) name: &'static str,
    pub(super) port: u16,
    program: &'static str,
    /// Where Debian's package of it looks for more configuration.
    includes: &'static str,
    /// Settings that the other one has not.
    own: &'static str,
}

pub(super) const AGENTS: [Agent; 2] = [
    Agent {
        name: "agent",
        port: 10050,
        program: "usr/sbin/zabbix_agentd",
        includes: "etc/zabbix/zabbix_agentd.conf.d",
        own: "StartAgents=2\n",
    },
    Agent {
        name: "agent2",
        port: 10052,
        program: "usr/sbin/zabbix_agent2",
        includes: "etc/zabbix/zabbix_agent2.d",
        own: "ControlSocket=@FOLDER@/agent2.control\nPluginSocket=@FOLDER@/agent2.plugins\n",
    },
];

impl Agent {
    /// Starts it with `tcp-status` in the sandbox's `bin`, whose tracker is at `socket`.
    pub(super) fn start(&self, sandbox: &Sandbox, socket: &Path) -> Result<Process> {
        let words = [
            ("@NAME@", self.name),
            ("@PORT@", &self.port.to_string()),
            ("@INCLUDES@", self.includes),
        ];
        let template = [include_str!("conf/agent.conf"), self.own].concat();
        let configuration = sandbox.configure(&format!("{}.conf", self.name), &template, &words)?;
        let mut command = sandbox.command(sandbox.tree(self.program));
        command
            .args(["--foreground", "--config"])
            .arg(configuration)
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", sandbox.path("bin").display()),
            )
            .env("TCP_STATUS_SOCKET", socket)
            .current_dir("/");
        let address = format!("127.0.0.1:{}", self.port);
        sandbox.start_until(self.name, &mut command, || listens(&address))
    }

    /// Queries it as a user does.
    pub(super) fn get(&self, sandbox: &Sandbox, key: &str) -> Result<String> {
        let port = self.port.to_string();
        let mut command = sandbox.command(sandbox.tree("usr/bin/zabbix_get"));
        output(command.args(["-s", "127.0.0.1", "-p", &port, "-k", key]))
    }
}

#[cfg(test)]
mod tests {
    use super::rows_of;

    #[test]
    fn only_rows_of_the_tables_are_kept() {
        let sql = "INSERT INTO items (a)\nVALUES\n(1);\nINSERT INTO users (a)\nVALUES\n('x\ny');\n\
                   UPDATE users SET a = 1;\nINSERT INTO usrgrp VALUES (2);\nCOMMIT;\n";
        assert_eq!(
            rows_of(sql),
            "INSERT INTO users (a)\nVALUES\n('x\ny');\nINSERT INTO usrgrp VALUES (2);\n"
        );
    }
}
