//! When to hold a pass over the kernel's socket tables: pure rules over what was observed.

use std::time::Duration;

use crate::track::audit::schedule::Pace;

/// So many passes are left for namespaces that come to rest: one, and one that decides what it found.
const AT_REST: u32 = 2;

/// What was seen since the last pass.
#[derive(Clone, Debug)]
pub(crate) struct PassInputs {
    /// Time since the last pass ended.
    pub(crate) since: Duration,
    /// What a pass costs.
    pub(crate) cost: Duration,
    /// The processor time that passes have saved up.
    pub(crate) saved: Duration,
    /// The last pass found a difference in a namespace at rest.
    pub(crate) amiss: bool,
    /// A namespace has come to rest, and no pass has confirmed it.
    pub(crate) rested: bool,
    /// A namespace has not come to rest for long.
    pub(crate) restless: bool,
}

/// Whether a pass is due. One that no rest causes leaves some for namespaces that come to rest:
/// any user can keep a namespace busy.
pub(crate) fn is_due(pace: &Pace, inputs: &PassInputs) -> bool {
    if inputs.amiss || (inputs.rested && inputs.since >= pace.interval / 2) {
        return !inputs.saved.is_zero();
    }
    let is_due = inputs.since >= pace.regular(inputs.cost);
    let restless = inputs.restless && inputs.since >= pace.interval;
    (is_due || restless) && leaves_reserve(inputs.saved, inputs.cost, inputs.cost)
}

/// Whether something that costs `spent` leaves passes of this `cost` for namespaces that come to rest.
pub(crate) fn leaves_reserve(saved: Duration, spent: Duration, cost: Duration) -> bool {
    saved >= spent + cost * AT_REST
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{AT_REST, PassInputs, is_due, leaves_reserve};
    use crate::track::{audit::schedule::Pace, resources::budget::Budget};

    const PACE: Pace = Pace {
        interval: Duration::from_secs(1),
        share: 0.005,
    };

    const COST: Duration = Duration::from_millis(12);

    fn inputs(since: Duration, saved: Duration) -> PassInputs {
        PassInputs {
            since,
            cost: COST,
            saved,
            amiss: false,
            rested: false,
            restless: false,
        }
    }

    #[test]
    fn each_reason_has_its_pace() {
        let (saved, interval) = (Duration::from_secs(1), PACE.interval);
        let at = |since| inputs(since, saved);
        assert!(is_due(&PACE, &at(PACE.regular(COST))));
        assert!(!is_due(&PACE, &at(interval)));
        let restless = |since| PassInputs {
            restless: true,
            ..at(since)
        };
        assert!(is_due(&PACE, &restless(interval)));
        assert!(!is_due(&PACE, &restless(interval / 2)));
        let rested = |since| PassInputs {
            rested: true,
            ..at(since)
        };
        assert!(is_due(&PACE, &rested(interval / 2)));
        assert!(!is_due(&PACE, &rested(interval / 4)));
        let amiss = PassInputs {
            amiss: true,
            ..at(Duration::ZERO)
        };
        assert!(is_due(&PACE, &amiss));
    }

    /// Passes for it take what is saved up, but for what others need when they come to rest.
    #[test]
    fn a_namespace_that_never_rests_leaves_passes_for_others() {
        let start = Instant::now();
        let mut budget = Budget::new(PACE.share, Pace::SAVED, Duration::ZERO, start);
        budget.expect(COST, start);
        let (mut now, mut passed, mut passes) = (start, start, 0);
        while now < start + 10 * Pace::SAVED {
            now += PACE.interval / 4;
            let busy = PassInputs {
                restless: true,
                ..inputs(now - passed, budget.saved(now))
            };
            if is_due(&PACE, &busy) {
                budget.spend(COST, now);
                (passed, passes) = (now, passes + 1);
            }
            let mut others = budget.clone();
            for of_another in [(false, true), (true, false)] {
                let since = PACE.interval / 2;
                let (amiss, rested) = of_another;
                let another = PassInputs {
                    amiss,
                    rested,
                    ..inputs(since, others.saved(now))
                };
                assert!(is_due(&PACE, &another), "after {passes} passes");
                others.spend(COST, now);
            }
        }
        // As many as the share allows.
        let most = (11 * Pace::SAVED)
            .mul_f64(PACE.share)
            .div_duration_f64(COST);
        assert!(f64::from(passes) > 0.9 * most, "{passes} of {most}");
    }

    /// A bucket always has room for what the reserve asks for.
    #[test]
    fn an_expensive_pass_is_held_too() {
        let (start, cost) = (Instant::now(), Duration::from_secs(2));
        let mut budget = Budget::new(PACE.share, Pace::SAVED, Duration::ZERO, start);
        budget.expect(cost, start);
        assert!(!leaves_reserve(budget.saved(start), cost, cost));
        let later = start + ((AT_REST + 1) * cost).div_f64(PACE.share);
        assert!(leaves_reserve(budget.saved(later), cost, cost));
    }
}
