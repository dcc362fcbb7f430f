//! What is wrong in a reading, by the thresholds of `templates/rules.json`.

use std::{collections::HashSet, net::IpAddr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tcp_status_common::state::State;

use super::{Counts, Fullness, Group, MANY_HALF_OPEN, NoLocalPortDestination, Snapshot, Stale};

/// Connections that their program does not close, above which it leaks them.
const LEAKED: u64 = 50;

/// Share of the ephemeral ports, in percent, above which they are nearly used up.
const NEARLY_USED: u64 = 80;

/// Seconds since the last `connect()` that found no local port, below which that is a problem.
const NO_LOCAL_PORT_PERIOD: u64 = 300;

/// Seconds until a destination has used up all ephemeral ports, below which that is a problem.
const EXHAUSTED_SOON: u64 = 600;

/// Whether connections leak: more than a few are stale in CLOSE_WAIT.
#[must_use]
pub const fn is_leak(stale: &Stale) -> bool {
    stale.closewait > LEAKED
}

/// Whether so many outgoing connections nearly use up the ephemeral ports.
#[must_use]
pub fn nearly_uses(outgoing: u64, ephemeral_ports: u32) -> bool {
    ephemeral_ports > 0 && outgoing * 100 > NEARLY_USED * u64::from(ephemeral_ports)
}

/// The rules by which a reading has a problem, with the ids of `templates/rules.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// An accept queue is full.
    AcceptQueueOverflow,
    /// An accept queue was full within the window.
    AcceptQueueFilling,
    /// A SYN queue is full.
    SynQueueFull,
    /// Many connections are half-open, at a listener or at all of them.
    HalfOpen,
    /// A program does not close its connections.
    CloseWaitLeak,
    /// Outgoing connections nearly use up the ephemeral ports.
    EphemeralPorts,
    /// A destination will soon have used them up.
    EphemeralPortsFilling,
    /// A connect() finds no local port.
    NoLocalPort,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::AcceptQueueOverflow,
        Self::AcceptQueueFilling,
        Self::SynQueueFull,
        Self::HalfOpen,
        Self::CloseWaitLeak,
        Self::EphemeralPorts,
        Self::EphemeralPortsFilling,
        Self::NoLocalPort,
    ];

    /// In one or two words.
    #[must_use]
    pub const fn mark(self) -> &'static str {
        match self {
            Self::AcceptQueueOverflow => Fullness::Full.name(),
            Self::AcceptQueueFilling => Fullness::WasFull.name(),
            Self::SynQueueFull => Fullness::SynFull.name(),
            Self::HalfOpen => Fullness::SynFilling.name(),
            Self::CloseWaitLeak => "leak",
            Self::EphemeralPorts => "no ports",
            Self::EphemeralPortsFilling => "filling",
            Self::NoLocalPort => "NO PORTS",
        }
    }
}

/// What a problem is known by from one reading to the next: its rule, and the port of its listener; 0 where it
/// is about the whole namespace.
pub type ProblemKey = (Rule, u16);

/// How urgent a problem is, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

/// What a reading has counts of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// A local port that has or had a listener.
    Port(u16),
    /// Connections whose local port has no listener.
    Outgoing,
    /// A cgroup, by its id.
    Cgroup(u64),
    /// All sockets in one state.
    #[serde(serialize_with = "state_name", deserialize_with = "named_state")]
    State(State),
    /// Connections with one peer.
    Remote(IpAddr),
}

fn state_name<S: Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.name())
}

fn named_state<'de, D: Deserializer<'de>>(deserializer: D) -> Result<State, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse().map_err(D::Error::custom)
}

/// Something that is wrong at the moment of a reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// Which limit is exceeded.
    pub rule: Rule,
    /// How urgent it is.
    pub severity: Severity,
    /// What is wrong, and where.
    pub text: String,
    /// Which command says more.
    pub hint: Option<String>,
    /// Where, the most telling first.
    pub at: Vec<Subject>,
    /// When it began, in seconds of Unix time; none if nothing sampled it, or if it is older than the samples.
    pub since: Option<f64>,
    /// When it was first sampled, if it may have begun at any time before.
    pub since_before: Option<f64>,
}

impl Problem {
    fn new(rule: Rule, severity: Severity, text: String, at: Vec<Subject>) -> Self {
        Self {
            rule,
            severity,
            text,
            hint: None,
            at,
            since: None,
            since_before: None,
        }
    }

    /// In one or two words.
    #[must_use]
    pub const fn mark(&self) -> &'static str {
        self.rule.mark()
    }

    /// What it is known by. A queue that was full is known as the full one.
    #[must_use]
    pub fn key(&self) -> ProblemKey {
        let rule = match self.rule {
            Rule::AcceptQueueFilling => Rule::AcceptQueueOverflow,
            rule => rule,
        };
        match self.at.first() {
            Some(&Subject::Port(port)) if rule != Rule::CloseWaitLeak => (rule, port),
            _ => (rule, 0),
        }
    }
}

impl Snapshot {
    /// Fills in [`Snapshot::problems`].
    #[must_use]
    pub fn with_problems(mut self) -> Self {
        self.problems = self.find_problems();
        self
    }

    /// What is wrong, the most urgent first; nothing if nothing is.
    #[must_use]
    pub fn find_problems(&self) -> Vec<Problem> {
        let mut problems: Vec<_> = self.groups().iter().filter_map(Group::problem).collect();
        let ports = self.no_local_port();
        let ports = ports.or_else(|| self.ephemeral_ports_used());
        let ports = ports.or_else(|| self.ephemeral_ports_filling());
        let rest = [self.half_open(), self.leak(), ports];
        problems.extend(rest.into_iter().flatten());
        problems.sort_by_key(|problem| problem.severity);
        // Of a port that listens at several addresses.
        let mut seen = HashSet::new();
        problems.retain(|problem| seen.insert((problem.rule, problem.at.clone())));
        problems
    }

    /// Adds the namespace to the hints, which name commands that walk that of the caller otherwise.
    pub fn name_netns_in_hints(&mut self) {
        let hints = self.problems.iter_mut();
        for hint in hints.filter_map(|problem| problem.hint.as_mut()) {
            *hint += &format!(" --netns {}", self.netns);
        }
    }

    fn half_open(&self) -> Option<Problem> {
        let half_open = self.states[State::SynRecv];
        let at_listeners = |group: &Group<'_>| group.fullness() >= Fullness::SynFilling;
        if half_open <= MANY_HALF_OPEN.into() || self.groups().iter().any(at_listeners) {
            return None;
        }
        Some(Problem::new(
            Rule::HalfOpen,
            Severity::Warning,
            format!("{half_open} connections are half-open"),
            vec![Subject::State(State::SynRecv)],
        ))
    }

    fn leak(&self) -> Option<Problem> {
        let stale = self.stale.filter(is_leak)?;
        let (leaked, seconds) = (stale.closewait, stale.older_than_seconds);
        let closewait = |states: &Counts| states[State::CloseWait];
        let cgroups = self.cgroups.iter().flat_map(|found| &found.tracked);
        let cgroup = cgroups.max_by_key(|one| closewait(&one.states));
        let cgroup = cgroup.filter(|one| closewait(&one.states) > LEAKED);
        let owner = cgroup.and_then(|one| one.name.unit.as_ref().or(one.name.path.as_ref()));
        let owner = owner.map_or("a program", String::as_str);
        let ports = self.ports.tracked.iter();
        let ports = ports.map(|one| (closewait(&one.states), Subject::Port(one.port)));
        let outgoing = self.ports.outgoing.iter();
        let outgoing = outgoing.map(|states| (closewait(states), Subject::Outgoing));
        let port = ports.chain(outgoing).max_by_key(|(count, _)| *count);
        let port = port.filter(|(count, _)| *count > LEAKED);
        let at = cgroup.map(|one| Subject::Cgroup(one.id)).into_iter();
        let at = at.chain(port.map(|(_, at)| at));
        let text = format!(
            "{owner} does not close {leaked} connections: in closewait for over {seconds} s"
        );
        let at = at.chain([Subject::State(State::CloseWait)]).collect();
        Some(Problem {
            hint: Some("tcp-status who --by process --state closewait".into()),
            ..Problem::new(Rule::CloseWaitLeak, Severity::Warning, text, at)
        })
    }

    fn no_local_port(&self) -> Option<Problem> {
        let all = self.no_local_port_destinations.as_deref()?;
        let recent = |one: &&NoLocalPortDestination| one.last_seconds_ago < NO_LOCAL_PORT_PERIOD;
        let last = all.iter().find(recent)?.last_seconds_ago;
        let most = all.iter().filter(recent).max_by_key(|one| one.failures)?;
        let listed = all.iter().map(|one| one.failures).sum();
        let total = self.ends.map_or(listed, |ends| ends.no_local_port);
        let text = format!(
            "connects fail for want of a local port: {total} since start, most to {most}, the last \
             {last} s ago"
        );
        Some(outgoing_problem(
            Rule::NoLocalPort,
            Severity::Critical,
            text,
        ))
    }

    fn ephemeral_ports_used(&self) -> Option<Problem> {
        let ports = self.ephemeral_ports?;
        let outgoing = self.ports.outgoing.as_ref()?.total();
        if !nearly_uses(outgoing, ports) {
            return None;
        }
        let percent = outgoing * 100 / u64::from(ports);
        let fullest = self.fullest_destination.as_ref();
        let fullest = fullest.map_or_else(String::new, |fullest| format!("; {fullest}"));
        let text = format!("outgoing connections are {percent} % of the ephemeral ports{fullest}");
        Some(outgoing_problem(
            Rule::EphemeralPorts,
            Severity::Warning,
            text,
        ))
    }

    fn ephemeral_ports_filling(&self) -> Option<Problem> {
        let fullest = self.fullest_destination.as_ref()?;
        let soon = fullest.seconds_until_exhausted? < EXHAUSTED_SOON;
        let rule = Rule::EphemeralPortsFilling;
        soon.then(|| outgoing_problem(rule, Severity::Warning, fullest.to_string()))
    }
}

/// A problem of outgoing connections.
fn outgoing_problem(rule: Rule, severity: Severity, text: String) -> Problem {
    Problem {
        hint: Some("tcp-status who --by destination".into()),
        ..Problem::new(rule, severity, text, vec![Subject::Outgoing])
    }
}

impl Group<'_> {
    /// What is wrong with the queues of the sockets that listen at one address.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        let fullest = self.sockets.iter().max_by_key(|one| one.fullness())?;
        let (waiting, limit) = (fullest.accept_queue, fullest.accept_queue_limit);
        let half_open = fullest.syn_queue.unwrap_or(0);
        let (rule, severity, what) = match fullest.fullness() {
            Fullness::Room => return None,
            Fullness::WasFull => (
                Rule::AcceptQueueFilling,
                Severity::Warning,
                "the accept queue was full".into(),
            ),
            Fullness::SynFilling => (
                Rule::HalfOpen,
                Severity::Warning,
                format!("{half_open} connections are half-open"),
            ),
            Fullness::SynFull => (
                Rule::SynQueueFull,
                Severity::Critical,
                format!("the SYN queue is full: {half_open} half-open"),
            ),
            Fullness::Full => (
                Rule::AcceptQueueOverflow,
                Severity::Critical,
                format!("the accept queue is full: {waiting} wait, limit {limit}"),
            ),
        };
        let port = fullest.port;
        let unit = fullest.unit.as_ref();
        let of = unit.map_or_else(String::new, |unit| format!(" ({unit})"));
        let cgroup = fullest.cgroup.map(Subject::Cgroup);
        Some(Problem::new(
            rule,
            severity,
            format!("port {port}{of}: {what}"),
            [Subject::Port(port)].into_iter().chain(cgroup).collect(),
        ))
    }
}

#[cfg(test)]
mod tests;
