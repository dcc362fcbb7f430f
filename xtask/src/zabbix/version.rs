//! The Zabbix versions that are tried, and what differs between them in packages and in the API.

use std::{fmt, str::FromStr};

use anyhow::{Error, bail};
use serde_json::{Value, json};

/// A Zabbix version that Debian bookworm has packages of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V6_0,
    V7_0,
}

impl Version {
    pub(super) const ALL: [Self; 2] = [Self::V6_0, Self::V7_0];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V6_0 => "6.0",
            Self::V7_0 => "7.0",
        }
    }

    /// The suite of Debian that has it.
    pub(super) const fn suite(self) -> &'static str {
        match self {
            Self::V6_0 => "bookworm",
            Self::V7_0 => "bookworm-backports",
        }
    }

    /// Whether the API takes the session in a header; before 6.4, in the request.
    pub(super) const fn takes_bearer(self) -> bool {
        matches!(self, Self::V7_0)
    }

    /// What an import may do: create and update everything that a template holds.
    pub(super) fn import_rules(self) -> Value {
        let both = json!({"createMissing": true, "updateExisting": true});
        let mut rules = json!({
            "templates": both,
            "items": both,
            "triggers": both,
            "graphs": both,
            "discoveryRules": both,
            "templateDashboards": both,
            "valueMaps": both,
        });
        // Groups of templates and of hosts are apart from 6.2 on.
        let groups: &[_] = match self {
            Self::V6_0 => &["groups"],
            Self::V7_0 => &["template_groups", "host_groups"],
        };
        for &group in groups {
            rules[group] = both.clone();
        }
        rules
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match Self::ALL.into_iter().find(|version| version.name() == text) {
            Some(version) => Ok(version),
            None => bail!("not one of {}", Self::ALL.map(Self::name).join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn versions_read_back() {
        for version in Version::ALL {
            assert_eq!(version.name().parse::<Version>().unwrap(), version);
        }
        let error = "5.0".parse::<Version>().unwrap_err().to_string();
        assert_eq!(error, "not one of 6.0, 7.0");
    }

    #[test]
    fn an_import_may_update_groups_by_the_name_of_the_version() {
        assert!(Version::V6_0.import_rules()["groups"].is_object());
        assert!(Version::V7_0.import_rules()["groups"].is_null());
        assert!(Version::V7_0.import_rules()["host_groups"].is_object());
    }
}
