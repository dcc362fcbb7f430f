//! A process that is ended with its owner, by its id. Waiting, with an end.

use std::{
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a program may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// A running program.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    pub(super) fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| {
            let program = command.get_program().display();
            format!("cannot start {name}, by {program}")
        })?;
        Ok(Self { name, child })
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks it to end and waits for that.
    pub(super) fn end(&mut self) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).with_context(|| format!("cannot end {}", self.name))?;
        let ended = wait_for(PATIENCE, || Ok(self.ended()?.is_some()));
        if ended.is_err() {
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

/// Looks until `done`, for at most `patience`.
pub(super) fn wait_for(patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > patience {
            bail!("not within {patience:?}");
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
