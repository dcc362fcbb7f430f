//! What is wrong in a reading, by the thresholds of the alert rules in `templates/`.

use tcp_status_common::state::State;

use super::{Fullness, Group, MANY_HALF_OPEN, Snapshot};

/// Connections that their program does not close, from which on it leaks them.
const LEAKED: u64 = 50;

/// Share of the ephemeral ports, in percent, from which on they are nearly used up.
const NEARLY_USED: u64 = 80;

/// How urgent a problem is, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Clients are turned away.
    Critical,
    /// They will be, or resources are lost.
    Warning,
}

impl Severity {
    /// As outputs show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "CRITICAL",
            Self::Warning => "WARNING",
        }
    }
}

/// Something that is wrong at the moment of a reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How urgent it is.
    pub severity: Severity,
    /// What is wrong, where, and which command says more.
    pub text: String,
}

impl Snapshot {
    /// What is wrong, the most urgent first; nothing if nothing is.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<_> = self.groups().iter().filter_map(queue_problem).collect();
        let rest = [self.half_open(), self.leak(), self.ephemeral_ports_used()];
        problems.extend(rest.into_iter().flatten());
        problems.sort_by_key(|problem| problem.severity);
        problems
    }

    fn half_open(&self) -> Option<Problem> {
        let half_open = self.states[State::SynRecv];
        let at_listeners = |group: &Group<'_>| group.fullness() >= Fullness::SynFilling;
        if half_open <= MANY_HALF_OPEN.into() || self.groups().iter().any(at_listeners) {
            return None;
        }
        warning(format!("{half_open} connections are half-open"))
    }

    fn leak(&self) -> Option<Problem> {
        let stale = self.stale.filter(|stale| stale.closewait > LEAKED)?;
        let (leaked, seconds) = (stale.closewait, stale.older_than_seconds);
        let cgroups = self.cgroups.iter().flat_map(|found| &found.tracked);
        let most = cgroups.max_by_key(|one| one.states[State::CloseWait]);
        let most = most.filter(|one| one.states[State::CloseWait] > LEAKED);
        let owner = most.and_then(|one| one.name.unit.as_ref().or(one.name.path.as_ref()));
        let owner = owner.map_or("a program", String::as_str);
        warning(format!(
            "{leaked} connections are in closewait for over {seconds} s: {owner} does not close them; \
             tcp-status who --by process --state closewait"
        ))
    }

    fn ephemeral_ports_used(&self) -> Option<Problem> {
        let ports = u64::from(self.ephemeral_ports.filter(|&ports| ports > 0)?);
        let percent = self.ports.outgoing.as_ref()?.total() * 100 / ports;
        if percent <= NEARLY_USED {
            return None;
        }
        warning(format!(
            "outgoing connections are {percent} % of the ephemeral ports; \
             tcp-status who --by destination"
        ))
    }
}

fn warning(text: String) -> Option<Problem> {
    Some(Problem {
        severity: Severity::Warning,
        text,
    })
}

/// What is wrong with the queues of the sockets that listen at one address.
fn queue_problem(group: &Group<'_>) -> Option<Problem> {
    let fullest = group.sockets.iter().max_by_key(|one| one.fullness())?;
    let (waiting, limit) = (fullest.accept_queue, fullest.accept_queue_limit);
    let half_open = fullest.syn_queue.unwrap_or(0);
    let (severity, what) = match fullest.fullness() {
        Fullness::Room => return None,
        Fullness::WasFull => (Severity::Warning, "the accept queue was full".into()),
        Fullness::SynFilling => (
            Severity::Warning,
            format!("{half_open} connections are half-open"),
        ),
        Fullness::SynFull => (
            Severity::Critical,
            format!("the SYN queue is full: {half_open} half-open"),
        ),
        Fullness::Full => (
            Severity::Critical,
            format!("the accept queue is full: {waiting} wait, limit {limit}"),
        ),
    };
    let port = fullest.port;
    let unit = fullest.unit.as_ref();
    let of = unit.map_or_else(String::new, |unit| format!(" ({unit})"));
    Some(Problem {
        severity,
        text: format!("port {port}{of}: {what}"),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use tcp_status_common::state::State;

    use super::{Problem, Severity};
    use crate::snapshot::{
        CgroupCounts, CgroupName, Cgroups, Counts, Listener, Ports, Snapshot, Stale, Tier,
    };

    fn snapshot() -> Snapshot {
        Snapshot::of(Tier::Full, 1, [Counts::default(); 2])
    }

    fn stale(closewait: u64) -> Stale {
        Stale {
            closewait,
            finwait2: 0,
            older_than_seconds: 60,
            walked_seconds_ago: 1,
        }
    }

    fn listener(port: u16, accept_queue: u32, syn_queue: u32) -> Listener {
        Listener {
            family: 4,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port,
            uid: None,
            reuseport: false,
            accept_queue,
            accept_queue_limit: 128,
            accept_queue_peak: Some(accept_queue),
            syn_queue: Some(syn_queue),
            syn_queue_limit: Some(256),
            cgroup: None,
            unit: Some("app.service".into()),
        }
    }

    #[test]
    fn at_rest_nothing_is_wrong() {
        let mut healthy = snapshot();
        healthy.listeners = vec![listener(80, 128, 127)];
        healthy.stale = Some(stale(50));
        healthy.ephemeral_ports = Some(0);
        healthy.ports.outgoing = Some(Counts::default());
        assert_eq!(healthy.problems(), []);
    }

    #[test]
    fn each_problem_says_what_is_wrong_and_where_the_most_urgent_first() {
        let mut sick = snapshot();
        let mut counts = Counts::default();
        counts[State::CloseWait] = 51;
        sick.stale = Some(stale(51));
        sick.cgroups = Some(Cgroups {
            tracked: vec![CgroupCounts {
                id: 7,
                name: CgroupName {
                    unit: Some("leaky.service".into()),
                    ..CgroupName::default()
                },
                states: counts,
            }],
            ..Cgroups::default()
        });
        sick.ephemeral_ports = Some(62);
        sick.ports = Ports {
            outgoing: Some(counts),
            ..Ports::default()
        };
        sick.listeners = vec![listener(80, 129, 0), listener(81, 0, 256)];
        let expected = [
            (
                Severity::Critical,
                "port 80 (app.service): the accept queue is full: 129 wait, limit 128",
            ),
            (
                Severity::Critical,
                "port 81 (app.service): the SYN queue is full: 256 half-open",
            ),
            (
                Severity::Warning,
                "51 connections are in closewait for over 60 s: leaky.service does not close them; \
                 tcp-status who --by process --state closewait",
            ),
            (
                Severity::Warning,
                "outgoing connections are 82 % of the ephemeral ports; tcp-status who --by destination",
            ),
        ];
        let expected = expected.map(|(severity, text)| Problem {
            severity,
            text: text.into(),
        });
        assert_eq!(sick.problems(), expected);
    }

    #[test]
    fn a_flood_that_no_listener_holds_is_a_problem_of_its_own() {
        let mut flooded = snapshot();
        flooded.states[State::SynRecv] = 257;
        let [one] = &flooded.problems()[..] else {
            panic!("{:?}", flooded.problems());
        };
        assert_eq!(one.text, "257 connections are half-open");
        flooded.listeners = vec![listener(80, 0, 250)];
        let [one] = &flooded.problems()[..] else {
            panic!("{:?}", flooded.problems());
        };
        assert_eq!(
            one.text,
            "port 80 (app.service): 250 connections are half-open"
        );
    }
}
