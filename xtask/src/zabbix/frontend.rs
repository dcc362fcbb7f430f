//! The web front end on PHP's own server.

use std::{fs, net::TcpStream, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    database::{self, Database},
    place::Place,
    process::{Process, wait_for},
    server,
};

/// As for the server: nobody else is there.
const PORT: u16 = 8080;

/// Where the front end is, for everybody in the namespace.
pub(super) const URL: &str = "http://127.0.0.1:8080";

/// Debian's package fixes where its configuration lies.
const CONFIGURATION: &str = "/etc/zabbix/zabbix.conf.php";
const READS_IT: &str = "usr/share/zabbix/include/classes/core/CConfigFile.php";

const EXTENSIONS: [&str; 14] = [
    "bcmath",
    "ctype",
    "dom",
    "fileinfo",
    "gd",
    "gettext",
    "mbstring",
    "pgsql",
    "simplexml",
    "sockets",
    "tokenizer",
    "xml",
    "xmlreader",
    "xmlwriter",
];

const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn start(place: &Place) -> Result<Process> {
    let configuration = place.write(
        "zabbix.conf.php",
        &format!(
            "<?php\n$DB['TYPE'] = 'POSTGRESQL';\n$DB['SERVER'] = '{}';\n$DB['PORT'] = '0';\n\
             $DB['DATABASE'] = '{name}';\n$DB['USER'] = '{name}';\n$DB['PASSWORD'] = '';\n\
             $DB['SCHEMA'] = '';\n$DB['ENCRYPTION'] = false;\n$DB['DOUBLE_IEEE754'] = true;\n\
             $ZBX_SERVER = '127.0.0.1';\n$ZBX_SERVER_PORT = '{}';\n$ZBX_SERVER_NAME = '';\n\
             $IMAGE_FORMAT_DEFAULT = IMAGE_FORMAT_PNG;\n",
            Database::socket(place).display(),
            server::PORT,
            name = database::NAME,
        ),
    )?;
    let reader = place.tree(READS_IT);
    let text =
        fs::read_to_string(&reader).with_context(|| format!("cannot read {}", reader.display()))?;
    let moved = text.replace(CONFIGURATION, &configuration.display().to_string());
    ensure!(
        moved != text,
        "{} names no {CONFIGURATION}",
        reader.display()
    );
    fs::write(&reader, moved).with_context(|| format!("cannot write {}", reader.display()))?;

    let sessions = place.make_folder("sessions")?;
    let mut command = place.command(place.tree("usr/bin/php8.2"));
    command
        // Neither the host's settings nor its extensions.
        .arg("-n")
        .args(["-d", "date.timezone=UTC", "-d", "memory_limit=256M"])
        .args(["-d", "max_execution_time=300", "-d", "max_input_time=300"])
        .args(["-d", "post_max_size=16M", "-d", "display_errors=0", "-d"])
        .arg(format!("session.save_path={}", sessions.display()))
        .arg("-d")
        .arg(format!(
            "extension_dir={}",
            place.tree("usr/lib/php/20220829").display()
        ));
    for extension in EXTENSIONS {
        command.arg("-d").arg(format!("extension={extension}"));
    }
    command
        .arg("-S")
        .arg(format!("127.0.0.1:{PORT}"))
        .arg("-t")
        .arg(place.tree("usr/share/zabbix"))
        .env("PHP_CLI_SERVER_WORKERS", "4")
        .env("LC_ALL", "en_US.UTF-8");
    let mut process = place.start("frontend", &mut command)?;
    wait_for(PATIENCE, || {
        ensure!(process.ended()?.is_none(), "{}", place.log("frontend"));
        Ok(TcpStream::connect(("127.0.0.1", PORT)).is_ok())
    })
    .context("the front end does not start")?;
    Ok(process)
}
