//! From a plan to running programs.

use std::{
    error::Error,
    fs, io,
    iter::successors,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Mutex, RwLock},
};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError, PerCpuArray, Queue, RingBuf},
    programs::{BtfTracePoint, Iter, ProgramError},
};
use aya_log::EbpfLogger;
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_HASH;
use tcp_status_common::{
    control::{Control, Mode, SecondaryBanks as OtherNamespaces, TASK_SLOTS},
    counters::{
        FailureTotals, ListenerWalk, NetnsId, OWN_NETNS, PerCpu, PortGauges, PortKey, PortPage,
        SecondaryBanks, WalkTotals,
    },
    kernel_layout::KernelLayout,
};

use super::{
    closed_listeners::Closed,
    counters::{EmptiedOthers, EmptiedOwn, FAILURES},
    namespaces::Namespaces,
    pod::PodWrapper,
    table::Lister,
    timewait::{self, TimewaitPrograms},
};

/// Built by `cargo xtask build`; a test ties it to its sources.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/tcp-status.bpf.o"));

/// The sockets that a seeding has counted.
pub(super) type Seen = HashMap<MapData, u64, u32>;

/// The programs that see state changes, in the order in which they must be attached.
pub(super) const CONTROL: &str = ".bss.control";
const HANDLERS: [&str; 2] = ["set_state_first", "set_state_second"];
pub(super) const WALK_SOCKETS: &str = "walk_sockets";
pub(super) const WALK_LISTENERS: &str = "walk_listeners";
pub(super) const READ_CLOSED: &str = "read_closed_listeners";
pub(super) const CHECK_NAMESPACES: &str = "check_namespaces";
pub(super) const LIST_TABLES: &str = "list_tables";
/// The programs of iterators, each with what it iterates over.
const WALKS: [(&str, &str); 4] = [
    (WALK_SOCKETS, "tcp"),
    (WALK_LISTENERS, "tcp"),
    (READ_CLOSED, "bpf_map"),
    (CHECK_NAMESPACES, "bpf_map"),
];

/// The kernel refused a part of the programs, or the object is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// Maps or read-only data.
    #[error("cannot load the eBPF object: {}", error_chain(.0))]
    Object(#[from] EbpfError),
    /// A program that follows timewait minisockets; everything else can do without it.
    #[error(
        "cannot attach to {function}: {}; TIME_WAIT and FIN_WAIT2 are separated by a filtered walk",
        verifier_summary(source)
    )]
    Timewait {
        /// The function of the kernel.
        function: &'static str,
        /// What the kernel said.
        source: ProgramError,
    },
    /// Any other program.
    #[error(
        "cannot load eBPF program {name}: {}{}",
        verifier_summary(why),
        hint(why)
    )]
    Program {
        /// The program.
        name: &'static str,
        /// What the kernel said: no source, for that would be thousands of lines.
        why: ProgramError,
    },
    /// A map.
    #[error("cannot use eBPF map {name}: {}", error_chain(source))]
    Map {
        /// The map.
        name: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// The object has no such part.
    #[error("cannot load {0}: not in the eBPF object; rebuild it with cargo xtask build")]
    Missing(&'static str),
}

/// Which namespaces an operation concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The tracker's own.
    Own,
    /// All that are counted.
    All,
}

impl Scope {
    /// Whether it includes a namespace.
    #[must_use]
    pub const fn includes(self, netns: NetnsId) -> bool {
        matches!(self, Self::All) || netns == OWN_NETNS
    }
}

/// How much is kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLimits {
    /// Local ports that have or had a listener; what does not fit is counted together.
    pub ports: u32,
    /// Namespaces beside the own one.
    pub namespaces: u32,
}

/// Slots of the ports.
type PortSlots = HashMap<MapData, PodWrapper<PortKey>, u32>;

/// Connections by local port, read without a lock.
pub(super) struct Ports {
    pub(super) slots: PortSlots,
    pub(super) gauges: PerCpuArray<MapData, PodWrapper<PortGauges>>,
}

/// The same maps, and what else changes with them.
pub(super) struct PortWriter {
    pub(super) slots: PortSlots,
    pub(super) gauges: PerCpuArray<MapData, PodWrapper<PortGauges>>,
    /// Slots of the own namespace's ports, by bank and port.
    pub(super) pages: [Array<MapData, PodWrapper<PortPage>>; 2],
    /// Slots that are free, by bank.
    pub(super) free: [Queue<MapData, u32>; 2],
    /// Slots that no port has, but that could not be entered as free yet.
    pub(super) pending_free: [Vec<u32>; 2],
}

/// The map of seen sockets.
pub(super) struct SeenSlot {
    pub(super) map: ArrayOfMaps<MapData, Seen>,
    /// The smallest map, which stands for none: it is there already, so that giving memory back
    /// needs none.
    pub(super) none: Seen,
}

/// What the programs are told.
pub(super) struct ControlState {
    pub(super) map: Array<MapData, PodWrapper<Control>>,
    pub(super) mode: Mode,
    /// The next event is to wake the sampler.
    pub(super) armed: bool,
    /// The banks that count timewait minisockets of the tracker's own namespace.
    pub(super) timewait: [bool; 2],
    /// Where events of other namespaces are counted.
    pub(super) others: OtherNamespaces,
}

/// The running programs and their maps. Everything goes when this is dropped.
pub struct Bpf {
    pub(super) ebpf: Mutex<Ebpf>,
    pub(super) control: Mutex<ControlState>,
    pub(super) timewait: TimewaitPrograms,
    pub(super) wake: Mutex<RingBuf<MapData>>,
    pub(super) counters: PerCpuArray<MapData, PodWrapper<SecondaryBanks>>,
    /// What each bank had counted of the tracker's own namespace when it was emptied last.
    pub(super) baseline: [RwLock<EmptiedOwn>; 2],
    /// What each bank had counted of other namespaces when it was emptied last.
    pub(super) emptied_others: [RwLock<EmptiedOthers>; 2],
    pub(super) cpus: PerCpuArray<MapData, PodWrapper<PerCpu>>,
    pub(super) failures: Array<MapData, PodWrapper<FailureTotals>>,
    pub(super) walked: Mutex<PerCpuArray<MapData, PodWrapper<WalkTotals>>>,
    pub(super) listeners: Mutex<Array<MapData, PodWrapper<ListenerWalk>>>,
    pub(super) closed: Mutex<Closed>,
    pub(super) seen: Mutex<SeenSlot>,
    pub(super) namespaces: Mutex<Namespaces>,
    /// None where only one namespace is counted, or where the tables cannot be listed.
    pub(super) lister: Option<Mutex<Lister>>,
    pub(super) ports: Ports,
    pub(super) port_writer: Mutex<PortWriter>,
    logger: Option<Mutex<EbpfLogger<&'static dyn log::Log>>>,
    pub(super) inode: u32,
    pub(super) limits: MapLimits,
}

impl Bpf {
    /// Loads everything, and attaches all but the programs that follow timewait minisockets:
    /// [`Bpf::attach_timewait`]. Nothing is counted before [`Bpf::set_mode`].
    /// `inode` is that of the tracker's own namespace.
    ///
    /// # Errors
    /// If the kernel refuses any part.
    pub fn load(
        layout: &KernelLayout,
        btf: &Btf,
        iterator: bool,
        inode: u32,
        limits: MapLimits,
    ) -> Result<Self, BpfError> {
        let layout = PodWrapper(*layout);
        // One slot more, for the ports that have none.
        let slots = limits.ports + 1;
        // Where no task can be moved between two copies, none leaves a mark of its own.
        let by_task = layout.0.two_copies == 1
            && (layout.0.per_task_tokens == 1 || layout.0.timewait_events == 1);
        let segments_by_task =
            layout.0.timewait_events == 1 && layout.0.bottom_halves_preemptible == 1;
        let mut ebpf = EbpfLoader::new()
            .btf(Some(btf))
            .override_global("KERNEL_LAYOUT", &layout, true)
            .map_max_entries("TASK_TOKENS", if by_task { TASK_SLOTS } else { 1 })
            .map_max_entries(
                "TASK_SEGMENTS",
                if segments_by_task { TASK_SLOTS } else { 1 },
            )
            .map_max_entries("PORT_GAUGES", slots * 2)
            .map_max_entries("FREE_PORTS_0", slots)
            .map_max_entries("FREE_PORTS_1", slots)
            // One more, for those that have no room.
            .map_max_entries("NAMESPACES", limits.namespaces.max(1) + 1)
            .map_max_entries("LISTED", 2 * limits.namespaces.max(1) + 64)
            .load(OBJECT)?;
        let copies = if layout.0.two_copies == 1 { 2 } else { 1 };
        // First: where the kernel refuses these, everything is loaded again without them.
        let timewait = if layout.0.timewait_events == 1 {
            TimewaitPrograms::load(&mut ebpf, btf, copies)?
        } else {
            TimewaitPrograms::default()
        };
        for name in HANDLERS.into_iter().take(copies) {
            let program: &mut BtfTracePoint = program(&mut ebpf, name)?;
            program
                .load("inet_sock_set_state", btf)
                .and_then(|()| program.attach())
                .map_err(|why| BpfError::Program { name, why })?;
        }
        if iterator {
            for (name, of) in WALKS {
                let program: &mut Iter = program(&mut ebpf, name)?;
                program
                    .load(of, btf)
                    .map_err(|why| BpfError::Program { name, why })?;
            }
        }
        let lister = lister(&mut ebpf, btf, iterator, &layout.0)?;
        let logger = EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| log::warn!(error:%; "cannot read the log of the eBPF programs"))
            .ok();
        let [slots, read_slots] = handles(&mut ebpf, "PORTS")?;
        let [gauges, read_gauges] = handles(&mut ebpf, "PORT_GAUGES")?;
        let bpf = Self {
            control: Mutex::new(ControlState {
                map: map(&mut ebpf, CONTROL)?,
                mode: Mode::OFF,
                armed: false,
                timewait: [false; 2],
                others: OtherNamespaces::default(),
            }),
            timewait,
            wake: Mutex::new(map(&mut ebpf, "WAKE")?),
            counters: map(&mut ebpf, "SECONDARY_BANKS")?,
            baseline: Default::default(),
            emptied_others: Default::default(),
            cpus: map(&mut ebpf, "PER_CPU")?,
            failures: map(&mut ebpf, FAILURES)?,
            walked: Mutex::new(map(&mut ebpf, "WALK_TOTALS")?),
            listeners: Mutex::new(map(&mut ebpf, "LISTENER_WALK")?),
            closed: Mutex::new(Closed::new(&mut ebpf)?),
            seen: Mutex::new(SeenSlot {
                map: map(&mut ebpf, "SEEN")?,
                none: new_seen(1)?,
            }),
            namespaces: Mutex::new(Namespaces::new(&mut ebpf)?),
            lister,
            ports: Ports {
                slots: read_slots,
                gauges: read_gauges,
            },
            port_writer: Mutex::new(PortWriter {
                slots,
                gauges,
                pages: [
                    map(&mut ebpf, ".bss.ports.0")?,
                    map(&mut ebpf, ".bss.ports.1")?,
                ],
                free: [
                    map(&mut ebpf, "FREE_PORTS_0")?,
                    map(&mut ebpf, "FREE_PORTS_1")?,
                ],
                pending_free: Default::default(),
            }),
            limits,
            logger: logger.map(Mutex::new),
            ebpf: Mutex::new(ebpf),
            inode,
        };
        bpf.init_port_slots()?;
        Ok(bpf)
    }

    /// How often the kernel skipped the first copy of the handler, and the programs that are
    /// attached only once, since they were loaded: 0 where the kernel does not skip.
    ///
    /// # Errors
    /// If the kernel does not report it.
    pub fn skipped(&self) -> io::Result<u64> {
        let ebpf = lock(&self.ebpf);
        let once = timewait::attached_once();
        let mut skipped = 0;
        for name in once.chain([HANDLERS[0]]) {
            // In the reduced tier some are not loaded.
            if let Some(Ok(fd)) = ebpf.program(name).map(|program| program.fd()) {
                let file = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
                skipped += recursion_misses(&fs::read_to_string(file)?);
            }
        }
        Ok(skipped)
    }

    /// Hands what the programs logged to the logger.
    pub fn flush_log(&self) {
        if let Some(logger) = &self.logger {
            lock(logger).flush();
        }
    }
}

/// What lists the kernel's socket tables; none where nothing needs it, or the kernel refuses its
/// program.
fn lister(
    ebpf: &mut Ebpf,
    btf: &Btf,
    iterator: bool,
    layout: &KernelLayout,
) -> Result<Option<Mutex<Lister>>, BpfError> {
    if !iterator || layout.all_namespaces == 0 || layout.lists_tables == 0 {
        return Ok(None);
    }
    let program: &mut Iter = program(ebpf, LIST_TABLES)?;
    if let Err(error) = program.load("bpf_map", btf) {
        log::warn!(error = verifier_summary(&error).as_str();
            "cannot list the kernel's socket tables: audits walk every network namespace");
        return Ok(None);
    }
    Ok(Some(Mutex::new(Lister::new(ebpf)?)))
}

/// An error with its causes, each once, for libraries repeat some; and what to do, where the
/// kernel's number says so.
fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut hint = None;
    for cause in successors(error.source(), |&cause| cause.source()) {
        let more = cause.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        let errno = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error);
        hint = hint.or(match errno {
            Some(libc::EMFILE | libc::ENFILE) => Some("; raise the limit of open files"),
            Some(libc::ENOMEM | libc::ENOSPC | libc::E2BIG) => {
                Some("; give it more memory, or lower --max-ports and --max-namespaces")
            }
            Some(libc::EPERM | libc::EACCES) => {
                Some("; run as root or with CAP_BPF and CAP_PERFMON")
            }
            _ => None,
        });
    }
    text + hint.unwrap_or_default()
}

/// The verifier's log is thousands of lines, of which the last but the statistics says why.
fn verifier_summary(error: &ProgramError) -> String {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return error_chain(error);
    };
    let log = verifier_log.to_string();
    let statistics = ["processed ", "verification time ", "stack depth "];
    let mut lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
    match lines.rfind(|line| !statistics.iter().any(|start| line.starts_with(start))) {
        Some(why) => format!("{io_error} ({why})"),
        None => io_error.to_string(),
    }
}

fn hint(error: &ProgramError) -> &'static str {
    match error {
        ProgramError::LoadError { io_error, .. } => match io_error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => "; raise the limit of open files",
            _ => "; run as root or with CAP_BPF and CAP_PERFMON",
        },
        _ => "",
    }
}

/// Removing what is not there is no failure.
pub(super) fn ignore_enoent(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        result => result,
    }
}

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
fn handles<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<[M; 2], BpfError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let error = |source| BpfError::Map { name, source };
    let map = ebpf.take_map(name).ok_or(BpfError::Missing(name))?;
    let (Map::HashMap(data) | Map::PerCpuArray(data)) = &map else {
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

/// A map of seen sockets with room for `capacity`.
pub(super) fn new_seen(capacity: u32) -> Result<Seen, BpfError> {
    // Key u64, value u32.
    let definition = aya_obj::Map::new_from_params(BPF_MAP_TYPE_HASH as u32, 8, 4, capacity, 0);
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

/// The line that `bpf_prog_show_fdinfo` prints from 5.12 on.
fn recursion_misses(fdinfo: &str) -> u64 {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// What `/proc` says of a program.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(bytes: &[u8]) {
    recursion_misses(&String::from_utf8_lossy(bytes));
}

#[cfg(test)]
mod tests {
    use super::recursion_misses;

    #[test]
    fn skipped_events_are_read_from_fdinfo() {
        assert_eq!(
            recursion_misses("prog_id:\t7\nrecursion_misses:\t291\n"),
            291
        );
        assert_eq!(recursion_misses("prog_id:\t7\n"), 0);
    }
}
