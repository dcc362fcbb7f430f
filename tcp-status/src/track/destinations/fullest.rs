//! Walks that look for the destination that uses up the most ephemeral ports: only while there are so many
//! outgoing connections that a destination may run out of ports, or connects fail for want of one.

use std::time::Instant;

use tcp_status_common::{counters::OWN_NETNS, ends::EndReason, state::State};

use crate::{
    kernel::sysctl,
    serve::protocol::ApiError,
    snapshot::{
        DEFAULT_WINDOW, FullestDestination,
        who::{Group, GroupBy},
    },
    track::{
        answers::api_error::unavailable,
        resources::{cpu_time::CpuTimer, memory, sync::lock},
        tracker::Tracker,
        who::{Walk, WalkError},
    },
};

/// Outgoing connections, in percent of the ephemeral ports, above which walks begin: no destination has
/// more than all together.
const MANY: u64 = 50;

/// The time between two looks, in intervals of the audit.
const PERIOD: u32 = 10;

/// The part of the audits' share of a core that walks may take: the rest is left to audits.
const PART: f64 = 0.25;

/// Groups of a walk among which the one with the most ephemeral ports is searched.
const LARGEST: usize = 16;

impl Tracker {
    /// What is known of the fullest destination of the tracker's namespace.
    pub(crate) fn fullest_destination(&self) -> Option<FullestDestination> {
        let least = self.settings.pace.interval * PERIOD * 2;
        lock(&self.fullest).report(Instant::now(), least)
    }

    /// Walks, if a destination may be short of ports and a walk is due.
    pub(crate) fn watch_destinations(&self) -> Result<(), ApiError> {
        let now = Instant::now();
        let failures = self.bpf.ends()[EndReason::NoLocalPort as usize];
        let (failing, affordable) = {
            let mut walks = lock(&self.fullest);
            let failing = failures != walks.failures;
            if !failing && walks.next.is_some_and(|at| now < at) {
                return Ok(());
            }
            walks.next = Some(now + self.settings.pace.interval * PERIOD);
            let affordable = walks.affordable.is_none_or(|at| now >= at);
            if affordable {
                walks.failures = failures;
            }
            (failing, affordable)
        };
        if !failing && !self.may_be_short() {
            lock(&self.fullest).used.clear();
            return Ok(());
        }
        if !affordable {
            return Ok(());
        }
        if !failing && !self.has_many_outgoing()? {
            lock(&self.fullest).used.clear();
            return Ok(());
        }
        let timer = CpuTimer::start();
        let found = fullest();
        let (cost, now) = (timer.spent(), Instant::now());
        let mut walks = lock(&self.fullest);
        walks.affordable = Some(now + cost.div_f64(self.settings.pace.share * PART));
        memory::release_heap();
        match found {
            Ok(Some(group)) => walks.record(now, &group),
            Ok(None) => walks.used.clear(),
            Err(error) => {
                walks.used.clear();
                return Err(unavailable(error));
            }
        }
        Ok(())
    }

    /// Whether there are so many connections that a destination may be short of ports, by what was sampled: a
    /// host with few does no more.
    fn may_be_short(&self) -> bool {
        let sampled = lock(&self.samples).last.0;
        is_many(sampled.total() - sampled[State::Listen])
    }

    /// Whether that many are outgoing.
    fn has_many_outgoing(&self) -> Result<bool, ApiError> {
        let outgoing = self.snapshot(OWN_NETNS, DEFAULT_WINDOW)?.ports.outgoing;
        Ok(outgoing.is_some_and(|states| is_many(states.total())))
    }
}

/// Whether so many connections may use up most of the ephemeral ports.
fn is_many(connections: u64) -> bool {
    let ports = sysctl::settings().ephemeral_ports;
    ports.is_some_and(|ports| connections * 100 > u64::from(ports) * MANY)
}

/// The destination with the most ephemeral ports in use.
fn fullest() -> Result<Option<Group>, WalkError> {
    let walk = Walk::new(vec![GroupBy::Destination], LARGEST);
    let groups = walk.run()?.into_iter().flat_map(|report| report.groups);
    Ok(groups.max_by_key(|group| group.ephemeral_used))
}
