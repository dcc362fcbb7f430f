//! The service manager: readiness, and the watchdog (`WatchdogSec=` of the unit). Owns what "alive" means: the
//! tracker answers a query.

use std::{convert::Infallible, future::pending, sync::Arc};

use sd_notify::NotifyState;
use tcp_status_common::state::State;
use tokio::{task::spawn_blocking, time::sleep};

use crate::serve::{Source, protocol::Get};

/// How often the tracker speaks in the time after which it would be taken for dead.
const TIMES: u32 = 3;

/// Notifies the service manager for as long as `source` answers. A thread that dies ends the process.
pub(super) async fn feed(source: Arc<dyn Source>) -> Infallible {
    let Some(timeout) = sd_notify::watchdog_enabled() else {
        return pending().await;
    };
    loop {
        sleep(timeout / TIMES).await;
        let queried = Arc::clone(&source);
        // That it answers, even with an error, is what counts: it waits for no lock forever.
        let result = spawn_blocking(move || drop(queried.get(&question()))).await;
        if result.is_ok() {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

fn question() -> Get {
    Get {
        state: State::Established.to_string(),
        port: None,
        family: None,
        netns: None,
        cgroup: None,
    }
}

/// Notifies the service manager, if there is one.
pub(super) fn notify(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!(error:%; "cannot notify the service manager");
    }
}
