//! Telling the programs where events go, and being woken by them.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use aya::Btf;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tcp_status_common::control::{Control, Mode};

use super::{
    Bpf, BpfError,
    accept::AcceptProgram,
    load::Scope,
    object::{CONTROL, lock},
    pod::PodWrapper,
    timewait,
};
use crate::kernel::accept::AcceptForm;

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

impl Bpf {
    /// Attaches the programs that follow timewait minisockets; blocks for as long as the kernel
    /// takes, but no other call. They count in banks of which [`Bpf::count_timewait`] says so.
    ///
    /// # Errors
    /// If the kernel refuses one of them; none stays attached then.
    pub fn attach_timewait(&self) -> Result<(), BpfError> {
        let links = self.timewait.programs.iter().map(|(function, program)| {
            timewait::attach(program).map_err(|error| BpfError::Timewait {
                function,
                source: error.into(),
            })
        });
        let links = links.collect::<Result<Vec<_>, _>>()?;
        self.timewait.links.get_or_init(|| links);
        Ok(())
    }

    /// Loads the program that measures time in accept queues, for a function of this `form`.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn load_accept(&self, btf: &Btf, form: AcceptForm) -> Result<(), BpfError> {
        let program = AcceptProgram::load(&mut lock(&self.ebpf), btf, form)?;
        self.accept.get_or_init(|| program);
        Ok(())
    }

    /// Attaches that program; blocks for as long as the kernel takes. Nothing if it is not loaded.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn attach_accept(&self) -> Result<(), BpfError> {
        self.accept.get().map_or(Ok(()), AcceptProgram::attach)
    }

    /// From the next [`Bpf::set_mode`] on, `bank` counts timewait minisockets in `scope` if their
    /// programs are attached, else not. For a bank that no mode names now.
    pub fn count_timewait(&self, bank: u32, scope: Scope) {
        let attached = self.timewait.links.get().is_some();
        let mut switch = lock(&self.control);
        switch.timewait[(bank & 1) as usize] = attached;
        if scope == Scope::All {
            switch.others.timewait[(bank & 1) as usize] = attached;
        }
    }

    /// Whether `bank` counts timewait minisockets of the tracker's own namespace.
    pub fn counts_timewait(&self, bank: u32) -> bool {
        lock(&self.control).timewait[(bank & 1) as usize]
    }

    /// Whether `bank` counts timewait minisockets of other namespaces.
    pub fn counts_timewait_of_others(&self, bank: u32) -> bool {
        lock(&self.control).others.timewait[(bank & 1) as usize]
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
