//! Exact seeding under traffic: each socket is counted once, by whichever of event and walk
//! sees it first. The audit is the same thing, into the bank that is not in use.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, thread,
    time::Duration,
};

use tcp_status_common::{
    control::Mode,
    counters::{FailureTotals, Failures, NetnsId, OWN_NETNS, WalkTotals},
};

use super::netns_targets::{NetnsTargets, by_id};
use crate::{
    bpf::{Bpf, BpfError, PortSum, Scope},
    kernel::{netns::list::NetnsEntry, quiesce::quiesce, sock_diag},
};

/// How often a seeding is tried where something failed: with twice the room each time that there was
/// none.
const ATTEMPTS: u32 = 4;

/// No seeding could be completed.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] BpfError),
    /// Sockets were found that could not be remembered, however much room there was.
    #[error("cannot seed {capacity} sockets: BPF map full; raise MemoryMax=")]
    NoRoom {
        /// How many there was room for at last.
        capacity: u32,
    },
    /// The kernel refused updates of a map in every attempt.
    #[error("cannot seed sockets: cannot update BPF map {map}: {source}")]
    Refused {
        /// The name of the map.
        map: &'static str,
        /// The last error.
        source: io::Error,
    },
    /// The kernel reported what the programs do not understand.
    #[error(
        "cannot seed sockets: the kernel reported {count} invalid socket states; \
         report the kernel version"
    )]
    Invalid {
        /// How many.
        count: u64,
    },
}

impl SeedError {
    /// What failed in an attempt that had room for `capacity` sockets; none if nothing did.
    fn of(failed: &FailureTotals, capacity: u32) -> Option<Self> {
        let refused = |map, failures: &Failures| Self::Refused {
            map,
            source: io::Error::from_raw_os_error(i32::try_from(failures.errno).unwrap_or(0)),
        };
        let FailureTotals {
            seen,
            namespaces,
            cgroups,
            invalid,
        } = failed;
        if seen.full > 0 {
            Some(Self::NoRoom { capacity })
        } else if seen.count > 0 {
            Some(refused("SEEN", seen))
        } else if namespaces.count > 0 {
            Some(refused("NAMESPACES", namespaces))
        } else if cgroups.count > 0 {
            Some(refused("CGROUPS", cgroups))
        } else {
            (invalid.count > 0).then_some(Self::Invalid {
                count: invalid.count,
            })
        }
    }

    /// For how many sockets the next attempt needs room; none if it would fail as well. An update
    /// that an interrupt came into fails with EBUSY, before Linux 6.15, whatever room there is.
    fn next_capacity(&self, capacity: u32) -> Option<u32> {
        match self {
            Self::NoRoom { .. } => Some(capacity.saturating_mul(2)),
            Self::Refused { .. } | Self::Invalid { .. } => Some(capacity),
            Self::Kernel(_) => None,
        }
    }
}

/// Ports, by namespace.
pub type WalkedPorts = BTreeSet<(NetnsId, u16)>;

/// What a walk met in each namespace that it visited.
pub type Walks = BTreeMap<NetnsId, WalkTotals>;

/// A seeding in progress. When it is dropped, events go into the live bank alone, and the memory of
/// seen sockets is given back: whether it was completed or not.
pub struct Seeding<'a> {
    bpf: &'a Bpf,
    live: Live,
    scope: Scope,
}

/// The banks that events are counted into while another one is filled.
#[derive(Clone, Copy, Debug)]
pub struct Live {
    /// Of the tracker's own namespace; none before the first seeding.
    pub own: Option<u32>,
    /// Of the others.
    pub others: u32,
}

impl Seeding<'_> {
    /// From now on, events go into the bank that was seeded, and nowhere else.
    ///
    /// # Errors
    /// If the kernel refuses the update; events then go where they went.
    pub fn complete(&mut self, bank: u32) -> Result<(), BpfError> {
        let others = match self.scope {
            Scope::All => bank,
            Scope::Own => self.live.others,
        };
        self.bpf.count_others(others, false);
        self.bpf.set_mode(Mode::new(Some(bank), None))?;
        self.live = Live {
            own: Some(bank),
            others,
        };
        Ok(())
    }
}

impl Drop for Seeding<'_> {
    fn drop(&mut self) {
        // The next seeding begins with the same: a failure that lasts is repaired there.
        self.bpf.count_others(self.live.others, false);
        retry_cleanup(|| self.bpf.set_mode(Mode::new(self.live.own, None)));
        retry_cleanup(|| self.bpf.release_seen_map());
    }
}

/// Does what must be done, although the kernel may have no memory for a moment.
fn retry_cleanup(undo: impl Fn() -> Result<(), BpfError>) {
    const TRIES: usize = 3;
    if let Err(error) = (1..TRIES).fold(undo(), |done, _| done.or_else(|_| undo())) {
        log::warn!(error:%; "cannot free the map of seen sockets; the next audit retries");
    }
}

/// A bank that has been filled.
pub struct SeededBank<'a> {
    /// To be completed, and dropped when no event can be in progress that began before.
    pub seeding: Seeding<'a>,
    /// What the walks met.
    pub walks: Walks,
    /// The ways to the other namespaces that were walked.
    pub netns_entries: BTreeMap<NetnsId, NetnsEntry>,
    /// The ports, by namespace, that were entered before any socket was counted. Of one that gets its
    /// listener later, the walk may have passed over connections already.
    pub ports: WalkedPorts,
}

/// Fills `bank` with all sockets there are in `targets`, while events go on being counted into
/// `live`, and looks for sockets once more after `settle_time`, unless that is zero: a task may have
/// reported a socket before the seeding, and stall before it lists it. Only one that stalls for
/// longer than all of this is missed; what is reported after the seeding began never is.
/// Afterwards events go into both, and `bank` is exact; the caller makes it the live one.
/// `sockets` is how many there may be.
///
/// # Errors
/// [`SeedError`]; events then go into `live` only, as before.
pub fn seed_bank<'a>(
    bpf: &'a Bpf,
    targets: &NetnsTargets,
    live: Live,
    bank: u32,
    sockets: u64,
    settle_time: Duration,
) -> Result<SeededBank<'a>, SeedError> {
    let scope = targets.scope();
    let seeding = Seeding { bpf, live, scope };
    let mut capacity = seen_capacity(sockets);
    let mut attempts = 1;
    loop {
        let (walks, ports, failed) = attempt(bpf, targets, live, bank, (capacity, settle_time))?;
        let Some(error) = SeedError::of(&failed, capacity) else {
            let ids = targets.ids(bpf)?;
            return Ok(SeededBank {
                seeding,
                walks: by_id(walks, &ids),
                ports,
                netns_entries: targets.entries(&ids),
            });
        };
        log::debug!(error:%, attempts; "seeding failed");
        match error.next_capacity(capacity) {
            Some(next) if attempts < ATTEMPTS => (capacity, attempts) = (next, attempts + 1),
            _ => return Err(error),
        }
    }
}

/// What the walks met, the ports that were entered before, and what failed meanwhile.
fn attempt(
    bpf: &Bpf,
    targets: &NetnsTargets,
    live: Live,
    bank: u32,
    (capacity, settle_time): (u32, Duration),
) -> Result<(BTreeMap<u32, WalkTotals>, WalkedPorts, FailureTotals), BpfError> {
    let scope = targets.scope();
    let walked: BTreeSet<_> = targets.ids(bpf)?.into_values().collect();
    bpf.count_others(live.others, scope == Scope::All);
    let (live, others) = (live.own, live.others);
    bpf.set_mode(Mode::new(live, None))?;
    quiesce();
    // What other namespaces have by cgroup goes on: see `CGROUP_BANK_OF_OTHERS`.
    let cgroups = match live {
        Some(_) => Scope::Own,
        None => scope,
    };
    bpf.clear(bank, scope, cgroups)?;
    bpf.count_timewait(bank, scope);
    bpf.resize_seen_map(capacity)?;
    if let Some(live) = live {
        // Before those that come now: who had a row keeps it.
        let live = bpf.read_bank(live, others);
        let living = match scope {
            Scope::Own => BTreeMap::new(),
            Scope::All => bpf.live_namespaces()?,
        };
        let kept = |netns, sockets: &PortSum| {
            // Whatever a gauge is off by, a port with sockets is not forgotten. Where nothing is walked,
            // its sockets may be in the base.
            let has_sockets = || sockets.iter().flatten().any(|&count| count != 0);
            let is_there = netns == OWN_NETNS || living.contains_key(&netns);
            is_there && (!walked.contains(&netns) || has_sockets())
        };
        bpf.carry_over_ports(&live, kept, bank)?;
        bpf.carry_over_cgroups(&live, bank)?;
    }
    register_ports(bpf, targets, live, bank)?;
    let mut ports = bpf.read_bank(bank, bank).port_keys()?;
    ports.retain(|(netns, _)| scope.includes(*netns));
    let before = bpf.failures()?;
    bpf.set_mode(Mode::new(live, Some(bank)))?;
    // The kernel stores a state after it has reported it: the walk must not read what is about
    // to be overwritten by an event that was reported before the switch.
    quiesce();
    let mut walks = targets.walk_each(|| bpf.seed_sockets())?;
    if !settle_time.is_zero() {
        thread::sleep(settle_time);
        bpf.set_mode(Mode::new(live, Some(bank)).second_pass())?;
        for (netns, unseen) in targets.walk_each(|| second_pass(bpf))? {
            walks.entry(netns).or_default().sockets += unseen;
        }
    }
    // A socket that closes is unhashed before it is reported: one that the walk did not meet for that reason
    // must not be reported to the bank as the live one.
    quiesce();
    Ok((walks, ports, bpf.failures()?.minus(&before)))
}

/// Looks for listeners and connection attempts that the first walk has not met, and seeds them.
/// How many there were.
fn second_pass(bpf: &Bpf) -> Result<u64, BpfError> {
    // A dump passes over all other sockets several times as fast as a walk. Where it cannot be
    // had, the walk tells.
    if sock_diag::attempt_count().is_ok_and(|attempts| attempts == 0) {
        // However many there are: one that comes now must not hide another.
        return Ok(bpf.seed_listeners(u64::MAX)?.unseen);
    }
    Ok(bpf.seed_sockets()?.sockets)
}

/// Enters the ports of all listeners into `bank`: before any connection is counted, so that none meets
/// a port that is not entered yet.
fn register_ports(
    bpf: &Bpf,
    targets: &NetnsTargets,
    live: Option<u32>,
    bank: u32,
) -> Result<(), BpfError> {
    bpf.set_mode(Mode::registering_ports(live, bank))?;
    quiesce();
    targets.walk_each(|| {
        // Where they cannot be counted, the walk ends at the first entry that is no listener.
        let listeners = sock_diag::listener_count().unwrap_or(u64::MAX);
        bpf.seed_listeners(listeners)
    })?;
    Ok(())
}

/// Some more than there are, for those that come during the walk.
fn seen_capacity(sockets: u64) -> u32 {
    const SPARE: u64 = 4096;
    u32::try_from(sockets + sockets / 4 + SPARE).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use tcp_status_common::counters::{FailureTotals, Failures};

    use super::{SeedError, seen_capacity};

    fn failures(full: u64, errno: i32) -> Failures {
        Failures {
            count: 3,
            full,
            errno: u64::from(errno.unsigned_abs()),
        }
    }

    /// What an attempt with room for 1,000 sockets ends in, and what the next one has room for.
    fn after(failed: FailureTotals) -> Option<(String, Option<u32>)> {
        let error = SeedError::of(&failed, 1000)?;
        Some((error.to_string(), error.next_capacity(1000)))
    }

    #[test]
    fn each_cause_of_a_failure_has_its_own_cure() {
        let none = FailureTotals::NONE;
        assert_eq!(after(none), None);
        let seen = |seen| after(FailureTotals { seen, ..none }).unwrap();
        let (error, next) = seen(failures(3, libc::E2BIG));
        assert!(error.contains("1000 sockets"), "{error}");
        assert_eq!(next, Some(2000));
        let (error, next) = seen(failures(0, libc::EBUSY));
        assert!(
            error.contains("SEEN") && error.contains("os error 16"),
            "{error}"
        );
        assert_eq!(next, Some(1000));
        let namespaces = |namespaces| after(FailureTotals { namespaces, ..none }).unwrap();
        let (error, next) = namespaces(failures(0, libc::ENOMEM));
        assert!(
            error.contains("NAMESPACES") && error.contains("os error 12"),
            "{error}"
        );
        assert_eq!(next, Some(1000));
        let invalid = failures(0, libc::EINVAL);
        let (error, next) = after(FailureTotals { invalid, ..none }).unwrap();
        assert!(error.contains("3 invalid"), "{error}");
        assert_eq!(next, Some(1000));
    }

    #[test]
    fn there_is_always_room_to_spare() {
        assert!(seen_capacity(0) > 0);
        assert!(seen_capacity(1_000_000) >= 1_250_000);
        assert_eq!(seen_capacity(u64::from(u32::MAX)), u32::MAX);
    }
}
