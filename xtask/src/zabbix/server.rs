//! The Zabbix server itself: configured for haste, on loopback.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{
    database::{self, Database},
    place::Place,
    process::{Process, wait_for},
};

/// In a network namespace of its own, the server has every port for itself.
pub(super) const PORT: u16 = 10051;

const NAME: &str = "server";
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn start(place: &Place) -> Result<Process> {
    let configuration = format!(
        "ListenIP=127.0.0.1\nListenPort={PORT}\nLogType=console\nPidFile={pid}\nSocketDir={folder}\n\
         DBHost={database}\nDBName={name}\nDBUser={name}\n\
         CacheUpdateFrequency=1\nUnreachableDelay=1\nUnavailableDelay=1\nUnreachablePeriod=5\n\
         StartPollers=2\nStartPollersUnreachable=2\nStartPreprocessors=2\nStartLLDProcessors=1\n\
         StartPingers=0\nStartDiscoverers=0\nStartHTTPPollers=0\nStartTrappers=1\nStartTimers=1\n\
         StartEscalators=1\nStartAlerters=1\nHousekeepingFrequency=0\nTimeout=10\n\
         FpingLocation={tree}/usr/bin/fping\nFping6Location=\n",
        pid = place.path("server.pid").display(),
        folder = place.make_folder("sockets")?.display(),
        database = Database::socket(place).display(),
        name = database::NAME,
        tree = place.path("tree").display(),
    );
    let configuration = place.write("server.conf", &configuration)?;
    let mut process = place.start(
        NAME,
        place
            .command(place.tree("usr/sbin/zabbix_server"))
            .arg("--foreground")
            .arg("--config")
            .arg(configuration),
    )?;
    wait_for(PATIENCE, || {
        if let Some(status) = process.ended()? {
            bail!("it ended ({status}): {}", place.log(NAME).trim_end());
        }
        // The last process that starts is of no fixed kind; the first poller is enough.
        Ok(place.log(NAME).contains("[poller #1]"))
    })
    .context("the server does not start")?;
    Ok(process)
}
