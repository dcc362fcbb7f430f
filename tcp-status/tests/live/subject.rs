//! The tracker under test, in the calling thread's network namespace, beside the oracle.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use aya::Btf;
use tcp_status::{
    bpf::MapLimits,
    kernel::{
        facts::Facts,
        plan::{Backend, BackendPlan, EbpfPlan},
    },
    serve::{Source as _, protocol::Show},
    snapshot::Snapshot,
    track::{Auditor, Pace, Sampler, Settings, Tracker},
};
use tcp_status_common::state::{Family, State};
use tcp_status_testkit::{
    netns::{Netns, set_sysctl},
    oracle::{Counts, Table, st},
    skip_unprepared,
};

/// How long the kernel's listing may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(60);

/// Programs of the host that are interrupted keep events from ours: tests that make many take
/// turns, so that one does not disturb the other more than a host would.
static TURN: RwLock<()> = RwLock::new(());

pub fn turn() -> RwLockWriteGuard<'static, ()> {
    TURN.write().unwrap_or_else(PoisonError::into_inner)
}

/// For tests that make few events, and in which audits must find nothing: beside each other, but
/// not beside one that takes a turn.
pub fn quiet() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(PoisonError::into_inner)
}

/// Where corrections of audits are told in full, as a user would see them.
static LOG: LazyLock<()> = LazyLock::new(|| {
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .target(env_logger::Target::Stdout)
        .write_style(env_logger::WriteStyle::Never)
        .init();
});

/// Whether this is a machine of `cargo xtask vm`. Emulated, all takes ten times as long there, and
/// what the same code does natively need not be repeated as often.
pub fn is_virtual() -> bool {
    std::env::var_os("TCP_STATUS_OWN_MACHINE").is_some()
}

/// How often a tracker was attached or detached by any test so far.
static ATTACHMENTS: AtomicU64 = AtomicU64::new(0);

/// As [`ATTACHMENTS`]: with each, the kernel replaces the trampolines of the functions that
/// trackers watch, and keeps the end of a call that is going on from every tracker
/// (`bpf_tramp_image_put()`).
pub fn attachments() -> u64 {
    ATTACHMENTS.load(Ordering::Relaxed)
}

/// The host. It takes a second where nothing is optimised, and does not change.
static HOST: LazyLock<(Facts, Option<Btf>)> = LazyLock::new(Facts::probe);

/// Where the test runs, if this process may load eBPF; else it says why not.
pub fn place() -> Option<Netns> {
    let netns = Netns::for_test()?;
    match BackendPlan::from_facts(&HOST.0, Backend::Ebpf) {
        // Few enough for the oracle, which reads line by line, to see the same listing twice.
        Ok(_) => {
            netns
                .run(|| set_sysctl("ipv4/tcp_max_tw_buckets", "3000"))
                .unwrap()
                .unwrap();
            Some(netns)
        }
        Err(why) => {
            skip_unprepared(&why.to_string());
            None
        }
    }
}

/// Audited ten times a second.
const ATTENTIVE: Pace = Pace {
    interval: Duration::from_millis(100),
    share: 0.5,
};

pub fn settings(pace: Pace) -> Settings {
    Settings {
        pace,
        split_interval: pace.interval / 2,
        sample_interval: Duration::from_millis(100),
        all_namespaces: false,
        limits: MapLimits {
            ports: 256,
            namespaces: 256,
            cgroups: 256,
        },
        attach_later: false,
        accept_latency: false,
    }
}

pub struct Subject {
    pub tracker: Arc<Tracker>,
    _threads: Option<(Auditor, Sampler)>,
}

impl Drop for Subject {
    fn drop(&mut self) {
        ATTACHMENTS.fetch_add(1, Ordering::Relaxed);
    }
}

impl Subject {
    pub fn start() -> Self {
        Self::start_with(|plan| plan, 0.005)
    }

    /// Audited ten times a second, so that a test need not wait long for one.
    pub fn start_attentive() -> Self {
        Self::start_paced(|plan| plan, ATTENTIVE)
    }

    /// With a plan that the test changes, and another share of a core for audits.
    pub fn start_with(change: impl FnOnce(EbpfPlan) -> EbpfPlan, share: f64) -> Self {
        let interval = Duration::from_secs(1);
        Self::start_paced(change, Pace { interval, share })
    }

    fn start_paced(change: impl FnOnce(EbpfPlan) -> EbpfPlan, pace: Pace) -> Self {
        Self::start_set(change, settings(pace))
    }

    /// With settings that the test changes.
    pub fn start_changed(change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_planned(|plan| plan, change)
    }

    /// Both.
    pub fn start_planned(
        plan: impl FnOnce(EbpfPlan) -> EbpfPlan,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut settings = settings(ATTENTIVE);
        change(&mut settings);
        Self::start_set(plan, settings)
    }

    fn start_set(change: impl FnOnce(EbpfPlan) -> EbpfPlan, settings: Settings) -> Self {
        LazyLock::force(&LOG);
        let (facts, btf) = &*HOST;
        let Ok(BackendPlan::Ebpf(plan)) = BackendPlan::from_facts(facts, Backend::Ebpf) else {
            panic!("place() found eBPF possible");
        };
        let plan = change(plan);
        ATTACHMENTS.fetch_add(1, Ordering::Relaxed);
        let tracker = Arc::new(Tracker::start(plan, btf.as_ref().unwrap(), settings).unwrap());
        let auditor = Auditor::spawn(Arc::clone(&tracker)).unwrap();
        let sampler = Sampler::spawn(Arc::clone(&tracker)).unwrap();
        Self {
            tracker,
            _threads: Some((auditor, sampler)),
        }
    }

    /// Reads nothing but what a test asks for.
    pub fn alone(mut self) -> Self {
        self._threads = None;
        self
    }

    pub fn snapshot(&self) -> Snapshot {
        self.tracker.show(&Show::default()).unwrap().remove(0)
    }

    /// The first snapshot that is not degraded, which must come within `limit`: it is while an audit confirms a
    /// difference.
    pub fn exact_snapshot_within(&self, limit: Duration) -> Snapshot {
        let started = Instant::now();
        loop {
            let snapshot = self.snapshot();
            if snapshot.degraded.is_none() {
                return snapshot;
            }
            assert!(started.elapsed() < limit, "after {limit:?}: {snapshot:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A reading, and where its states differ from the kernel's listing, in words; nothing if the
    /// listing changed meanwhile.
    pub fn compared(&self) -> Option<(Snapshot, String)> {
        let before = Counts::read().unwrap();
        let snapshot = self.snapshot();
        let differences = counts(&snapshot).differences(&before);
        (Counts::read().unwrap() == before).then_some((snapshot, differences))
    }

    /// Where the tracker differs from the kernel, in words; nothing if the listing changed
    /// while it was compared.
    fn differences(&self) -> Option<String> {
        let before = Counts::read_by_port().unwrap();
        let snapshot = self.snapshot();
        if Counts::read_by_port().unwrap() != before {
            return None;
        }
        let all = before
            .values()
            .fold(Counts::default(), |all, &port| all + port);
        let mut text = counts(&snapshot).differences(&all);
        for (port, what) in ports(&snapshot, &before) {
            text += &format!("port {port}: {what}; ");
        }
        Some(text)
    }

    /// Waits until the tracker equals the kernel in every state and family, which must be within
    /// `limit` of coming to rest.
    pub fn assert_exact_within(&self, limit: Duration) {
        let started = Instant::now();
        let mut at_rest_since = None;
        loop {
            let found = self.differences();
            match found.as_deref() {
                Some("") => return,
                Some(_) => {
                    let since = *at_rest_since.get_or_insert_with(Instant::now);
                    assert!(
                        since.elapsed() < limit,
                        "after {limit:?}: {found:?}; {:?}",
                        self.snapshot()
                    );
                }
                // The listing has changed: this is not rest yet.
                None => at_rest_since = None,
            }
            assert!(
                started.elapsed() < PATIENCE,
                "never at rest: {:?}",
                self.snapshot()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Where the counts of a port that has a listener, or that the tracker keeps apart, differ from the
/// kernel's listing.
fn ports(snapshot: &Snapshot, listing: &BTreeMap<u16, Counts>) -> Vec<(u16, String)> {
    let tracked: BTreeMap<_, _> = snapshot
        .ports
        .tracked
        .iter()
        .map(|port| (port.port, port.states))
        .collect();
    let listening = listing
        .iter()
        .filter(|(_, counts)| counts.both(st::LISTEN) > 0);
    let mut differences: Vec<_> = listening
        .filter(|(port, _)| !tracked.contains_key(port))
        .map(|(&port, _)| (port, "listens, but is not tracked".to_owned()))
        .collect();
    for (port, states) in tracked {
        let listed = listing.get(&port).copied().unwrap_or_default();
        for (state, count) in states.iter() {
            let kernel = listed.both(usize::from(state.number()));
            if kernel != count {
                differences.push((port, format!("{state} {count}, listed {kernel}")));
            }
        }
    }
    differences
}

/// A reading of the tracker in the oracle's form.
fn counts(snapshot: &Snapshot) -> Counts {
    let mut counts = Counts::default();
    for (family, table) in Family::ALL.into_iter().zip(Table::ALL) {
        let listed = match family {
            Family::V4 => &snapshot.ipv4,
            Family::V6 => &snapshot.ipv6,
        };
        for state in State::ALL {
            counts.0[table as usize][usize::from(state.number())] = listed[state];
            assert!(snapshot.states[state] >= listed[state], "{state}");
        }
    }
    counts
}
