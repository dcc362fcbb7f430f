//! Whether the conditions of problems hold at a sample: those of queues each time, the others once a second.

use std::collections::BTreeMap;

use tcp_status_common::{counters::OWN_NETNS, state::State};

use crate::{
    kernel::{
        plan::{SeedMethod, SplitMethod},
        sysctl,
    },
    serve::protocol::ApiError,
    snapshot::{Counts, Fullness, Listener, MANY_HALF_OPEN, Rule, is_leak, nearly_uses},
    track::{
        answers::{
            api_error::unavailable,
            ports::Apart,
            queues::{self, HalfOpen},
        },
        gauge::Gauges,
        resources::sync::lock,
        tracker::Tracker,
    },
};

/// The ports at which the condition of a rule holds, in ascending order, 0 for the whole namespace; none if that
/// is not known.
type Condition = (Rule, Option<Vec<u16>>);

impl Tracker {
    /// The conditions of the tracker's namespace. Those that were evaluated less than a second ago are left out,
    /// if that costs more than a comparison.
    pub(crate) fn conditions(
        &self,
        counts: &Counts,
        listeners: &mut [Listener],
        gauges: (SplitMethod, &Gauges),
        half_open: &HalfOpen,
    ) -> Result<Vec<Condition>, ApiError> {
        let known = lock(&self.samples).settings();
        let settings = known.unwrap_or_else(sysctl::settings);
        queues::set_syn_queue_limits(listeners, &settings);
        let at = |fullness| {
            let found = listeners.iter().filter(|one| one.is(fullness));
            let mut ports: Vec<_> = found.map(|one| one.port).collect();
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        let mut flooded = at(Fullness::SynFilling);
        if counts[State::SynRecv] > MANY_HALF_OPEN.into() {
            flooded.insert(0, 0);
        }
        let mut all = vec![
            (Rule::AcceptQueueOverflow, Some(at(Fullness::Full))),
            (Rule::SynQueueFull, Some(at(Fullness::SynFull))),
            (Rule::HalfOpen, Some(flooded)),
        ];
        if known.is_none() {
            lock(&self.samples).keep_settings(settings);
            let idle_ages = self.audit_state().own.idle_ages.clone();
            let leak = idle_ages.map(|ages| is_leak(&ages.stale(counts)));
            let uses = self.nearly_uses(&settings, counts, gauges, half_open)?;
            let whole = |holds: bool| if holds { vec![0] } else { Vec::new() };
            all.push((Rule::CloseWaitLeak, leak.map(whole)));
            all.push((Rule::EphemeralPorts, uses.map(whole)));
        }
        Ok(all)
    }

    /// Whether outgoing connections nearly use up the ephemeral ports; none if that is not known.
    fn nearly_uses(
        &self,
        settings: &sysctl::Settings,
        counts: &Counts,
        gauges: (SplitMethod, &Gauges),
        half_open: &HalfOpen,
    ) -> Result<Option<bool>, ApiError> {
        let Some(ephemeral_ports) = settings.ephemeral_ports else {
            return Ok(None);
        };
        if !nearly_uses(counts.total(), ephemeral_ports) {
            return Ok(Some(false));
        }
        if self.plan.seed == SeedMethod::Procfs {
            // Outgoing connections are known from walks only.
            return Ok(None);
        }
        let apart = Apart {
            split: gauges.0,
            ports: self.port_sums().map_err(unavailable)?,
            ends: BTreeMap::new(),
            cgroups: Err(String::new()),
        };
        let ports = self.ports(OWN_NETNS, gauges, &apart, half_open)?;
        let outgoing = ports.outgoing.map(|outgoing| outgoing.total());
        Ok(outgoing.map(|outgoing| nearly_uses(outgoing, ephemeral_ports)))
    }
}
