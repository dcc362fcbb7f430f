//! A thread that calls a function periodically until it is dropped.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

/// Stops its thread when dropped, after a call in progress.
pub struct Ticker {
    stop: Arc<(Mutex<bool>, Condvar)>,
}

impl Ticker {
    /// Calls `turn` after `pause`, then after each pause that it returns.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn spawn(
        name: &str,
        mut pause: Duration,
        mut turn: impl FnMut() -> Duration + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let ended = Arc::clone(&stop);
        thread::Builder::new().name(name.into()).spawn(move || {
            while !wait(&ended, pause) {
                pause = turn();
            }
        })?;
        Ok(Self { stop })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
    }
}

/// Whether the thread is to stop within `time`.
fn wait((ended, called): &(Mutex<bool>, Condvar), time: Duration) -> bool {
    let guard = ended.lock().unwrap_or_else(PoisonError::into_inner);
    let (guard, _) = called
        .wait_timeout_while(guard, time, |ended| !*ended)
        .unwrap_or_else(PoisonError::into_inner);
    *guard
}
