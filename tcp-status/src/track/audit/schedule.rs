//! When to audit: pure rules over what was observed, so that every situation can be invented.

use std::{fmt, time::Duration};

use tcp_status_common::state::State;

use crate::track::resources::budget::RESERVE;

/// What the user may set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The shortest time between audits.
    pub interval: Duration,
    /// The part of one core that audits may take, 0.005 for half a per cent.
    pub share: f64,
}

impl Pace {
    /// How much faster than [`Pace::share`] saved-up time may be spent by audits that have a reason
    /// to find something, and how large a share walks on demand may take.
    pub const URGENCY: f64 = 10.0;

    /// How much rarer audits are while nothing happens.
    const IDLENESS: u32 = 10;

    /// For how long a share that audits do not take is saved up.
    pub const SAVED: Duration = Duration::from_secs(300);

    /// For how long a share that walks on demand do not take is saved up.
    pub const SAVED_ON_DEMAND: Duration = Duration::from_secs(20);

    /// The part of one core that walks on demand may take.
    #[must_use]
    pub fn share_on_demand(&self) -> f64 {
        (self.share * Self::URGENCY).min(1.0)
    }

    /// The time between audits of this `cost` while connections come and go.
    #[must_use]
    pub fn regular(&self, cost: Duration) -> Duration {
        self.interval.max(cost.div_f64(self.share))
    }

    /// The time between walks of this `cost` that somebody waits for.
    #[must_use]
    pub fn on_demand(&self, cost: Duration) -> Duration {
        cost.div_f64(self.share * Self::URGENCY)
    }

    /// The time between audits of this `cost` that have a reason to find something.
    #[must_use]
    pub fn urgent(&self, cost: Duration) -> Duration {
        self.interval.max(self.on_demand(cost))
    }

    /// The time between audits of this `cost` while nothing happens.
    #[must_use]
    pub fn idle(&self, cost: Duration) -> Duration {
        self.regular(cost).saturating_mul(Self::IDLENESS)
    }
}

/// Why an audit is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Events came since the last one, and it was a while ago.
    Timer,
    /// Events came since the last one, and have ceased.
    Rest,
    /// No event came since the last one: what no invariant shows is found all the same.
    Idle,
    /// The two copies of the handler disagree about the number of events, by so many.
    Missed(u64),
    /// A total that the kernel keeps itself differs.
    Invariant(&'static str),
    /// A gauge is below zero.
    Negative(State),
    /// The last seeding is not to be trusted.
    Failure,
    /// The recounts of the last audit disagreed, and corrected nothing.
    Disagreement,
    /// Events were lost before, and have ceased a while ago without an audit since.
    Unconfirmed,
    /// Ports have got their first listener: connections that they had before are not in their
    /// counts yet. The counts of states are not concerned.
    Ports,
    /// A namespace never rests, so that only a count from inside says what is there.
    Busy,
    /// The hooks of timewait minisockets are attached: a bank that is seeded now counts them.
    TimewaitHooks,
}

impl Cause {
    /// How long amid events it has to stand before readings are marked: a task that is preempted
    /// between two steps of the kernel explains some causes as well. None if it concerns no count.
    #[must_use]
    pub const fn marked_after(&self) -> Option<Duration> {
        match self {
            Self::Invariant(_) | Self::Negative(_) | Self::Disagreement => {
                Some(Duration::from_secs(1))
            }
            Self::Missed(_) | Self::Failure | Self::Unconfirmed => Some(Duration::ZERO),
            Self::Timer
            | Self::Rest
            | Self::Idle
            | Self::Ports
            | Self::Busy
            | Self::TimewaitHooks => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timer => f.write_str("timer"),
            Self::Rest => f.write_str("rest"),
            Self::Idle => f.write_str("idle"),
            Self::Missed(events) => write!(f, "{events} state changes missed"),
            Self::Invariant(name) => write!(f, "{name} differs"),
            Self::Negative(state) => write!(f, "{state} below zero"),
            Self::Failure => f.write_str("last seeding failed"),
            Self::Disagreement => f.write_str("the recounts of the last audit disagreed"),
            Self::Unconfirmed => f.write_str("no audit since the last state change"),
            Self::Ports => f.write_str("new ports"),
            Self::Busy => f.write_str("busy"),
            Self::TimewaitHooks => f.write_str("timewait hooks attached"),
        }
    }
}

/// What was seen since the last audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditInputs {
    /// Time since the last audit ended.
    pub since_audit: Duration,
    /// What an audit costs.
    pub cost: Duration,
    /// The processor time that audits have saved up.
    pub saved: Duration,
    /// Events came since the last audit began.
    pub moved: bool,
    /// No event came for a while.
    pub quiet: bool,
    /// The last audit began in such a quiet.
    pub settled: bool,
    /// A reason to expect a difference.
    pub suspicion: Option<Cause>,
}

/// So many audits are left for when things come to rest: one, and one that decides what it found.
const AT_REST: u32 = 2;

/// Whether an audit is due, and why.
#[must_use]
pub fn due(pace: &Pace, inputs: &AuditInputs) -> Option<Cause> {
    let affords = |audits| inputs.saved >= inputs.cost * audits;
    // Counts have to be exact as soon as events cease. What an audit costs then is not known: one
    // amid events costs more. An audit that began amid events may have missed what was lost at
    // their very end.
    let unsettled = inputs.quiet && !inputs.settled;
    if unsettled && inputs.since_audit >= pace.interval && !inputs.saved.is_zero() {
        return Some(inputs.suspicion.clone().unwrap_or(Cause::Rest));
    }
    // While events come, something is left for when they cease.
    let reserve = if inputs.quiet { 0 } else { AT_REST };
    let urgent = inputs.since_audit >= pace.urgent(inputs.cost);
    if urgent && inputs.suspicion.is_some() && affords(1 + reserve) {
        return inputs.suspicion.clone();
    }
    let (pause, cause) = if inputs.moved {
        (pace.regular(inputs.cost), Cause::Timer)
    } else {
        (pace.idle(inputs.cost), Cause::Idle)
    };
    // An audit without a reason leaves enough for those that have one.
    (inputs.since_audit >= pause && affords(RESERVE)).then_some(cause)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{AuditInputs, Cause, Pace, RESERVE, due};
    use crate::track::resources::budget::Budget;

    const PACE: Pace = Pace {
        interval: Duration::from_secs(1),
        share: 0.005,
    };

    fn inputs(since_audit: u64, cost_ms: u64) -> AuditInputs {
        AuditInputs {
            since_audit: Duration::from_secs(since_audit),
            cost: Duration::from_millis(cost_ms),
            saved: Duration::from_secs(100),
            moved: true,
            quiet: false,
            settled: false,
            suspicion: None,
        }
    }

    #[test]
    fn a_small_host_is_audited_every_interval() {
        assert_eq!(due(&PACE, &inputs(1, 4)), Some(Cause::Timer));
        assert_eq!(due(&PACE, &inputs(0, 4)), None);
    }

    #[test]
    fn a_large_host_keeps_to_its_share() {
        assert_eq!(due(&PACE, &inputs(79, 400)), None);
        assert_eq!(due(&PACE, &inputs(80, 400)), Some(Cause::Timer));
    }

    #[test]
    fn rest_is_audited_once() {
        let rest = |seconds| AuditInputs {
            quiet: true,
            ..inputs(seconds, 400)
        };
        assert_eq!(due(&PACE, &rest(0)), None);
        assert_eq!(due(&PACE, &rest(1)), Some(Cause::Rest));
        let peace = AuditInputs {
            moved: false,
            settled: true,
            ..rest(8)
        };
        assert_eq!(due(&PACE, &peace), None);
    }

    /// What breaks no invariant is found within ten intervals on a small host, and for a tenth of
    /// the share on a large one.
    #[test]
    fn rest_that_lasts_is_audited_slowly() {
        let idle = |seconds, cost_ms| {
            let inputs = AuditInputs {
                moved: false,
                quiet: true,
                settled: true,
                ..inputs(seconds, cost_ms)
            };
            due(&PACE, &inputs)
        };
        assert_eq!((idle(9, 4), idle(10, 4)), (None, Some(Cause::Idle)));
        assert_eq!((idle(799, 400), idle(800, 400)), (None, Some(Cause::Idle)));
    }

    #[test]
    fn an_audit_takes_what_is_saved_and_leaves_some_unless_it_has_a_reason() {
        let poor = |saved_ms, suspicion| AuditInputs {
            saved: Duration::from_millis(saved_ms),
            suspicion,
            ..inputs(1000, 4)
        };
        assert_eq!(due(&PACE, &poor(19, None)), None);
        assert_eq!(due(&PACE, &poor(20, None)), Some(Cause::Timer));
        let suspicion = Some(Cause::Failure);
        assert_eq!(due(&PACE, &poor(11, suspicion.clone())), None);
        assert_eq!(due(&PACE, &poor(12, suspicion.clone())), suspicion);
        let rest = |saved_ms| AuditInputs {
            quiet: true,
            ..poor(saved_ms, suspicion.clone())
        };
        assert_eq!(due(&PACE, &rest(0)), None);
        assert_eq!(due(&PACE, &rest(1)), suspicion);
        let settled = |saved_ms| AuditInputs {
            settled: true,
            ..rest(saved_ms)
        };
        assert_eq!(due(&PACE, &settled(3)), None);
        assert_eq!(due(&PACE, &settled(4)), suspicion);
    }

    /// A reason that no audit removes, for an hour: on hosts of any size the audits stay within
    /// their share and what was saved up.
    #[test]
    fn a_reason_that_stays_is_not_audited_beyond_the_share() {
        for cost_ms in [4, 20, 400, 2_000] {
            let start = Instant::now();
            let cost = Duration::from_millis(cost_ms);
            let mut budget = Budget::new(PACE.share, Pace::SAVED, cost, start);
            let (mut last, mut spent) = (start, Duration::ZERO);
            for second in 1..=3600 {
                let now = start + Duration::from_secs(second);
                let inputs = AuditInputs {
                    since_audit: now - last,
                    saved: budget.saved(now),
                    suspicion: Some(Cause::Failure),
                    ..inputs(0, cost_ms)
                };
                if due(&PACE, &inputs).is_some() {
                    budget.spend(cost, now);
                    spent += cost;
                    last = now;
                }
            }
            let saved = Pace::SAVED.mul_f64(PACE.share).max(cost * RESERVE);
            let most = Duration::from_secs(3600).mul_f64(PACE.share) + saved;
            assert!(spent <= most, "{spent:?} for {cost:?} each");
            let least = Duration::from_secs(17).min(cost * 3600);
            assert!(spent >= least, "{spent:?} for {cost:?} each");
        }
    }

    #[test]
    fn a_suspicion_comes_first_but_not_at_any_price() {
        let suspect = |seconds| AuditInputs {
            suspicion: Some(Cause::Missed(3)),
            ..inputs(seconds, 400)
        };
        assert_eq!(due(&PACE, &suspect(7)), None);
        assert_eq!(due(&PACE, &suspect(8)), Some(Cause::Missed(3)));
        let peaceful = AuditInputs {
            moved: false,
            quiet: true,
            settled: true,
            ..suspect(8)
        };
        assert_eq!(due(&PACE, &peaceful), Some(Cause::Missed(3)));
    }
}
