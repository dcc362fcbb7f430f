//! The walks: the kernel runs a program on each entry of the opener's network namespace while
//! an iterator's file is read. The programs add up in maps; only what is as long as the list of
//! listeners comes through the file.

use std::{
    fs::File,
    io::{self, Read as _},
};

use aya::programs::{Iter, ProgramError, links::LinkError};
use tcp_status_common::counters::{ListenerRecord, ListenerWalk, WalkTotals};

use super::{
    Bpf, BpfError,
    load::SeenSlot,
    object::{WALK_LISTENERS, WALK_SOCKETS, lock, new_seen, seen_error},
    pod::{self, PodWrapper},
};

impl Bpf {
    /// Makes room for `capacity` sockets to be seen by the seeding that follows.
    ///
    /// # Errors
    /// If the kernel has no memory for it.
    pub fn resize_seen_map(&self, capacity: u32) -> Result<(), BpfError> {
        let seen = new_seen(capacity)?;
        lock(&self.seen).map.set(0, &seen, 0).map_err(seen_error)
    }

    /// Gives back the memory that [`Bpf::resize_seen_map`] took.
    ///
    /// # Errors
    /// If the kernel refuses the update.
    pub fn release_seen_map(&self) -> Result<(), BpfError> {
        let mut seen = lock(&self.seen);
        let SeenSlot { map, none } = &mut *seen;
        map.set(0, none, 0).map_err(seen_error)
    }

    /// Visits every entry once; blocks for about a microsecond per socket, in many short reads.
    ///
    /// # Errors
    /// If the kernel refuses the walk.
    pub fn walk_sockets(&self) -> Result<WalkTotals, BpfError> {
        self.visit_sockets(WalkTotals::default())
    }

    /// As [`Bpf::walk_sockets`], and counts in the bank that is being seeded what is not there.
    ///
    /// # Errors
    /// If the kernel refuses the walk.
    pub fn seed_sockets(&self) -> Result<WalkTotals, BpfError> {
        self.visit_sockets(WalkTotals {
            seeding: 1,
            ..WalkTotals::default()
        })
    }

    fn visit_sockets(&self, empty: WalkTotals) -> Result<WalkTotals, BpfError> {
        let error = |source| BpfError::Map {
            name: "WALK_TOTALS",
            source,
        };
        let mut walked = lock(&self.walked);
        walked.set(0, PodWrapper(empty), 0).map_err(error)?;
        self.run(WALK_SOCKETS, OnEagain::Retry, &mut Vec::new())?;
        let PodWrapper(totals) = walked.get(&0, 0).map_err(error)?;
        Ok(totals)
    }

    /// Visits the listeners of the calling thread's namespace, of which there should be
    /// `expected`: adds up their request sockets.
    ///
    /// # Errors
    /// If the kernel refuses the walk.
    pub fn walk_listeners(&self, expected: u64) -> Result<ListenerWalk, BpfError> {
        let empty = ListenerWalk {
            expected,
            ..ListenerWalk::default()
        };
        Ok(self.visit_listeners(empty)?.0)
    }

    /// As [`Bpf::walk_listeners`], and enters their ports in the bank that is being seeded. In the
    /// second walk of a seeding, it counts there the listeners that are not there.
    ///
    /// # Errors
    /// If the kernel refuses the walk.
    pub fn seed_listeners(&self, expected: u64) -> Result<ListenerWalk, BpfError> {
        let empty = ListenerWalk {
            expected,
            seeding: 1,
            ..ListenerWalk::default()
        };
        Ok(self.visit_listeners(empty)?.0)
    }

    /// As [`Bpf::walk_listeners`], and describes each of them.
    ///
    /// # Errors
    /// If the kernel refuses the walk.
    pub fn describe_listeners(
        &self,
        expected: u64,
    ) -> Result<(ListenerWalk, Vec<ListenerRecord>), BpfError> {
        self.visit_listeners(ListenerWalk {
            expected,
            wanted: 1,
            ..ListenerWalk::default()
        })
    }

    fn visit_listeners(
        &self,
        empty: ListenerWalk,
    ) -> Result<(ListenerWalk, Vec<ListenerRecord>), BpfError> {
        let error = |source| BpfError::Map {
            name: "LISTENER_WALK",
            source,
        };
        let mut listeners = lock(&self.listeners);
        listeners.set(0, PodWrapper(empty), 0).map_err(error)?;
        let mut written = Vec::new();
        if empty.expected > 0 {
            self.run(WALK_LISTENERS, OnEagain::Stop, &mut written)?;
        }
        let found = listeners.get(&0, 0).map_err(error)?.0;
        drop(listeners);
        let mut records = pod::records(&written);
        if found.last != ListenerRecord::default() {
            records.push(found.last);
        }
        Ok((found, records))
    }

    /// Runs a walk to its end; what the program writes to its reader is added to `written`.
    pub(super) fn run(
        &self,
        name: &'static str,
        on_interruption: OnEagain,
        written: &mut Vec<u8>,
    ) -> Result<(), BpfError> {
        let error = |why| BpfError::Program { name, why };
        let mut file = {
            let mut ebpf = lock(&self.ebpf);
            let program: &mut Iter = ebpf
                .program_mut(name)
                .ok_or(BpfError::Missing(name))?
                .try_into()
                .map_err(error)?;
            let link = program.attach().map_err(error)?;
            let link = program.take_link(link).map_err(error)?;
            link.into_file()
                .map_err(|source| error(link_error(source)))?
        };
        read(&mut file, on_interruption, written).map_err(|why| error(ProgramError::IOError(why)))
    }
}

/// Reads an iterator to its end.
pub(super) fn read(
    file: &mut File,
    on_interruption: OnEagain,
    written: &mut Vec<u8>,
) -> io::Result<()> {
    let mut buffer = vec![0; on_interruption.room()];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => written.extend_from_slice(&buffer[..count]),
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => match on_interruption {
                OnEagain::Retry => {}
                OnEagain::Stop => return Ok(()),
            },
            Err(why) => return Err(why),
        }
    }
}

/// What EAGAIN means: the kernel hands it out after a million entries, for the reader to come
/// back, and when a program ends the walk.
#[derive(Clone, Copy)]
pub(super) enum OnEagain {
    Retry,
    Stop,
}

impl OnEagain {
    /// Bytes for what the program writes: a walk over all sockets writes one when it is to be
    /// interrupted, which it is when the reader has no more room.
    const fn room(self) -> usize {
        match self {
            Self::Retry => 1,
            Self::Stop => 4096,
        }
    }
}

fn link_error(source: LinkError) -> ProgramError {
    ProgramError::IOError(io::Error::other(source))
}
