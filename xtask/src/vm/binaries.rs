//! The test binaries that run in the machines: which, and how they are built. They are static,
//! so that a machine needs no libraries.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{build::binary, step::Step, workspace::Workspace};

/// A built test binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TestBinary {
    pub(super) name: String,
    pub(super) path: PathBuf,
}

pub(super) fn build(workspace: &Workspace, tests: &[&str]) -> Result<Vec<TestBinary>> {
    eprintln!("building the tests {}, static", tests.join(", "));
    let triple = binary::static_triple(workspace);
    let step = Step::cargo()
        .args([
            "test",
            "--locked",
            "--no-run",
            "--message-format",
            "json-render-diagnostics",
        ])
        .args(["--package", "tcp-status", "--package", "tcp-status-testkit"])
        .args(tests.iter().flat_map(|test| ["--test", test]))
        .args(["--profile", "vm", "--target", &triple])
        .env("CARGO_ENCODED_RUSTFLAGS", binary::flags());
    let messages = workspace.at_root(step).read()?;
    let mut built = executables(&messages)?;
    tests
        .iter()
        .map(|&name| {
            let path = built
                .remove(name)
                .with_context(|| format!("cargo built no test binary {name}"))?;
            Ok(TestBinary {
                name: name.to_owned(),
                path,
            })
        })
        .collect()
}

/// A program beside them, where its tests look for it once [`build`] has built them.
pub(super) fn beside(workspace: &Workspace, name: &str) -> PathBuf {
    let folder = workspace.target.join(binary::static_triple(workspace));
    folder.join("vm").join(name)
}

/// The test binaries in what cargo prints, one JSON object a line.
fn executables(messages: &str) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line).context("cargo did not print JSON")?;
        let is_test = message["target"]["kind"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().any(|kind| kind == "test"));
        if let (true, Some(name), Some(path)) = (
            is_test,
            message["target"]["name"].as_str(),
            message["executable"].as_str(),
        ) {
            found.insert(name.to_owned(), path.into());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_binaries_are_found_among_cargos_messages() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"live"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"tool"},"executable":"/t/tool"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"live"},"executable":"/t/live-1"}
{"reason":"build-finished","success":true}
"#;
        let found = executables(messages).unwrap();
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [("live".to_owned(), PathBuf::from("/t/live-1"))]
        );
        executables("{broken").unwrap_err();
    }
}
