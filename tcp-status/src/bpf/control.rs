//! Telling the programs where events go, and being woken by them.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tcp_status_common::control::{Control, Mode};

use super::{
    Bpf, BpfError,
    load::{CONTROL, lock},
    pod::PodWrapper,
};

impl Bpf {
    /// From now on, events go where `mode` says.
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn set_mode(&self, mode: Mode) -> Result<(), BpfError> {
        self.write_control(Some(mode), None)
    }

    /// From the next [`Bpf::set_mode`] on, events of other namespaces are counted into bank `live`,
    /// and seeded with the tracker's own if `seeded` says so.
    pub fn count_others(&self, live: u32, seeded: bool) {
        let mut switch = lock(&self.control);
        switch.others.live = live;
        switch.others.seeded = seeded;
    }

    /// From now on, an event wakes who [waits](Bpf::wait).
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn arm(&self) -> Result<(), BpfError> {
        let mut wake = lock(&self.wake);
        // What is left of the last time.
        while wake.next().is_some() {}
        self.write_control(None, Some(true))
    }

    /// Events wake nobody any more.
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn disarm(&self) -> Result<(), BpfError> {
        self.write_control(None, Some(false))
    }

    /// Sleeps until an event comes, `wakeup` can be read, or `limit` is over; false for the last.
    ///
    /// # Errors
    /// If the kernel cannot wait.
    pub fn wait(&self, wakeup: BorrowedFd<'_>, limit: Option<Duration>) -> io::Result<bool> {
        wait(&[lock(&self.wake).as_fd(), wakeup], limit)
    }

    fn write_control(&self, mode: Option<Mode>, armed: Option<bool>) -> Result<(), BpfError> {
        let mut switch = lock(&self.control);
        switch.mode = mode.unwrap_or(switch.mode);
        switch.armed = armed.unwrap_or(switch.armed);
        let mode = match switch.mode {
            // Nothing is counted, so that nothing comes.
            Mode::OFF => Mode::OFF,
            mode => {
                let mode = if switch.armed { mode.armed() } else { mode };
                mode.with_timewait(switch.timewait)
                    .with_others(switch.others)
            }
        };
        let control = PodWrapper(Control {
            mode,
            netns: self.inode,
        });
        switch
            .map
            .set(0, control, 0)
            .map_err(|source| BpfError::Map {
                name: CONTROL,
                source,
            })
    }
}

/// Sleeps until one of `files` can be read, or `limit` is over; false for the latter.
///
/// # Errors
/// If the kernel cannot wait.
pub(crate) fn wait(files: &[BorrowedFd<'_>], limit: Option<Duration>) -> io::Result<bool> {
    let mut files: Vec<_> = files
        .iter()
        .map(|file| PollFd::new(*file, PollFlags::POLLIN))
        .collect();
    let limit = limit.map_or(PollTimeout::NONE, |limit| {
        PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut files, limit) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}
