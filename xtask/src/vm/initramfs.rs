//! What a machine of the matrix finds when it boots: busybox, the first process, modules, the
//! programs that it runs. Does not build or fetch any of them.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{binaries::TestBinary, cpio::Archive, kernels::Kernel};

const INIT: &str = include_str!("init.sh");

/// What all machines of a run have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content<'a> {
    pub(super) busybox: &'a Path,
    pub(super) tests: &'a [TestBinary],
    /// What each of the tests is started with. None has a space or a quote.
    pub(super) arguments: &'a [String],
    /// Variables for the tests; no quotes either.
    pub(super) environment: &'a [(&'static str, String)],
    /// Absolute: what the tests look for where it lies on this machine.
    pub(super) files: &'a [PathBuf],
    /// How long one test binary may take.
    pub(super) limit: Duration,
}

/// Writes the initramfs for a machine with this kernel.
pub(super) fn write(path: &Path, kernel: &Kernel, content: &Content<'_>) -> Result<()> {
    let mut archive = Archive::default();
    for folder in ["bin", "modules", "tests"] {
        archive.folder(folder)?;
    }
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.file("plan", 0o644, plan(kernel, content).as_bytes())?;
    archive.file("bin/busybox", 0o755, &read(content.busybox)?)?;
    for (number, module) in kernel.modules.iter().enumerate() {
        archive.file(&format!("modules/{number}.ko"), 0o644, &read(module)?)?;
    }
    for test in content.tests {
        archive.file(&format!("tests/{}", test.name), 0o755, &read(&test.path)?)?;
    }
    let mut folders = BTreeSet::new();
    for file in content.files {
        let place = file.strip_prefix("/").context("a path is not absolute")?;
        let above: Vec<_> = place.ancestors().skip(1).collect();
        // The outermost is nothing: the root is there.
        for folder in above.into_iter().rev().skip(1) {
            if folders.insert(folder) {
                archive.folder(text(folder)?)?;
            }
        }
        archive.file(text(place)?, 0o755, &read(file)?)?;
    }
    fs::write(path, archive.finish()?).with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is no text", path.display()))
}

/// Variables for the shell.
fn plan(kernel: &Kernel, content: &Content<'_>) -> String {
    let names: Vec<_> = content
        .tests
        .iter()
        .map(|test| test.name.as_str())
        .collect();
    let mut plan = format!(
        "NAME='linux-{}'\nTESTS='{}'\nARGUMENTS='{}'\nLIMIT='{}'\n",
        kernel.version,
        names.join(" "),
        content.arguments.join(" "),
        content.limit.as_secs()
    );
    for (name, value) in content.environment {
        // Writing to a string cannot fail.
        let _ = writeln!(plan, "export {name}='{value}'");
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_shell_and_init_reads_all_of_it() {
        let kernel = Kernel {
            version: "6.1".parse().unwrap(),
            package: "6.1.176-1".into(),
            image: "vmlinuz".into(),
            modules: Vec::new(),
        };
        let test = |name: &str| TestBinary {
            name: name.into(),
            path: name.into(),
        };
        let tests = [test("live"), test("sources")];
        let plan = plan(
            &kernel,
            &Content {
                busybox: Path::new("busybox"),
                tests: &tests,
                arguments: &["--exact".into(), "churn::a".into()],
                environment: &[("TCP_STATUS_SEED", "7".into())],
                files: &[],
                limit: Duration::from_mins(1),
            },
        );
        assert_eq!(
            plan,
            "NAME='linux-6.1'\nTESTS='live sources'\nARGUMENTS='--exact churn::a'\nLIMIT='60'\n\
             export TCP_STATUS_SEED='7'\n"
        );
        for line in plan.lines().filter(|line| !line.starts_with("export ")) {
            let name = line.split('=').next().unwrap();
            assert!(INIT.contains(&format!("${name}")), "{name}");
        }
    }
}
