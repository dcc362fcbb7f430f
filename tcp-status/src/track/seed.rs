//! Exact seeding under traffic: each socket is counted once, by whichever of event and walk
//! sees it first. The audit is the same thing, into the bank that is not in use.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use tcp_status_common::{control::Mode, counters::Walked};

use super::places::Places;
use crate::{
    bpf::{Bpf, LoadError},
    kernel::{quiesce::quiesce, sock_diag},
};

/// How often a seeding that ran out of room is tried again, with twice the room each time.
const ATTEMPTS: u32 = 4;

/// No seeding could be completed.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] LoadError),
    /// Sockets were found that could not be remembered, however much room there was.
    #[error(
        "cannot seed {capacity} sockets: BPF map full; \
         raise MemoryMax= or, with --netns all, raise --max-namespaces"
    )]
    NoRoom {
        /// How many there was room for at last.
        capacity: u32,
    },
}

/// Ports, by namespace.
pub type WalkedPorts = BTreeSet<(u32, u16)>;

/// What a walk met in each namespace that it visited.
pub type Walks = BTreeMap<u32, Walked>;

/// A seeding in progress. When it is dropped, events go into the live bank alone, and the memory of
/// seen sockets is given back: whether it was completed or not.
pub struct Seeding<'a> {
    bpf: &'a Bpf,
    live: Option<u32>,
}

impl Seeding<'_> {
    /// From now on, events go into the bank that was seeded, and nowhere else.
    ///
    /// # Errors
    /// If the kernel refuses the update; events then go where they went.
    pub fn complete(&mut self, bank: u32) -> Result<(), LoadError> {
        self.bpf.switch(Mode::new(Some(bank), None))?;
        self.live = Some(bank);
        Ok(())
    }
}

impl Drop for Seeding<'_> {
    fn drop(&mut self) {
        // The next seeding begins with the same: a failure that lasts is repaired there.
        persist(|| self.bpf.switch(Mode::new(self.live, None)));
        persist(|| self.bpf.forget());
    }
}

/// Does what must be done, although the kernel may have no memory for a moment.
fn persist(undo: impl Fn() -> Result<(), LoadError>) {
    const TRIES: usize = 3;
    if let Err(error) = (1..TRIES).fold(undo(), |done, _| done.or_else(|_| undo())) {
        log::warn!(error:%; "what a seeding took is not given back yet");
    }
}

/// A bank that has been filled.
pub struct Filled<'a> {
    /// To be completed, and dropped when no event can be in progress that began before.
    pub seeding: Seeding<'a>,
    /// What the walks met.
    pub walks: Walks,
    /// The ports, by namespace, that were entered before any socket was counted. Of one that gets its
    /// listener later, the walk may have passed over connections already.
    pub ports: WalkedPorts,
}

/// Fills `bank` with all sockets there are in `places`, while events go on being counted into
/// `live`, and looks for sockets once more after `patience`, unless that is zero: a task may have
/// reported a socket before the seeding, and stall before it lists it. Only one that stalls for
/// longer than all of this is missed; what is reported after the seeding began never is.
/// Afterwards events go into both, and `bank` is exact; the caller makes it the live one.
/// `sockets` is how many there may be.
///
/// # Errors
/// [`SeedError`]; events then go into `live` only, as before.
pub fn fill<'a>(
    bpf: &'a Bpf,
    places: &Places,
    live: Option<u32>,
    bank: u32,
    sockets: u64,
    patience: Duration,
) -> Result<Filled<'a>, SeedError> {
    let seeding = Seeding { bpf, live };
    let mut capacity = room_for(sockets);
    for attempt_number in 1.. {
        if let Some((walks, ports)) = attempt(bpf, places, live, bank, (capacity, patience))? {
            return Ok(Filled {
                seeding,
                walks,
                ports,
            });
        }
        if attempt_number == ATTEMPTS {
            break;
        }
        capacity = capacity.saturating_mul(2);
    }
    Err(SeedError::NoRoom { capacity })
}

/// None if something could not be remembered.
fn attempt(
    bpf: &Bpf,
    places: &Places,
    live: Option<u32>,
    bank: u32,
    (capacity, patience): (u32, Duration),
) -> Result<Option<(Walks, WalkedPorts)>, LoadError> {
    bpf.switch(Mode::new(live, None))?;
    quiesce();
    bpf.clear(bank)?;
    bpf.count_timewait(bank);
    bpf.remember(capacity)?;
    enter_ports(bpf, places, live, bank)?;
    let ports = bpf.read_bank(bank).port_keys()?;
    let failures = bpf.writers()?.failures;
    bpf.switch(Mode::new(live, Some(bank)))?;
    // The kernel stores a state after it has reported it: the walk must not read what is about
    // to be overwritten by an event that was reported before the switch.
    quiesce();
    let mut walks = places.each(|| bpf.seed_sockets())?;
    if !patience.is_zero() {
        thread::sleep(patience);
        bpf.switch(Mode::new(live, Some(bank)).again())?;
        for (netns, unseen) in places.each(|| look_again(bpf))? {
            walks.entry(netns).or_default().sockets += unseen;
        }
    }
    // A socket that closes is unhashed before it is reported: one that the walk did not meet for that reason
    // must not be reported to the bank as the live one.
    quiesce();
    Ok((bpf.writers()?.failures == failures).then_some((walks, ports)))
}

/// Looks for listeners and connection attempts that the first walk has not met, and seeds them.
/// How many there were.
fn look_again(bpf: &Bpf) -> Result<u64, LoadError> {
    // A dump passes over all other sockets several times as fast as a walk. Where it cannot be
    // had, the walk tells.
    if sock_diag::attempt_count().is_ok_and(|attempts| attempts == 0) {
        // However many there are: one that comes now must not hide another.
        return Ok(bpf.seed_listeners(u64::MAX)?.unseen);
    }
    Ok(bpf.seed_sockets()?.sockets)
}

/// Enters the ports of all listeners into `bank`, and those that had one and still have
/// connections: before any connection is, so that none meets a port that is not entered yet.
fn enter_ports(bpf: &Bpf, places: &Places, live: Option<u32>, bank: u32) -> Result<(), LoadError> {
    if let Some(live) = live {
        let used = bpf
            .read_bank(live)
            .ports()?
            .into_iter()
            .filter(|(_, sockets)| {
                // Whatever a gauge is off by, a port with sockets is not forgotten.
                sockets.iter().flatten().any(|&count| count != 0)
            });
        bpf.keep_ports(used.map(|(port, _)| port), bank)?;
    }
    bpf.switch(Mode::entering_ports(live, bank))?;
    quiesce();
    places.each(|| {
        // Where they cannot be counted, the walk ends at the first entry that is no listener.
        let listeners = sock_diag::listener_count().unwrap_or(u64::MAX);
        bpf.seed_listeners(listeners)
    })?;
    Ok(())
}

/// Some more than there are, for those that come during the walk.
fn room_for(sockets: u64) -> u32 {
    const SPARE: u64 = 4096;
    u32::try_from(sockets + sockets / 4 + SPARE).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::room_for;

    #[test]
    fn there_is_always_room_to_spare() {
        assert!(room_for(0) > 0);
        assert!(room_for(1_000_000) >= 1_250_000);
        assert_eq!(room_for(u64::from(u32::MAX)), u32::MAX);
    }
}
