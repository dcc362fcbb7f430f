//! A running program, which ends with its owner.

use std::{
    net::TcpStream,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a program may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two checks of a condition.
const PAUSE: Duration = Duration::from_millis(50);

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    pub(crate) child: Child,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().display().to_string();
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is ready; fails if it ends before.
    pub(crate) fn wait_until(&mut self, mut ready: impl FnMut() -> bool) -> Result<()> {
        wait_for(PATIENCE, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended ({status})");
            }
            Ok(ready())
        })
        .with_context(|| format!("cannot start {}", self.name))
    }

    /// Ends it by SIGTERM, by which it ends its children, and waits for that.
    pub(crate) fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_raw(self.pid().cast_signed());
        kill(pid, Signal::SIGTERM).with_context(|| format!("cannot end {}", self.name))?;
        if wait_for(PATIENCE, || Ok(self.child.try_wait()?.is_some())).is_err() {
            self.child.kill()?;
            self.child.wait()?;
            bail!("{} did not end within {PATIENCE:?} of SIGTERM", self.name);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("warning: {error:#}");
        }
    }
}

/// Waits until `done`, for at most `patience`.
pub(crate) fn wait_for(patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        ensure!(start.elapsed() <= patience, "not within {patience:?}");
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Whether something accepts connections at an address.
pub(crate) fn listens(address: &str) -> bool {
    TcpStream::connect(address).is_ok()
}
