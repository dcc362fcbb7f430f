//! Which agents this host has, where each looks for more configuration, and what already says
//! something about our keys. Changes nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    FILE,
    error::{FactsError, missing},
    include::{Include, below},
};

/// A Zabbix agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `zabbix_agentd`.
    Agent,
    /// `zabbix_agent2`.
    Agent2,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Agent, Self::Agent2];

    /// The name of package and service, in Debian and in the packages of zabbix.com.
    #[must_use]
    pub const fn service(self) -> &'static str {
        match self {
            Self::Agent => "zabbix-agent",
            Self::Agent2 => "zabbix-agent2",
        }
    }

    /// Where its packages put its configuration.
    #[must_use]
    pub const fn configuration(self) -> &'static str {
        match self {
            Self::Agent => "etc/zabbix/zabbix_agentd.conf",
            Self::Agent2 => "etc/zabbix/zabbix_agent2.conf",
        }
    }
}

/// A line of a configuration file that defines one of our keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The file.
    pub path: PathBuf,
    /// The number of the line, from 1.
    pub line: usize,
    /// The key, as it stands there.
    pub key: String,
}

/// An agent, and what it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Which.
    pub kind: Kind,
    /// Its configuration.
    pub configuration: PathBuf,
    /// Where our file belongs.
    pub target: PathBuf,
    /// What lies there.
    pub present: Option<String>,
    /// Our keys in other files that it reads.
    pub others: Vec<Setting>,
    /// Whom it runs as when root starts it.
    pub user: String,
    /// Where it listens.
    pub port: u16,
}

/// Every agent below `root`.
///
/// # Errors
/// [`FactsError`].
pub fn agents(root: &Path) -> Result<Vec<Agent>, FactsError> {
    let mut agents = Vec::new();
    for kind in Kind::ALL {
        let configuration = root.join(kind.configuration());
        if let Some(text) = read(&configuration)? {
            agents.push(agent(root, kind, configuration, &text)?);
        }
    }
    Ok(agents)
}

fn agent(root: &Path, kind: Kind, configuration: PathBuf, text: &str) -> Result<Agent, FactsError> {
    let includes: Vec<Include> = values(text, "Include").map(Include::parse).collect();
    let folder = includes
        .iter()
        .filter(|include| include.takes(FILE))
        .map(|include| below(root, &include.folder))
        .find(|folder| folder.is_dir())
        .ok_or_else(|| FactsError::NoFolder(configuration.clone()))?;
    inside(root, &folder)?;
    let target = folder.join(FILE);
    let present = match fs::symlink_metadata(&target) {
        Ok(metadata) if !metadata.is_file() => return Err(FactsError::NotARegularFile(target)),
        _ => read(&target)?,
    };
    let mut others = settings(&configuration, text);
    for include in &includes {
        for path in include.files(root)? {
            if path != target
                && let Some(text) = read(&path)?
            {
                others.extend(settings(&path, &text));
            }
        }
    }
    let user = last(text, "User").unwrap_or("zabbix").to_owned();
    let port = last(text, "ListenPort").and_then(|port| port.parse().ok());
    Ok(Agent {
        kind,
        configuration,
        target,
        present,
        others,
        user,
        port: port.unwrap_or(10050),
    })
}

/// Lines that define one of our keys.
fn settings(path: &Path, text: &str) -> Vec<Setting> {
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(index, line)| {
            let value = value_of(line, "UserParameter")?;
            let key = value.split(',').next()?.trim();
            let name = key.split('[').next()?;
            let ours = name == "tcp.status" || name.starts_with("tcp.status.");
            ours.then(|| Setting {
                path: path.to_owned(),
                line: index + 1,
                key: key.to_owned(),
            })
        })
        .collect()
}

/// The values of every `NAME=VALUE` line, as the agent reads them.
fn values<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| value_of(line, name))
}

fn last<'a>(text: &'a str, name: &'a str) -> Option<&'a str> {
    values(text, name).last()
}

fn value_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (left, value) = line.split_once('=')?;
    (left.trim() == name).then_some(value.trim())
}

/// A root that is given must not be left by a symbolic link.
fn inside(root: &Path, folder: &Path) -> Result<(), FactsError> {
    let real = |path: &Path| {
        fs::canonicalize(path).map_err(|error| FactsError::Read {
            path: path.to_owned(),
            error,
        })
    };
    if real(folder)?.starts_with(real(root)?) {
        Ok(())
    } else {
        Err(FactsError::Outside(folder.to_owned()))
    }
}

fn read(path: &Path) -> Result<Option<String>, FactsError> {
    match fs::read(path) {
        // Comments may be in any encoding.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if missing(&error) => Ok(None),
        Err(error) => Err(FactsError::Read {
            path: path.to_owned(),
            error,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{last, settings};

    #[test]
    fn our_keys_are_found_and_others_left() {
        let text = "# UserParameter=tcp.status[*],no\n UserParameter = tcp.status[*],/x $1\n\
                    UserParameter=tcp.statuses,y\nUserParameter=tcp.status.all,z\n";
        let found: Vec<_> = settings(Path::new("f"), text)
            .into_iter()
            .map(|setting| (setting.line, setting.key))
            .collect();
        assert_eq!(
            found,
            [
                (2, "tcp.status[*]".to_owned()),
                (4, "tcp.status.all".to_owned())
            ]
        );
    }

    #[test]
    fn the_last_value_counts() {
        let text = "ListenPort=1\n#ListenPort=2\nListenPort = 3 \n";
        assert_eq!(last(text, "ListenPort"), Some("3"));
        assert_eq!(last(text, "User"), None);
    }
}
