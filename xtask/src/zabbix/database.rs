//! PostgreSQL on a Unix socket, with the schema and as much of Zabbix's data as users, roles and
//! groups need.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    place::Place,
    process::{Process, wait_for},
};
use crate::step::Step;

const BINARIES: &str = "usr/lib/postgresql/15/bin";
const SQL: &str = "usr/share/zabbix-server-pgsql";

/// Name of the database, and of its user.
pub(super) const NAME: &str = "zabbix";

const PATIENCE: Duration = Duration::from_secs(20);

/// Tables whose rows are loaded. The rest are stock templates, which take ten times as long.
const TABLES: [&str; 17] = [
    "config",
    "config_autoreg_tls",
    "globalmacro",
    "graph_theme",
    "hgset",
    "hgset_group",
    "hstgrp",
    "module",
    "role",
    "role_rule",
    "settings",
    "ugset",
    "ugset_group",
    "user_ugset",
    "users",
    "users_groups",
    "usrgrp",
];

/// A running database; the data go with the place.
pub(super) struct Database<'a> {
    place: &'a Place,
    _process: Process,
}

impl<'a> Database<'a> {
    pub(super) fn start(place: &'a Place) -> Result<Self> {
        let data = place.make_folder("database")?;
        let binary = |name| place.tree(BINARIES).join(name);
        place.run(
            place
                .command(binary("initdb"))
                .args(["--username", NAME, "--auth", "trust", "--encoding", "UTF8"])
                .args(["--locale", "C.UTF-8", "--no-sync", "--pgdata"])
                .arg(&data),
        )?;
        let process = place.start(
            "postgres",
            place
                .command(binary("postgres"))
                .args(["-c", "listen_addresses=", "-c", "fsync=off"])
                // A run is shorter than the server's own pauses for saving work.
                .args(["-c", "synchronous_commit=off", "-c", "jit=off", "-k"])
                .arg(&data)
                .arg("-D")
                .arg(&data),
        )?;
        let database = Self {
            place,
            _process: process,
        };
        wait_for(PATIENCE, || {
            let mut ready = database.client("pg_isready");
            Ok(ready.output().is_ok_and(|output| output.status.success()))
        })
        .context("the database does not answer; its words are in postgres.log")?;
        place.run(database.client("createdb").arg(NAME))?;
        Ok(database)
    }

    /// The folder of the socket, which stands for a host's name.
    pub(super) fn socket(place: &Place) -> PathBuf {
        place.path("database")
    }

    fn client(&self, name: &str) -> Command {
        let mut command = self.place.command(self.place.tree(BINARIES).join(name));
        command
            .arg("--host")
            .arg(Self::socket(self.place))
            .args(["--username", NAME]);
        command
    }

    /// The schema, then the rows of [`TABLES`].
    pub(super) fn load(&self) -> Result<()> {
        let schema = unzipped(&self.place.tree(SQL).join("schema.sql.gz"))?;
        self.execute(&schema)?;
        let data = unzipped(&self.place.tree(SQL).join("data.sql.gz"))?;
        self.execute(&rows_of(&data, &TABLES))
    }

    /// Executes statements; the first that fails ends it.
    pub(super) fn execute(&self, sql: &[u8]) -> Result<()> {
        let mut child = self
            .client("psql")
            .args(["--quiet", "--no-psqlrc", "--single-transaction"])
            .args(["--set", "ON_ERROR_STOP=1", "--dbname", NAME])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start psql")?;
        let mut stdin = child.stdin.take().context("psql has no stdin")?;
        let written = stdin.write_all(sql);
        drop(stdin);
        let status = child.wait()?;
        ensure!(
            status.success(),
            "psql failed ({status}); it says why above"
        );
        written.context("cannot write to psql")
    }
}

fn unzipped(path: &Path) -> Result<Vec<u8>> {
    ensure!(
        fs::exists(path)?,
        "the package of the server has no {}",
        path.display()
    );
    Step::new("gzip").args(["-dc"]).arg(path).bytes()
}

/// The INSERT statements into `tables`. A statement begins at the beginning of a line; its rows
/// and texts can go over many.
fn rows_of(sql: &[u8], tables: &[&str]) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut keeping = false;
    for line in BufReader::new(sql).split(b'\n').map_while(Result::ok) {
        if let Some(rest) = line.strip_prefix(b"INSERT INTO ") {
            let name = rest.split(|byte| *byte == b' ').next().unwrap_or_default();
            keeping = tables.iter().any(|table| table.as_bytes() == name);
        } else if line.starts_with(b"COMMIT") || line.starts_with(b"UPDATE") {
            keeping = false;
        }
        if keeping {
            kept.extend_from_slice(&line);
            kept.push(b'\n');
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::rows_of;

    #[test]
    fn statements_are_kept_whole_by_table() {
        let sql = b"START TRANSACTION;\n\
            INSERT INTO users (a) VALUES ('1'),\n('2');\n\
            INSERT INTO users_groups (a) VALUES ('x\ny');\n\
            INSERT INTO items (a) VALUES ('3'),\n('4');\n\
            INSERT INTO role (a) VALUES ('5');\n\
            COMMIT;\n";
        assert_eq!(
            String::from_utf8(rows_of(sql, &["users", "role"])).unwrap(),
            "INSERT INTO users (a) VALUES ('1'),\n('2');\nINSERT INTO role (a) VALUES ('5');\n"
        );
        assert!(rows_of(b"", &["users"]).is_empty());
    }
}
