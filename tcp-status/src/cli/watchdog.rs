//! The service manager's watchdog (`WatchdogSec=` of a unit): it is told, as often as it wants,
//! that the tracker is alive, and restarts one that is not. Owns what "alive" means.

use std::{convert::Infallible, fs, future::pending, io, path::Path, sync::Arc};

use sd_notify::NotifyState;
use tcp_status_common::state::State;
use tokio::{task::spawn_blocking, time::sleep};

use super::run::notify;
use crate::server::{Source, protocol::Get};

/// The threads without which counts are not corrected, and peaks not seen, any more.
const THREADS: [&str; 2] = ["audit", "sample"];

/// How often the tracker speaks in the time after which it would be taken for dead.
const TIMES: u32 = 3;

/// Speaks for as long as `source` answers and the threads live that were there at the beginning.
pub(super) async fn feed(source: Arc<dyn Source>) -> Infallible {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return pending().await;
    };
    // A scan has none.
    let threads: Vec<_> = THREADS.into_iter().filter(|name| is_there(name)).collect();
    loop {
        sleep(patience / TIMES).await;
        if let Some(name) = threads.iter().find(|name| !is_there(name)) {
            log::error!(name; "a thread has died");
            return pending().await;
        }
        let asked = Arc::clone(&source);
        // That it answers, even with a refusal, is what counts: it waits for no lock forever.
        let answered = spawn_blocking(move || drop(asked.get(&question()))).await;
        if answered.is_ok() {
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
    }
}

/// Whether this process has a thread of that name. Where the kernel does not tell, it is believed
/// to be there.
fn is_there(name: &str) -> bool {
    threads(Path::new("/proc/self/task")).map_or(true, |names| names.iter().any(|it| it == name))
}

fn threads(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for thread in fs::read_dir(folder)? {
        // One that ends in the meantime is not there.
        if let Ok(name) = fs::read_to_string(thread?.path().join("comm")) {
            names.push(name.trim_end().to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        thread,
        time::{Duration, Instant},
    };

    use super::is_there;

    #[test]
    fn a_thread_is_seen_as_long_as_it_lives() {
        const NAME: &str = "seen-by-test";
        assert!(!is_there(NAME));
        let (end, ended) = mpsc::channel::<()>();
        let (start, started) = mpsc::channel();
        let sleeper = thread::Builder::new().name(NAME.into()).spawn(move || {
            start.send(()).unwrap();
            ended.recv().unwrap_err();
        });
        started.recv().unwrap();
        assert!(is_there(NAME));
        drop(end);
        sleeper.unwrap().join().unwrap();
        // The kernel clears it away a moment after it was joined.
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_there(NAME) {
            assert!(Instant::now() < deadline, "still there");
            thread::yield_now();
        }
    }
}
