//! What a machine of the matrix finds when it boots: busybox, the first process, modules, the
//! test binaries. Does not build or fetch any of them.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{binaries::TestBinary, cpio::Archive, kernels::Kernel};

const INIT: &str = include_str!("init.sh");

/// What all machines of a run have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content<'a> {
    pub(super) busybox: &'a Path,
    pub(super) tests: &'a [TestBinary],
    /// Letters, digits, `_` and `:` only.
    pub(super) filter: Option<&'a str>,
    /// Of the random numbers of the tests.
    pub(super) seed: Option<u64>,
    /// How long one test binary may take, in seconds.
    pub(super) limit: u64,
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
    fs::write(path, archive.finish()?).with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Variables for the shell.
fn plan(kernel: &Kernel, content: &Content<'_>) -> String {
    let names: Vec<_> = content
        .tests
        .iter()
        .map(|test| test.name.as_str())
        .collect();
    let mut plan = format!(
        "NAME='linux-{}'\nTESTS='{}'\nFILTER='{}'\nLIMIT='{}'\n",
        kernel.version,
        names.join(" "),
        content.filter.unwrap_or_default(),
        content.limit
    );
    let seed = content.seed.map(|seed| seed.to_string());
    // Writing to a string cannot fail.
    let _ = writeln!(plan, "SEED='{}'", seed.unwrap_or_default());
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
                filter: Some("churn::"),
                seed: Some(7),
                limit: 60,
            },
        );
        assert_eq!(
            plan,
            "NAME='linux-6.1'\nTESTS='live sources'\nFILTER='churn::'\nLIMIT='60'\nSEED='7'\n"
        );
        for line in plan.lines() {
            let name = line.split('=').next().unwrap();
            assert!(INIT.contains(&format!("${name}")), "{name}");
        }
    }
}
