//! An agent's `Include=`: what it names, and which files are read because of it.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use super::error::{FactsError, missing};

/// What an `Include=` names: a folder and a pattern for names, a folder, or a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Include {
    pub(super) folder: PathBuf,
    /// Of names in the folder; with at most one star.
    pattern: String,
}

impl Include {
    pub(super) fn parse(value: &str) -> Self {
        let path = Path::new(value);
        match (
            path.parent(),
            path.file_name().and_then(|name| name.to_str()),
        ) {
            (Some(folder), Some(name)) if name.contains('*') => Self {
                folder: folder.to_owned(),
                pattern: name.to_owned(),
            },
            // A folder, or one file: only the host knows.
            _ => Self {
                folder: path.to_owned(),
                pattern: "*".into(),
            },
        }
    }

    /// Whether a file of this name would be read. Agent 2 has relative paths for its plugins.
    pub(super) fn takes(&self, name: &str) -> bool {
        self.folder.is_absolute() && self.matches(name)
    }

    fn matches(&self, name: &str) -> bool {
        match self.pattern.split_once('*') {
            Some((start, end)) => {
                name.len() >= start.len() + end.len()
                    && name.starts_with(start)
                    && name.ends_with(end)
            }
            None => name == self.pattern,
        }
    }

    /// Files that are read because of it.
    pub(super) fn files(&self, root: &Path) -> Result<Vec<PathBuf>, FactsError> {
        let folder = below(root, &self.folder);
        if folder.is_file() {
            return Ok(vec![folder]);
        }
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if missing(&error) => return Ok(Vec::new()),
            Err(error) => {
                return Err(FactsError::Read {
                    path: folder,
                    error,
                });
            }
        };
        let mut files: Vec<_> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_str().is_some_and(|n| self.matches(n)))
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        Ok(files)
    }
}

/// A path of the host, below the root.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    let parts = path.components();
    let plain = parts.filter(|part| matches!(part, Component::Normal(_)));
    root.join(plain.collect::<PathBuf>())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Include;

    #[test]
    fn includes_are_files_folders_or_patterns() {
        for (value, folder, pattern) in [
            (
                "/etc/zabbix/zabbix_agentd.d/*.conf",
                "/etc/zabbix/zabbix_agentd.d",
                "*.conf",
            ),
            (
                "/etc/zabbix/zabbix_agentd.d/",
                "/etc/zabbix/zabbix_agentd.d",
                "*",
            ),
            (
                "/etc/zabbix/zabbix_agentd.d",
                "/etc/zabbix/zabbix_agentd.d",
                "*",
            ),
            ("/etc/zabbix/own.conf", "/etc/zabbix/own.conf", "*"),
        ] {
            let include = Include::parse(value);
            assert_eq!(include.folder, Path::new(folder), "{value}");
            assert_eq!(include.pattern, pattern, "{value}");
        }
        assert!(Include::parse("/a/*.conf").takes("b.conf"));
        assert!(!Include::parse("/a/*.conf").takes("b.txt"));
        assert!(!Include::parse("./a/*.conf").takes("b.conf"));
        assert!(Include::parse("/a/x*y").matches("xy"));
        assert!(!Include::parse("/a/xa*ay").matches("xay"));
    }
}
