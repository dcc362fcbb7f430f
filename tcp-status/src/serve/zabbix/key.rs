//! Item keys: from text to a question, and from a question to a value. The same keys as in the
//! agent's configuration file, with the same meaning. Knows no wire.

use crate::{
    serve::{
        Source,
        protocol::{ApiError, Get, Show, excerpt},
    },
    snapshot::{Cgroups, Snapshot},
    view::{
        cgroups::CgroupRows,
        discovery,
        listeners::Listeners,
        ports::{Selection, Sort},
    },
};

/// The key of everything at once.
const ALL: &str = "tcp.status.all";
/// The key of low-level discovery.
const DISCOVERY: &str = "tcp.status.discovery";
/// The key of listening sockets.
const LISTENERS: &str = "tcp.status.listeners";
/// The key of connections by cgroup.
const CGROUPS: &str = "tcp.status.cgroups";
/// The key of their low-level discovery.
const DISCOVERY_CGROUPS: &str = "tcp.status.discovery.cgroups";
/// The key of one number; its parameters are a state, and a port or a cgroup.
const NUMBER: &str = "tcp.status";

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemKey {
    /// `tcp.status[STATE]`, `tcp.status[STATE,PORT]` and `tcp.status[STATE,,CGROUP]`.
    Number(Get),
    /// `tcp.status.all`.
    All,
    /// `tcp.status.discovery`.
    Discovery,
    /// `tcp.status.listeners`.
    Listeners,
    /// `tcp.status.cgroups`.
    Cgroups,
    /// `tcp.status.discovery.cgroups`.
    DiscoveryCgroups,
}

/// Why a key has no value: the text that Zabbix shows as the item's error, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tcp-status: {0}")]
pub struct KeyError(String);

impl From<ApiError> for KeyError {
    fn from(refusal: ApiError) -> Self {
        Self(refusal.printable().message)
    }
}

impl From<serde_json::Error> for KeyError {
    fn from(error: serde_json::Error) -> Self {
        Self(format!("cannot answer: {error}; see the tracker's log"))
    }
}

impl ItemKey {
    /// From a key as the server sends it.
    ///
    /// # Errors
    /// A [`KeyError`] for anything that is no key of ours, or asks for what cannot be.
    pub fn parse(key: &str) -> Result<Self, KeyError> {
        let (name, parameters) = split(key).ok_or_else(|| {
            KeyError(format!(
                "cannot parse key \"{}\": its brackets or quotes do not end; write it as in \
                 tcp.status[established]",
                excerpt(key)
            ))
        })?;
        match name {
            NUMBER => number(&parameters).map(Self::Number),
            ALL => Ok(Self::All),
            DISCOVERY => Ok(Self::Discovery),
            LISTENERS => Ok(Self::Listeners),
            CGROUPS => Ok(Self::Cgroups),
            DISCOVERY_CGROUPS => Ok(Self::DiscoveryCgroups),
            _ => Err(KeyError(format!(
                "cannot parse key \"{}\": not a key of tcp-status; use tcp.status[STATE], \
                 tcp.status[STATE,PORT], tcp.status[STATE,,CGROUP], {ALL}, {DISCOVERY}, {LISTENERS}, \
                 {CGROUPS} or {DISCOVERY_CGROUPS}",
                excerpt(key)
            ))),
        }
    }

    /// The value.
    ///
    /// # Errors
    /// A [`KeyError`] with what the source says.
    pub fn answer(&self, source: &dyn Source) -> Result<String, KeyError> {
        match self {
            Self::Number(get) => Ok(source.get(get)?.to_string()),
            Self::All => Ok(serde_json::to_string(&reading(source)?)?),
            Self::Discovery => Ok(serde_json::to_string(&discovery::ports(&[reading(
                source,
            )?]))?),
            Self::Listeners => Ok(serde_json::to_string(&Listeners::from(&reading(source)?))?),
            Self::Cgroups => {
                let (snapshots, cgroups) = cgroups(source)?;
                let rows = CgroupRows::new(&snapshots, &cgroups, &EVERYTHING);
                Ok(serde_json::to_string(&rows)?)
            }
            Self::DiscoveryCgroups => {
                let (_, cgroups) = cgroups(source)?;
                Ok(serde_json::to_string(&discovery::cgroups(&cgroups))?)
            }
        }
    }
}

/// A reading of the tracker's own namespace.
fn reading(source: &dyn Source) -> Result<Snapshot, KeyError> {
    let mut all = source.show(&Show::default())?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(KeyError(
            "cannot show: the tracker sent not one reading; see its log".into(),
        )),
    }
}

/// All rows.
const EVERYTHING: Selection = Selection {
    sort: Sort::Total,
    limit: None,
    all: true,
};

/// Readings of all namespaces that are counted, and their cgroups together.
fn cgroups(source: &dyn Source) -> Result<(Vec<Snapshot>, Cgroups), KeyError> {
    let all = Show {
        all_netns: true,
        ..Show::default()
    };
    let snapshots = source.show(&all)?;
    match Cgroups::merge(&snapshots) {
        Ok(found) => Ok((snapshots, found)),
        Err(reason) => Err(KeyError(format!("cannot list cgroups: {reason}"))),
    }
}

fn number(parameters: &[String]) -> Result<Get, KeyError> {
    // More parameters than are known are dropped, as an agent does.
    let parameter = |index: usize| parameters.get(index).map_or("", String::as_str);
    let port = match parameter(1) {
        "" => None,
        text => Some(port(text).ok_or_else(|| {
            KeyError(format!(
                "cannot get port \"{}\": not a tcp port; use 1 to 65535",
                excerpt(text)
            ))
        })?),
    };
    let get = Get {
        state: parameter(0).into(),
        port,
        family: None,
        netns: None,
        cgroup: Some(parameter(2))
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
    };
    // Before the source is asked: a wrong name costs nothing.
    get.check()?;
    Ok(get)
}

fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.then(|| text.parse().ok()).flatten()?;
    (port != 0).then_some(port)
}

/// Name and parameters of a key:
/// <https://www.zabbix.com/documentation/6.0/en/manual/config/items/item/key>.
fn split(key: &str) -> Option<(&str, Vec<String>)> {
    let Some((name, rest)) = key.split_once('[') else {
        return Some((key, Vec::new()));
    };
    let mut parameters = Vec::new();
    let mut rest = rest;
    loop {
        let (parameter, after) = parameter(rest.trim_start_matches(' '))?;
        parameters.push(parameter);
        match after.as_bytes() {
            [b',', ..] => rest = &after[1..],
            [b']'] => return Some((name, parameters)),
            _ => return None,
        }
    }
}

/// One parameter, and what comes after it: a comma or a bracket.
fn parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ']'])?;
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut parameter = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((parameter, quoted[at + 1..].trim_start_matches(' '))),
            '\\' if quoted[at + 1..].starts_with('"') => {
                letters.next();
                parameter.push('"');
            }
            _ => parameter.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{ItemKey, split};
    use crate::{
        serve::{
            Source,
            protocol::{ApiError, Get, Show},
        },
        snapshot::{CgroupCounts, CgroupName, Cgroups, Counts, Snapshot, Tier},
    };

    /// Two namespaces with a cgroup each, if these are counted by cgroup.
    struct Two(bool);

    impl Source for Two {
        fn get(&self, _: &Get) -> Result<u64, ApiError> {
            unreachable!("cgroups are of readings")
        }

        fn show(&self, query: &Show) -> Result<Vec<Snapshot>, ApiError> {
            assert!(query.all_netns);
            let one = |netns: u32| Snapshot {
                cgroups: self.0.then(|| Cgroups {
                    tracked: vec![CgroupCounts {
                        id: netns.into(),
                        name: CgroupName::of(&format!("/{netns}.service")),
                        states: Counts::default(),
                    }],
                    ..Cgroups::default()
                }),
                cgroups_reason: (!self.0).then(|| "not here".into()),
                ..Snapshot::of(Tier::Full, netns, <_>::default())
            };
            Ok(vec![one(1), one(2)])
        }
    }

    #[test]
    fn cgroups_are_of_all_namespaces() {
        for key in ["tcp.status.cgroups", "tcp.status.discovery.cgroups"] {
            let key = ItemKey::parse(key).unwrap();
            let answer = key.answer(&Two(true)).unwrap();
            assert!(
                answer.contains("/1.service") && answer.contains("/2.service"),
                "{answer}"
            );
            let error = key.answer(&Two(false)).unwrap_err().to_string();
            assert!(
                error.starts_with("tcp-status: cannot list cgroups: not here"),
                "{error}"
            );
        }
    }

    fn number(state: &str, port: Option<u16>) -> ItemKey {
        ItemKey::Number(Get {
            state: state.into(),
            port,
            family: None,
            netns: None,
            cgroup: None,
        })
    }

    #[test]
    fn keys_become_questions() {
        for (key, question) in [
            ("tcp.status[established]", number("established", None)),
            ("tcp.status[TIME_WAIT]", number("TIME_WAIT", None)),
            ("tcp.status[listen,]", number("listen", None)),
            ("tcp.status[listen,443]", number("listen", Some(443))),
            ("tcp.status[ listen, 443]", number("listen", Some(443))),
            (
                "tcp.status[\"listen\" , \"443\"]",
                number("listen", Some(443)),
            ),
            ("tcp.status[listen,443,,more]", number("listen", Some(443))),
            ("tcp.status.all", ItemKey::All),
            ("tcp.status.discovery", ItemKey::Discovery),
            ("tcp.status.listeners", ItemKey::Listeners),
            ("tcp.status.cgroups", ItemKey::Cgroups),
            ("tcp.status.discovery.cgroups", ItemKey::DiscoveryCgroups),
        ] {
            assert_eq!(ItemKey::parse(key), Ok(question), "{key}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_in_one_line() {
        for (key, word) in [
            ("", "not a key"),
            ("agent.ping", "tcp.status.all"),
            ("tcp.status", "established"),
            ("tcp.status[]", "established"),
            ("tcp.status[open]", "closewait"),
            ("tcp.status[open\n]", "closewait"),
            ("tcp.status[listen,0]", "65535"),
            ("tcp.status[listen,1,a.service]", "cgroup"),
            ("tcp.status[listen,+1]", "65535"),
            ("tcp.status[listen,70000]", "65535"),
            ("tcp.status[listen", "do not end"),
            ("tcp.status[listen]x", "do not end"),
            ("tcp.status[\"listen]", "do not end"),
            ("tcp.status[\"listen\"x]", "do not end"),
            (&"\n".repeat(9999), "not a key"),
            (&format!("tcp.status[{}]", "\n".repeat(9999)), "closewait"),
            (&format!("tcp.status[listen,{}]", "1".repeat(9999)), "65535"),
        ] {
            let error = ItemKey::parse(key).unwrap_err().to_string();
            assert!(error.starts_with("tcp-status: "), "{key}: {error}");
            assert!(error.contains(word), "{key}: {error}");
            assert!(!error.contains('\n'), "{key}: {error}");
            assert!(error.len() < 1000, "{} bytes", error.len());
        }
    }

    #[test]
    fn quotes_are_taken_off() {
        let (name, parameters) = split(r#"k["a \"b\",]",c,"",d\]"#).unwrap();
        assert_eq!(name, "k");
        assert_eq!(parameters, ["a \"b\",]", "c", "", "d\\"]);
    }
}
