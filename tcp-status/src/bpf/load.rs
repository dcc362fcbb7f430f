//! From a plan to running programs.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Mutex, OnceLock, RwLock},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, ArrayOfMaps, HashMap, MapData, RingBuf},
    programs::{BtfTracePoint, Iter},
};
use aya_log::EbpfLogger;
use tcp_status_common::{
    accept::AcceptLayout,
    control::{Control, Mode, OtherNamespaces, TASK_SLOTS},
    counters::{FailureTotals, ListenerWalk, NetnsId, OWN_NETNS, WalkTotals},
    kernel_layout::KernelLayout,
    no_local_port::{Destination, NoLocalPort},
    per_cpu::Shards,
    table::LISTED_PORTS_AT_ONCE,
};

use super::{
    accept::{ACCEPT_TIMES, AcceptProgram},
    cgroup_slots::{self, Cgroups},
    closed_listeners::Closed,
    counters::{EmptiedOthers, EmptiedOwn, FAILURES},
    error::{BpfError, verifier_summary},
    memory::{online_cpus, possible_cpus},
    namespaces::Namespaces,
    object::{
        CHECK_NAMESPACES, CONTROL, LIST_LISTENERS, LIST_TABLES, READ_CLOSED, Seen, WALK_LISTENERS,
        WALK_SOCKETS, lock, map, new_seen, program,
    },
    own_counters::{OwnCounters, PER_CPU, SECONDARY_BANKS},
    pod::PodWrapper,
    port_slots::{self, Ports},
    slots,
    table::Lister,
    timewait::{self, TimewaitPrograms},
};

/// Built by `cargo xtask build`; a test ties it to its sources.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/tcp-status.bpf.o"));

/// The programs that see state changes, in the order in which they must be attached.
const HANDLERS: [&str; 2] = ["set_state_first", "set_state_second"];
/// The programs of iterators, each with what it iterates over.
const WALKS: [(&str, &str); 4] = [
    (WALK_SOCKETS, "tcp"),
    (WALK_LISTENERS, "tcp"),
    (READ_CLOSED, "bpf_map"),
    (CHECK_NAMESPACES, "bpf_map"),
];

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
    /// Cgroups that have sockets; what does not fit is counted together. 0 counts no socket by cgroup.
    pub cgroups: u32,
}

/// Destinations of connects that failed for want of a local port.
pub(super) const NO_LOCAL_PORT: &str = "NO_LOCAL_PORT";
pub(super) type Destinations = HashMap<MapData, PodWrapper<Destination>, PodWrapper<NoLocalPort>>;

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
    /// Once it is loaded.
    pub(super) accept: OnceLock<AcceptProgram>,
    pub(super) wake: Mutex<RingBuf<MapData>>,
    pub(super) own: OwnCounters,
    /// What each bank had counted of the tracker's own namespace when it was emptied last.
    pub(super) baseline: [RwLock<EmptiedOwn>; 2],
    /// What each bank had counted of other namespaces when it was emptied last.
    pub(super) emptied_others: [RwLock<EmptiedOthers>; 2],
    pub(super) failures: Array<MapData, PodWrapper<FailureTotals>>,
    pub(super) walked: Mutex<Array<MapData, PodWrapper<WalkTotals>>>,
    pub(super) listeners: Mutex<Array<MapData, PodWrapper<ListenerWalk>>>,
    pub(super) closed: Mutex<Closed>,
    pub(super) seen: Mutex<SeenSlot>,
    pub(super) destinations: Mutex<Destinations>,
    pub(super) namespaces: Mutex<Namespaces>,
    /// None where only one namespace is counted, or where the tables cannot be listed.
    pub(super) lister: Option<Mutex<Lister>>,
    pub(super) ports: Ports,
    pub(super) cgroups: Cgroups,
    logger: Option<Mutex<EbpfLogger<&'static dyn log::Log>>>,
    pub(super) inode: u32,
}

impl Bpf {
    /// Loads everything, and attaches all but the programs that follow timewait minisockets:
    /// [`Bpf::attach_timewait`]. Nothing is counted before [`Bpf::set_mode`].
    /// `inode` is that of the tracker's own namespace, `accept` for [`Bpf::load_accept`].
    ///
    /// # Errors
    /// If the kernel refuses any part.
    pub fn load(
        layout: &KernelLayout,
        btf: &Btf,
        iterator: bool,
        inode: u32,
        limits: MapLimits,
        accept: Option<AcceptLayout>,
    ) -> Result<Self, BpfError> {
        let layout = PodWrapper(*layout);
        let cpus = possible_cpus()?;
        let shards = PodWrapper(Shards {
            own: online_cpus()?,
            // One slot more, for those that have none.
            ports: limits.ports + 1,
            cgroups: cgroup_slots(&layout.0, limits) + 1,
        });
        let mut ebpf = open(&layout, &shards, btf, (limits, accept), cpus)?;
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
            load_walks(&mut ebpf, btf, &layout.0)?;
        }
        let lister = lister(&mut ebpf, btf, iterator, &layout.0)?;
        let logger = EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| log::warn!(error:%; "cannot read the log of the eBPF programs"))
            .ok();
        Ok(Self {
            control: Mutex::new(ControlState {
                map: map(&mut ebpf, CONTROL)?,
                mode: Mode::OFF,
                armed: false,
                timewait: [false; 2],
                others: OtherNamespaces::default(),
            }),
            timewait,
            accept: OnceLock::new(),
            wake: Mutex::new(map(&mut ebpf, "WAKE")?),
            own: OwnCounters::map(&ebpf, cpus)?,
            baseline: Default::default(),
            emptied_others: Default::default(),
            failures: map(&mut ebpf, FAILURES)?,
            walked: Mutex::new(map(&mut ebpf, "WALK_TOTALS")?),
            listeners: Mutex::new(map(&mut ebpf, "LISTENER_WALK")?),
            closed: Mutex::new(Closed::new(&mut ebpf)?),
            seen: Mutex::new(SeenSlot {
                map: map(&mut ebpf, "SEEN")?,
                none: new_seen(1)?,
            }),
            destinations: Mutex::new(map(&mut ebpf, NO_LOCAL_PORT)?),
            namespaces: Mutex::new(Namespaces::new(&mut ebpf)?),
            lister,
            ports: Ports::new(
                &mut ebpf,
                slots::size(shards.0.ports, port_slots::ENTRIES, &shards.0),
                layout.0.all_namespaces == 1,
            )?,
            cgroups: Cgroups::new(&mut ebpf, &shards.0)?,
            logger: logger.map(Mutex::new),
            ebpf: Mutex::new(ebpf),
            inode,
        })
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

/// Loads the programs of iterators that are needed.
fn load_walks(ebpf: &mut Ebpf, btf: &Btf, layout: &KernelLayout) -> Result<(), BpfError> {
    let needed = |&(name, _): &_| name != CHECK_NAMESPACES || layout.all_namespaces == 1;
    for (name, of) in WALKS.into_iter().filter(needed) {
        let program: &mut Iter = program(ebpf, name)?;
        program
            .load(of, btf)
            .map_err(|why| BpfError::Program { name, why })?;
    }
    Ok(())
}

/// The object, with room in its maps for what is kept apart.
fn open<'a>(
    layout: &'a PodWrapper<KernelLayout>,
    shards: &'a PodWrapper<Shards>,
    btf: &'a Btf,
    (limits, accept): (MapLimits, Option<AcceptLayout>),
    cpus: u32,
) -> Result<Ebpf, BpfError> {
    let accept_ports = if accept.is_some() {
        limits.ports + 1
    } else {
        1
    };
    let accept = PodWrapper(accept.unwrap_or(AcceptLayout::NONE));
    let slots = shards.0.ports;
    // Where no task can be moved between two copies, none leaves a mark of its own.
    let by_task = layout.0.two_copies == 1
        && (layout.0.per_task_tokens == 1 || layout.0.timewait_events == 1);
    let segments_by_task = layout.0.timewait_events == 1 && layout.0.bottom_halves_preemptible == 1;
    let mut loader = EbpfLoader::new();
    let port_sizes = slots::size(slots, port_slots::ENTRIES, &shards.0);
    port_slots::NAMES.set_sizes(&mut loader, port_sizes);
    cgroup_slots::set_sizes(&mut loader, &shards.0, layout.0.all_namespaces == 1);
    loader
        .btf(Some(btf))
        .override_global("KERNEL_LAYOUT", layout, true)
        .override_global("SHARDS", shards, true)
        .override_global("ACCEPT_LAYOUT", &accept, true)
        .map_max_entries(ACCEPT_TIMES, accept_ports)
        .map_max_entries("TASK_TOKENS", if by_task { TASK_SLOTS } else { 1 })
        .map_max_entries(
            "TASK_SEGMENTS",
            if segments_by_task { TASK_SLOTS } else { 1 },
        )
        .map_max_entries(PER_CPU, cpus)
        .map_max_entries(SECONDARY_BANKS, 2 * cpus)
        // One more, for those that have no room.
        .map_max_entries("NAMESPACES", limits.namespaces.max(1) + 1)
        .map_max_entries("LISTED", 2 * limits.namespaces.max(1) + 64)
        .map_max_entries("LISTED_PORTS", slots.max(LISTED_PORTS_AT_ONCE))
        .load(OBJECT)
        .map_err(BpfError::from)
}

/// How many cgroups are kept apart; 0 where they are not counted.
const fn cgroup_slots(layout: &KernelLayout, limits: MapLimits) -> u32 {
    if layout.counts_cgroups == 1 {
        limits.cgroups
    } else {
        0
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
    for name in [LIST_TABLES, LIST_LISTENERS] {
        let program: &mut Iter = program(ebpf, name)?;
        if let Err(error) = program.load("bpf_map", btf) {
            log::warn!(error = verifier_summary(&error).as_str();
                "cannot list the kernel's socket tables: audits walk every network namespace");
            return Ok(None);
        }
    }
    Ok(Some(Mutex::new(Lister::new(ebpf)?)))
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
