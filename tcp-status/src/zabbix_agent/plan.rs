//! What has to change for an agent: decided from facts alone.

use std::path::{Path, PathBuf};

use similar::TextDiff;

use super::{Agent, CONFIGURATION, Setting};

/// A change of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// To write it, anew or over what is there.
    Write {
        /// The file.
        path: PathBuf,
        /// What is there.
        before: Option<String>,
    },
    /// To remove it.
    Remove {
        /// The file.
        path: PathBuf,
        /// What is there.
        before: String,
    },
}

/// What to do for an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigPlan {
    /// It is as it should be.
    Nothing,
    /// One file has to change.
    Change(Change),
    /// Another file has our keys: the agent would not start.
    Conflict(Vec<Setting>),
}

impl ConfigPlan {
    /// To have the file in place.
    #[must_use]
    pub fn install(agent: &Agent) -> Self {
        if !agent.others.is_empty() {
            return Self::Conflict(agent.others.clone());
        }
        if agent.present.as_deref() == Some(CONFIGURATION) {
            return Self::Nothing;
        }
        Self::Change(Change::Write {
            path: agent.target.clone(),
            before: agent.present.clone(),
        })
    }

    /// To have it gone.
    #[must_use]
    pub fn uninstall(agent: &Agent) -> Self {
        match &agent.present {
            Some(before) => Self::Change(Change::Remove {
                path: agent.target.clone(),
                before: before.clone(),
            }),
            None => Self::Nothing,
        }
    }
}

impl Change {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Write { path, .. } | Self::Remove { path, .. } => path,
        }
    }

    /// As `diff -u` shows it.
    #[must_use]
    pub fn diff(&self) -> String {
        let path = self.path().display().to_string();
        let (before, after) = match self {
            Self::Write { before, .. } => (before.as_deref(), Some(CONFIGURATION)),
            Self::Remove { before, .. } => (Some(before.as_str()), None),
        };
        let name = |text: Option<&str>| {
            let none = || "/dev/null".to_owned();
            text.map_or_else(none, |_| path.clone())
        };
        let (old, new) = (name(before), name(after));
        TextDiff::from_lines(before.unwrap_or_default(), after.unwrap_or_default())
            .unified_diff()
            .header(&old, &new)
            .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Kind, Agent, CONFIGURATION, Change, ConfigPlan, Setting};

    fn agent(present: Option<&str>) -> Agent {
        Agent {
            kind: Kind::Agent,
            configuration: "/c".into(),
            target: "/d/f".into(),
            present: present.map(Into::into),
            others: Vec::new(),
            user: "zabbix".into(),
            port: 10050,
        }
    }

    #[test]
    fn installing_changes_only_what_differs() {
        assert_eq!(
            ConfigPlan::install(&agent(Some(CONFIGURATION))),
            ConfigPlan::Nothing
        );
        for before in [None, Some("old\n")] {
            let ConfigPlan::Change(change) = ConfigPlan::install(&agent(before)) else {
                panic!("no change for {before:?}");
            };
            let diff = change.diff();
            assert!(diff.contains("+++ /d/f\n"), "{diff}");
            assert!(diff.contains("+UserParameter=tcp.status[*],"), "{diff}");
            let old = if before.is_some() {
                "--- /d/f\n"
            } else {
                "--- /dev/null\n"
            };
            assert!(diff.contains(old), "{diff}");
            assert_eq!(diff.contains("\n-old\n"), before.is_some(), "{diff}");
        }
    }

    #[test]
    fn another_file_with_our_keys_is_in_the_way() {
        let mut agent = agent(None);
        let other = Setting {
            path: "/d/old.conf".into(),
            line: 3,
            key: "tcp.status[*]".into(),
        };
        agent.others.push(other.clone());
        assert_eq!(
            ConfigPlan::install(&agent),
            ConfigPlan::Conflict(vec![other])
        );
        assert_eq!(ConfigPlan::uninstall(&agent), ConfigPlan::Nothing);
    }

    #[test]
    fn uninstalling_shows_what_goes() {
        let ConfigPlan::Change(change @ Change::Remove { .. }) =
            ConfigPlan::uninstall(&agent(Some("own\n")))
        else {
            panic!("nothing to remove");
        };
        let diff = change.diff();
        assert!(diff.contains("+++ /dev/null\n"), "{diff}");
        assert!(diff.ends_with("-own\n"), "{diff}");
    }
}
