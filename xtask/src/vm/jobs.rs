//! Which machines a run has, and what each does.

use std::{path::PathBuf, time::Duration};

use super::{
    host::{PROCESSORS, SUSPENDED_PROCESSORS},
    kernels::Version,
};

/// In the names of tests that show nothing of a kernel, and run natively only unless a filter
/// selects them: when the tracker audits and walks, by its own clock, and what lasts for a minute
/// or half of one.
const NATIVE: [&str; 3] = ["pacing::", "split::", "a_minute"];

/// In the name of the test that suspends its machine.
const SUSPENSION: &str = "suspension";

/// In the names of the tests that show that a kernel takes the programs, and that they count right
/// from the start.
const BRIEF: &str = "seeding";

/// One machine of a run, and which tests it runs.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) version: Version,
    /// Unlike that of any other, and part of a file's name.
    pub(super) name: String,
    /// Of each test binary. None has a space or a quote.
    pub(super) arguments: String,
    pub(super) cpus: u32,
}

impl Job {
    pub(super) fn new(version: &Version, suffix: &str, arguments: &str, cpus: u32) -> Self {
        let fixed = "--test-threads=1 --show-output -Z unstable-options --format json";
        Self {
            version: version.clone(),
            name: format!("{version}{suffix}"),
            arguments: format!("{fixed} {arguments}"),
            cpus,
        }
    }
}

/// What the machines do.
pub(super) struct Task {
    /// Test binaries.
    pub(super) tests: &'static [&'static str],
    pub(super) jobs: Vec<Job>,
    pub(super) environment: Vec<(&'static str, String)>,
    /// What they look for where it lies on this machine.
    pub(super) files: Vec<PathBuf>,
    /// How long a test binary may take.
    pub(super) limit: Duration,
    /// Show everything that they print.
    pub(super) aloud: bool,
}

/// The machines, the longest first, so that none of them is alone at the end.
pub(super) fn jobs(versions: &[Version], filter: Option<&str>, briefly: &[Version]) -> Vec<Job> {
    let is_suspension = filter.is_some_and(|filter| SUSPENSION.contains(filter));
    let native = NATIVE.iter().filter(|_| filter.is_none());
    let skipped = native
        .chain([&SUSPENSION])
        .map(|name| format!("--skip {name}"));
    let most: Vec<_> = skipped.chain(filter.map(str::to_owned)).collect();
    let most = most.join(" ");
    let mut jobs = Vec::new();
    for version in versions.iter().filter(|_| !is_suspension) {
        jobs.push(Job::new(version, "", &most, PROCESSORS));
    }
    for version in versions
        .iter()
        .filter(|_| is_suspension || filter.is_none())
    {
        jobs.push(Job::new(
            version,
            "-suspended",
            SUSPENSION,
            SUSPENDED_PROCESSORS,
        ));
    }
    for version in briefly {
        jobs.push(Job::new(version, "-briefly", BRIEF, PROCESSORS));
    }
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(versions: &[&str], filter: Option<&str>, briefly: &[&str]) -> Vec<String> {
        let parse = |versions: &[&str]| -> Vec<Version> {
            versions.iter().map(|text| text.parse().unwrap()).collect()
        };
        let jobs = jobs(&parse(versions), filter, &parse(briefly));
        jobs.into_iter().map(|job| job.name).collect()
    }

    #[test]
    fn a_suspended_machine_has_only_its_own_test() {
        let all = names(&["6.1", "7.2"], None, &["5.10"]);
        assert_eq!(
            all,
            [
                "6.1",
                "7.2",
                "6.1-suspended",
                "7.2-suspended",
                "5.10-briefly"
            ]
        );
        assert_eq!(names(&["6.1"], Some("seed"), &[]), ["6.1"]);
        assert_eq!(names(&["6.1"], Some("suspension"), &[]), ["6.1-suspended"]);
    }
}
