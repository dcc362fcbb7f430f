//! The wire: one request, one answer, each one line of JSON that ends in a newline.
//! Nothing else knows its form.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tcp_status_common::state::{Family, State};

use crate::{
    printable::printable,
    snapshot::{DEFAULT_WINDOW, MAX_WINDOW, Snapshot, minutes},
};

/// Version of the protocol; a tracker answers requests of its own version only.
pub const VERSION: u32 = 1;

/// The longest request, in bytes, its newline included.
pub const MAX_REQUEST: usize = 1024;

/// The longest answer, in bytes.
pub const MAX_RESPONSE: usize = 16 * 1024 * 1024;

/// How much of a name that a client sent comes back in an error, in characters.
const SHOWN: usize = 64;

/// The longest error message, in characters.
const MAX_MESSAGE: usize = 1000;

/// A request for one number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    /// Name of a state, in any spelling.
    pub state: String,
    /// Only sockets with this local port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Only this address family: 4 or 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<u8>,
    /// Another network namespace than the tracker's: a name, an inode number, or a PID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Only full sockets, and half-open connections, of cgroups of this name: a systemd unit, or a path
    /// and all below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

impl Get {
    /// The state that is asked for.
    ///
    /// # Errors
    /// A [`ApiError`] that lists the states.
    pub fn state(&self) -> Result<State, ApiError> {
        parse_state(&self.state)
    }

    /// The families that are asked for.
    ///
    /// # Errors
    /// A [`ApiError`] if it is neither 4 nor 6.
    pub fn families(&self) -> Result<&'static [Family], ApiError> {
        match self.family {
            None => Ok(&Family::ALL),
            Some(4) => Ok(&[Family::V4]),
            Some(6) => Ok(&[Family::V6]),
            Some(other) => Err(ApiError::bad_argument(format!(
                "cannot get family {other}: not an address family; use 4 or 6"
            ))),
        }
    }
}

/// A request for whole readings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Show {
    /// Only sockets with this local port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Another network namespace than the tracker's: a name, an inode number, or a PID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Every namespace that is tracked.
    #[serde(default)]
    pub all_netns: bool,
    /// How far back peaks and rates reach, in seconds: the time since this client's last poll.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
}

impl Get {
    /// Refuses what has no answer.
    pub(super) fn check(&self) -> Result<Option<u16>, ApiError> {
        self.state()?;
        self.families()?;
        let narrowed = self.port.is_some() || self.family.is_some() || self.netns.is_some();
        if self.cgroup.is_some() && narrowed {
            let why = "cannot combine cgroup with port, family or netns; use one of them";
            return Err(ApiError::bad_argument(why.into()));
        }
        Ok(self.port)
    }

    /// How long a client that waits for the number may not learn of a change: what changes without
    /// an event is read more often, and what changes with one hardly ever where the source is `notified`.
    pub(super) fn pause(&self, notified: bool) -> Duration {
        let by_events = self.netns.is_none()
            && self.state().is_ok_and(|state| {
                !matches!(state, State::SynRecv | State::FinWait2 | State::TimeWait)
            });
        Duration::from_millis(match (by_events, notified) {
            (true, true) => 10_000,
            (true, false) if self.cgroup.is_none() => 1000,
            (true | false, _) => 100,
        })
    }
}

impl Show {
    /// How far back peaks and rates reach, in seconds.
    #[must_use]
    pub fn window(&self) -> u32 {
        self.window.unwrap_or(DEFAULT_WINDOW).clamp(1, MAX_WINDOW)
    }
}

/// A request for the history by minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// Name of a state, in any spelling; else all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// How far back, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u32>,
}

impl History {
    /// How far back it reaches unless the request says otherwise, in seconds.
    const SINCE: u32 = 3600;

    /// How far back, in seconds.
    #[must_use]
    pub fn since(&self) -> u32 {
        self.since.unwrap_or(Self::SINCE).clamp(1, MAX_WINDOW)
    }

    /// The state that is asked for.
    ///
    /// # Errors
    /// A [`ApiError`] that lists the states.
    pub fn state(&self) -> Result<Option<State>, ApiError> {
        self.state.as_deref().map(parse_state).transpose()
    }
}

fn parse_state(name: &str) -> Result<State, ApiError> {
    name.parse().map_err(|unknown| {
        let state = excerpt(name);
        ApiError::bad_argument(format!("cannot get state \"{state}\": {unknown}"))
    })
}

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Query {
    /// One number.
    Get(Get),
    /// Whole readings.
    Show(Show),
    /// The history by minute.
    History(History),
    /// An answer once a number is above or below a bound.
    Wait(Wait),
}

/// Until when to wait. Exactly one of `above` and `below` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// The number.
    pub of: Get,
    /// It has to be greater.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<u64>,
    /// It has to be less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<u64>,
    /// For so long, in milliseconds.
    #[serde(default)]
    pub hold: u64,
    /// The answer comes after so many milliseconds at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

impl Wait {
    /// The answer comes after so long at the latest, if at all limited.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        self.timeout.map(Duration::from_millis)
    }

    /// Whether the bound is met.
    #[must_use]
    pub fn is_met(&self, value: u64) -> bool {
        self.above.is_some_and(|bound| value > bound)
            || self.below.is_some_and(|bound| value < bound)
    }
}

impl Query {
    /// Refuses what has no answer: a part of it would be ignored, or no socket can match.
    fn check(&self) -> Result<(), ApiError> {
        let port = match self {
            Self::Get(get) => get.check()?,
            Self::Wait(wait) => {
                if wait.above.is_some() == wait.below.is_some() {
                    let why = "cannot wait: no bound; give one of above and below";
                    return Err(ApiError::bad_argument(why.into()));
                }
                wait.of.check()?
            }
            Self::Show(show) if show.all_netns && show.netns.is_some() => {
                let why =
                    "cannot show one and all network namespaces; leave out netns or all_netns";
                return Err(ApiError::bad_argument(why.into()));
            }
            Self::Show(show) => show.port,
            Self::History(history) => {
                history.state()?;
                None
            }
        };
        if port == Some(0) {
            let why = "cannot query port 0: no socket has it; use 1 to 65535";
            return Err(ApiError::bad_argument(why.into()));
        }
        Ok(())
    }
}

/// A request, as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// What is asked.
    #[serde(flatten)]
    pub query: Query,
}

/// Why there is no answer; decides the client's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiErrorKind {
    /// The request names something that cannot exist.
    BadArgument,
    /// The kernel or a permission refuses.
    Refused,
    /// The tracker cannot answer now.
    Unavailable,
}

/// A refused request: what, on which object: why; cure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What went wrong.
    pub kind: ApiErrorKind,
    /// One line for the user.
    pub message: String,
}

/// An answer, as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Query::Get`].
    Value(u64),
    /// To [`Query::Wait`]: whether the bound was met, and the number then.
    Waited {
        /// Whether it was, for as long as it had to be.
        met: bool,
        /// The last number.
        value: u64,
    },
    /// To [`Query::Show`].
    Snapshots(Vec<Snapshot>),
    /// To [`Query::History`].
    History(minutes::History),
    /// Instead of an answer.
    Error(ApiError),
}

impl Request {
    /// A request of this version.
    #[must_use]
    pub const fn new(query: Query) -> Self {
        Self { v: VERSION, query }
    }

    /// From a line, with or without its newline.
    ///
    /// # Errors
    /// A [`ApiError`] if it is of another version or no request at all.
    pub fn decode(line: &[u8]) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }

        // The version first: requests of another one may look entirely different.
        let Version { v } =
            serde_json::from_slice(line).map_err(|error| malformed(&error.to_string()))?;
        if v != VERSION {
            return Err(ApiError {
                kind: ApiErrorKind::Unavailable,
                message: format!(
                    "cannot answer protocol version {v}: this tracker has version {VERSION} \
                     ({}); use the same version of tcp-status on both sides",
                    env!("CARGO_PKG_VERSION"),
                ),
            });
        }
        let request: Self =
            serde_json::from_slice(line).map_err(|error| malformed(&error.to_string()))?;
        request.query.check().map(|()| request)
    }
}

/// Of what is no request, and why.
pub(super) fn malformed(why: &str) -> ApiError {
    let why: String = printable(why).chars().take(3 * SHOWN).collect();
    ApiError::bad_argument(format!(
        "cannot read the request: {why}; send one line of JSON, as tcp-status does"
    ))
}

/// The start of a name that a client sent, as an error shows it.
pub(crate) fn excerpt(name: &str) -> String {
    name.chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect()
}

impl ApiError {
    /// Of a request that names something that cannot exist.
    #[must_use]
    pub const fn bad_argument(message: String) -> Self {
        Self {
            kind: ApiErrorKind::BadArgument,
            message,
        }
    }

    /// The same with a short message without control characters, whatever a client has put in.
    #[must_use]
    pub fn printable(mut self) -> Self {
        self.message = printable(&self.message).chars().take(MAX_MESSAGE).collect();
        self
    }

    /// Of a request that cannot be answered now.
    #[must_use]
    pub const fn unavailable(message: String) -> Self {
        Self {
            kind: ApiErrorKind::Unavailable,
            message,
        }
    }
}

/// One line, its newline included.
///
/// # Errors
/// Never for the types of this module.
pub fn encode(message: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// What a client sends: understood, it reads back; refused, the refusal fits into a line.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(line: &[u8]) {
    let encoded = |line: serde_json::Result<Vec<u8>>| {
        let line = line.expect("encoding never fails");
        assert_eq!(
            line.iter().position(|byte| *byte == b'\n'),
            Some(line.len() - 1)
        );
        line
    };
    match Request::decode(line) {
        Ok(request) => {
            match &request.query {
                Query::Get(get) => drop((get.state(), get.families())),
                Query::Show(show) => assert!((1..=MAX_WINDOW).contains(&show.window())),
                Query::Wait(wait) => drop((wait.of.state(), wait.is_met(1))),
                Query::History(history) => drop((history.state(), history.since())),
            }
            assert_eq!(Request::decode(&encoded(encode(&request))), Ok(request));
        }
        Err(refusal) => {
            assert_eq!(refusal.clone().printable(), refusal);
            drop(encoded(encode(&Response::Error(refusal))));
        }
    }
}

#[cfg(test)]
mod tests;
