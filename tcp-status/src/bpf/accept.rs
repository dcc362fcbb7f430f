//! Time in accept queues: the program at the exit of `inet_csk_accept()`, and what it counted.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Mutex, OnceLock},
};

use aya::{
    Btf, Ebpf,
    maps::{HashMap, MapData, MapError},
    programs::FExit,
};
use tcp_status_common::accept::{AcceptTimes, OTHER_PORT};

use super::{
    error::{BpfError, ignore_enoent},
    namespaces::ONLY_NEW,
    object::{lock, map, program},
    pod::PodWrapper,
    timewait,
};
use crate::kernel::accept::{ACCEPT, AcceptForm};

/// The map, by port.
pub(super) const ACCEPT_TIMES: &str = "ACCEPT_TIMES";

/// The loaded program, its map, and its link once it is attached.
pub(super) struct AcceptProgram {
    name: &'static str,
    program: OwnedFd,
    link: OnceLock<OwnedFd>,
    times: Mutex<HashMap<MapData, u32, PodWrapper<AcceptTimes>>>,
}

impl AcceptProgram {
    /// For a function of this `form`.
    pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf, form: AcceptForm) -> Result<Self, BpfError> {
        let name = match form {
            AcceptForm::Argument => "accept_exit",
            AcceptForm::Flags => "accept_exit_with_flags",
        };
        let loading: &mut FExit = program(ebpf, name)?;
        let program = loading
            .load(ACCEPT, btf)
            .and_then(|()| Ok(loading.fd()?.as_fd().try_clone_to_owned()?))
            .map_err(|why| BpfError::Program { name, why })?;
        let mut times: HashMap<_, _, _> = map(ebpf, ACCEPT_TIMES)?;
        times
            .insert(OTHER_PORT, PodWrapper(AcceptTimes::NONE), ONLY_NEW)
            .map_err(error)?;
        Ok(Self {
            name,
            program,
            link: OnceLock::new(),
            times: Mutex::new(times),
        })
    }

    pub(super) fn attach(&self) -> Result<(), BpfError> {
        let link = timewait::attach(&self.program).map_err(|error| BpfError::Program {
            name: self.name,
            why: error.into(),
        })?;
        self.link.get_or_init(|| link);
        Ok(())
    }

    pub(super) fn times(&self) -> Result<BTreeMap<u32, AcceptTimes>, BpfError> {
        let times = lock(&self.times);
        let entries = times.iter().map(|entry| {
            let (port, PodWrapper(times)) = entry?;
            Ok((port, times))
        });
        entries.collect::<Result<_, _>>().map_err(error)
    }

    pub(super) fn forget(&self, gone: impl Fn(u32) -> bool) -> Result<(), BpfError> {
        let ports = self.times()?.into_keys();
        for port in ports.filter(|&port| port != OTHER_PORT && gone(port)) {
            ignore_enoent(lock(&self.times).remove(&port)).map_err(error)?;
        }
        Ok(())
    }
}

fn error(source: MapError) -> BpfError {
    BpfError::Map {
        name: ACCEPT_TIMES,
        source,
    }
}
