//! Which machines there are, and which of the tests each runs. Starts none.

use super::kernels::Version;

/// In the names of tests that show nothing of a kernel, and run natively only unless a filter wants
/// them: when the tracker audits and walks, by its own clock, and what stays for a minute or half of one.
const NATIVE: [&str; 3] = ["pacing::", "split::", "a_minute"];

/// In the name of the test that suspends its machine.
const SUSPENSION: &str = "suspension";

/// Of a machine that is suspended: QEMU 10.0 does not wake an emulated one that has more, whose
/// processors leave the firmware's code on their way.
pub(super) const SUSPENDED_PROCESSORS: u32 = 1;

/// Of all other machines: so interrupts and processes are truly at the same time.
pub(super) const PROCESSORS: u32 = 2;

/// In the names of the tests that show that a kernel takes the programs, and that they count right
/// from the start.
const BRIEF: &str = "seeding";

/// One machine, and which tests of all it runs.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) version: Version,
    pub(super) name: String,
    /// Of each test binary.
    pub(super) arguments: Vec<String>,
    pub(super) cpus: u32,
}

impl Machine {
    pub(super) fn new(version: &Version, suffix: &str, arguments: &[&str]) -> Self {
        let fixed = ["--test-threads=1", "--show-output", "--color=never"];
        let arguments = fixed.iter().chain(arguments).copied();
        Self {
            version: version.clone(),
            name: format!("{version}{suffix}"),
            arguments: arguments.map(str::to_owned).collect(),
            cpus: PROCESSORS,
        }
    }
}

/// The machines, the longest first, so that none of them is alone at the end.
pub(super) fn plan(
    versions: &[Version],
    filter: Option<&str>,
    briefly: &[Version],
) -> Vec<Machine> {
    let is_suspension = filter.is_some_and(|filter| SUSPENSION.contains(filter));
    let elsewhere = NATIVE.iter().filter(|_| filter.is_none());
    let skipped = elsewhere.chain([&SUSPENSION]);
    let most: Vec<_> = skipped
        .flat_map(|name| ["--skip", name])
        .chain(filter)
        .collect();
    let mut machines = Vec::new();
    for version in versions.iter().filter(|_| !is_suspension) {
        machines.push(Machine::new(version, "", &most));
    }
    for version in versions
        .iter()
        .filter(|_| is_suspension || filter.is_none())
    {
        machines.push(Machine {
            cpus: SUSPENDED_PROCESSORS,
            ..Machine::new(version, "-suspended", &[SUSPENSION])
        });
    }
    for version in briefly {
        machines.push(Machine::new(version, "-briefly", &[BRIEF]));
    }
    machines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suspension_has_machines_of_one_processor() {
        let versions: [Version; 2] = ["7.2", "6.1"].map(|version| version.parse().unwrap());
        let names = |filter| {
            let machines = plan(&versions, filter, &versions[1..]);
            let cpus = |machine: &Machine| (machine.name.clone(), machine.cpus);
            machines.iter().map(cpus).collect::<Vec<_>>()
        };
        let [all, suspended] = ["7.2 6.1", "7.2-suspended 6.1-suspended"].map(|names| {
            let cpus = if names.contains('-') { 1 } else { 2 };
            names.split(' ').map(move |name| (name.to_owned(), cpus))
        });
        let brief = [("6.1-briefly".to_owned(), 2)];
        assert!(
            names(None)
                .into_iter()
                .eq(all.clone().chain(suspended.clone()).chain(brief.clone()))
        );
        assert!(
            names(Some("churn"))
                .into_iter()
                .eq(all.chain(brief.clone()))
        );
        assert!(
            names(Some("suspension"))
                .into_iter()
                .eq(suspended.chain(brief))
        );
    }
}
