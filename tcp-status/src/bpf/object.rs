//! Maps and programs of the object, by name.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::Mutex,
};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, MapError},
    programs::ProgramError,
};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_HASH;

use super::error::BpfError;

pub(super) const CONTROL: &str = ".bss.control";
pub(super) const WALK_SOCKETS: &str = "walk_sockets";
pub(super) const WALK_LISTENERS: &str = "walk_listeners";
pub(super) const READ_CLOSED: &str = "read_closed_listeners";
pub(super) const CHECK_NAMESPACES: &str = "check_namespaces";
pub(super) const LIST_TABLES: &str = "list_tables";
pub(super) const LIST_LISTENERS: &str = "list_listeners";

/// The sockets that a seeding has counted.
pub(super) type Seen = HashMap<MapData, u64, u64>;

/// Why no lock is poisoned.
pub(super) const POISONED: &str = "a panic ends the process";

/// Locks what nobody left half-done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect(POISONED)
}

pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, BpfError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(BpfError::Missing(name))?
        .try_into()
        .map_err(|why| BpfError::Program { name, why })
}

pub(super) fn map<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, BpfError>
where
    M: TryFrom<Map, Error = MapError>,
{
    M::try_from(ebpf.take_map(name).ok_or(BpfError::Missing(name))?)
        .map_err(|source| BpfError::Map { name, source })
}

/// Two handles of a map: one to read, which waits for no writer.
pub(super) fn handles<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<[M; 2], BpfError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let error = |source| BpfError::Map { name, source };
    let map = ebpf.take_map(name).ok_or(BpfError::Missing(name))?;
    let Map::HashMap(data) = &map else {
        return Err(BpfError::Missing(name));
    };
    let file = data.fd().as_fd().try_clone_to_owned();
    let other = file
        .map_err(MapError::IoError)
        .and_then(MapData::from_fd)
        .and_then(Map::from_map_data)
        .map_err(error)?;
    Ok([
        M::try_from(map).map_err(error)?,
        M::try_from(other).map_err(error)?,
    ])
}

/// A descriptor of a map, for what aya has no call for.
pub(super) fn descriptor(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, BpfError> {
    let Some(Map::HashMap(data) | Map::Array(data)) = ebpf.map(name) else {
        return Err(BpfError::Missing(name));
    };
    let file = data.fd().as_fd().try_clone_to_owned();
    file.map_err(|error| BpfError::Map {
        name,
        source: MapError::IoError(error),
    })
}

/// A map of seen sockets with room for `capacity`.
pub(super) fn new_seen(capacity: u32) -> Result<Seen, BpfError> {
    // Key u64, value u64.
    let definition = aya_obj::Map::new_from_params(BPF_MAP_TYPE_HASH as u32, 8, 8, capacity, 0);
    MapData::create(definition, "seen", None)
        .and_then(|data| HashMap::try_from(Map::HashMap(data)))
        .map_err(seen_error)
}

pub(super) const fn seen_error(source: MapError) -> BpfError {
    BpfError::Map {
        name: "SEEN",
        source,
    }
}
