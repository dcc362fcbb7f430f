//! The walks: the kernel runs a program on each entry of the opener's network namespace while
//! an iterator's file is read. The programs add up in maps; the file itself stays empty.

use std::io::{self, Read as _};

use aya::{
    maps::{HashMap, Map, MapData},
    programs::{Iter, ProgramError, links::LinkError},
};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_HASH;
use tcp_status_common::counters::{Listeners, Walked};

use super::{
    Bpf, LoadError,
    counters::per_cpu,
    load::{Seen, WALK_LISTENERS, WALK_SOCKETS, lock},
    record::Record,
};

impl Bpf {
    /// Makes room for `capacity` sockets to be seen by the seeding that follows; 0 gives the
    /// memory back.
    ///
    /// # Errors
    /// If the kernel has no memory for it.
    pub fn remember(&self, capacity: u32) -> Result<(), LoadError> {
        let error = |source| LoadError::Map {
            name: "SEEN",
            source,
        };
        // Key u64, value u32. A slot of an array of maps cannot be emptied through aya: the smallest map stands for none.
        let definition =
            aya_obj::Map::new_from_params(BPF_MAP_TYPE_HASH as u32, 8, 4, capacity.max(1), 0);
        let data = MapData::create(definition, "seen", None).map_err(error)?;
        let seen: Seen = HashMap::try_from(Map::HashMap(data)).map_err(error)?;
        lock(&self.seen).set(0, &seen, 0).map_err(error)
    }

    /// Visits every entry once; blocks for about a microsecond per socket.
    ///
    /// # Errors
    /// If the kernel refuses the walk.
    pub fn walk_sockets(&self) -> Result<Walked, LoadError> {
        let error = |source| LoadError::Map {
            name: "WALKED",
            source,
        };
        let mut walked = lock(&self.walked);
        let zeros = per_cpu(Record(Walked::default())).map_err(error)?;
        walked.set(0, zeros, 0).map_err(error)?;
        self.run(WALK_SOCKETS, OnInterruption::GoOn)?;
        let per_cpu = walked.get(&0, 0).map_err(error)?;
        Ok(per_cpu
            .iter()
            .fold(Walked::default(), |sum, cpu| sum.plus(&cpu.0)))
    }

    /// Visits the listeners, of which there should be `expected`.
    ///
    /// # Errors
    /// If the kernel refuses the walk.
    pub fn walk_listeners(&self, expected: u64) -> Result<Listeners, LoadError> {
        let error = |source| LoadError::Map {
            name: "LISTENERS",
            source,
        };
        let mut listeners = lock(&self.listeners);
        let empty = Listeners {
            expected,
            ..Listeners::default()
        };
        listeners.set(0, Record(empty), 0).map_err(error)?;
        if expected > 0 {
            self.run(WALK_LISTENERS, OnInterruption::End)?;
        }
        Ok(listeners.get(&0, 0).map_err(error)?.0)
    }

    fn run(&self, name: &'static str, on_interruption: OnInterruption) -> Result<(), LoadError> {
        let error = |source| LoadError::Program { name, source };
        let mut file = {
            let mut ebpf = lock(&self.ebpf);
            let program: &mut Iter = ebpf
                .program_mut(name)
                .ok_or(LoadError::Missing(name))?
                .try_into()
                .map_err(error)?;
            let link = program.attach().map_err(error)?;
            let link = program.take_link(link).map_err(error)?;
            link.into_file()
                .map_err(|source| error(link_error(source)))?
        };
        let mut unused = [0; 64];
        loop {
            match file.read(&mut unused) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => match on_interruption {
                    OnInterruption::GoOn => {}
                    OnInterruption::End => return Ok(()),
                },
                Err(why) => return Err(error(ProgramError::IOError(why))),
            }
        }
    }
}

/// What EAGAIN means: the kernel hands it out after a million entries, for the reader to come
/// back, and when a program ends the walk.
#[derive(Clone, Copy)]
enum OnInterruption {
    GoOn,
    End,
}

fn link_error(source: LinkError) -> ProgramError {
    ProgramError::IOError(io::Error::other(source))
}
