//! When to audit: pure rules over what was observed, so that every situation can be invented.

use std::{fmt, time::Duration};

use tcp_status_common::state::State;

/// What the user may set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The shortest time between audits.
    pub interval: Duration,
    /// The part of one core that audits may take, 0.005 for half a per cent.
    pub share: f64,
}

impl Pace {
    /// An audit that has a reason to find something may take so many times its usual share.
    const URGENCY: f64 = 10.0;

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
}

/// Why an audit is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Events came since the last one, and it was a while ago.
    Timer,
    /// Events came since the last one, and have ceased.
    Rest,
    /// The two copies of the handler disagree about the number of events, by so many.
    Missed(u64),
    /// A total that the kernel keeps itself differs.
    Invariant(&'static str),
    /// A gauge is below zero.
    Negative(State),
    /// The last seeding is not to be trusted.
    Failure,
    /// Ports have got their first listener: connections that they had before are not in their
    /// counts yet. The counts of states are not concerned.
    Ports,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timer => f.write_str("timer"),
            Self::Rest => f.write_str("rest"),
            Self::Missed(events) => write!(f, "{events} state changes missed"),
            Self::Invariant(name) => write!(f, "{name} differs"),
            Self::Negative(state) => write!(f, "{state} below zero"),
            Self::Failure => f.write_str("last seeding failed"),
            Self::Ports => f.write_str("new ports"),
        }
    }
}

/// What was seen since the last audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Motion {
    /// Time since the last audit ended.
    pub since_audit: Duration,
    /// What the last audit cost.
    pub cost: Duration,
    /// Events came since the last audit began.
    pub moved: bool,
    /// No event came since the last look.
    pub quiet: bool,
    /// The last audit began in such a quiet.
    pub settled: bool,
    /// A reason to expect a difference.
    pub suspicion: Option<Cause>,
}

/// Whether an audit is due, and why.
#[must_use]
pub fn due(pace: &Pace, motion: &Motion) -> Option<Cause> {
    let (regular, urgent) = (pace.regular(motion.cost), pace.urgent(motion.cost));
    if let Some(cause) = &motion.suspicion {
        return (motion.since_audit >= urgent).then(|| cause.clone());
    }
    // An audit that began while events came may have missed what the kernel told nobody at
    // their very end: one more in the quiet makes sure, and then there is peace.
    if motion.quiet && !motion.settled {
        return (motion.since_audit >= urgent).then_some(Cause::Rest);
    }
    (motion.moved && motion.since_audit >= regular).then_some(Cause::Timer)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Cause, Motion, Pace, due};

    const PACE: Pace = Pace {
        interval: Duration::from_secs(1),
        share: 0.005,
    };

    fn motion(since_audit: u64, cost_ms: u64) -> Motion {
        Motion {
            since_audit: Duration::from_secs(since_audit),
            cost: Duration::from_millis(cost_ms),
            moved: true,
            quiet: false,
            settled: false,
            suspicion: None,
        }
    }

    #[test]
    fn a_small_host_is_audited_every_interval() {
        assert_eq!(due(&PACE, &motion(1, 4)), Some(Cause::Timer));
        assert_eq!(due(&PACE, &motion(0, 4)), None);
    }

    #[test]
    fn a_large_host_keeps_to_its_share() {
        assert_eq!(due(&PACE, &motion(79, 400)), None);
        assert_eq!(due(&PACE, &motion(80, 400)), Some(Cause::Timer));
    }

    #[test]
    fn rest_is_audited_once() {
        let rest = Motion {
            quiet: true,
            ..motion(8, 400)
        };
        assert_eq!(due(&PACE, &rest), Some(Cause::Rest));
        let peace = Motion {
            moved: false,
            settled: true,
            ..rest
        };
        assert_eq!(due(&PACE, &peace), None);
        assert_eq!(
            due(
                &PACE,
                &Motion {
                    since_audit: Duration::MAX,
                    ..peace
                }
            ),
            None
        );
    }

    #[test]
    fn a_suspicion_comes_first_but_not_at_any_price() {
        let suspect = |seconds| Motion {
            suspicion: Some(Cause::Missed(3)),
            ..motion(seconds, 400)
        };
        assert_eq!(due(&PACE, &suspect(7)), None);
        assert_eq!(due(&PACE, &suspect(8)), Some(Cause::Missed(3)));
        let peaceful = Motion {
            moved: false,
            quiet: true,
            settled: true,
            ..suspect(8)
        };
        assert_eq!(due(&PACE, &peaceful), Some(Cause::Missed(3)));
    }
}
