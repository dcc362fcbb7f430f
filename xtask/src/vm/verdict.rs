//! Whether a machine's run is good: a pure judgement of what it said and how it ended.

use std::time::Duration;

use super::{
    qemu::End,
    report::{Binary, Outcome, Report},
};
use crate::tally::Tally;

/// Beginnings of what a kernel says, after its time stamp, when it must not be trusted further.
const CRASHES: [&str; 8] = [
    "Kernel panic",
    "Oops",
    "BUG: kernel NULL pointer",
    "BUG: unable to handle",
    "kernel BUG at",
    "general protection fault",
    "Internal error:",
    "double fault:",
];

/// The first line of a crash, if `line` is one.
pub(super) fn is_crash(line: &str) -> bool {
    let message = match line.split_once("] ") {
        Some((stamp, message)) if stamp.starts_with('[') => message,
        _ => line,
    };
    CRASHES.iter().any(|crash| message.starts_with(crash))
}

/// What the judgement is made from.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    pub(super) report: &'a Report,
    pub(super) end: End,
    /// The console's first line about a crash.
    pub(super) crash: Option<&'a str>,
    /// The test binaries that had to run.
    pub(super) binaries: &'a [&'a str],
    pub(super) silence: Duration,
    pub(super) limit: Duration,
}

/// Everything that is wrong beside failed tests; empty for a good run.
pub(super) fn problems(evidence: &Evidence<'_>) -> Vec<String> {
    let report = evidence.report;
    let mut problems = report.problems.clone();
    if let Some(crash) = evidence.crash {
        problems.push(format!("the kernel crashed: {crash}"));
    }
    if !report.done {
        if evidence.crash.is_none() {
            problems.push(early_end(evidence));
        }
    } else {
        for &name in evidence.binaries {
            match report.binaries.iter().find(|binary| binary.name == name) {
                Some(binary) => problems.extend(problem_of(binary)),
                None => problems.push(format!("{name} did not run")),
            }
        }
    }
    let counts = counts(report);
    if counts.passed == 0 && counts.failed == 0 && problems.is_empty() {
        problems.push(match counts.skipped {
            0 => "no test ran; does the filter fit any?".to_owned(),
            skipped => format!("nothing was shown: all {skipped} tests skipped themselves"),
        });
    }
    problems
}

/// The tests, counted one by one.
pub(super) fn counts(report: &Report) -> Tally {
    let mut counts = Tally::default();
    for test in report.binaries.iter().flat_map(|binary| &binary.tests) {
        match test.outcome {
            Outcome::Passed => counts.passed += 1,
            Outcome::Failed | Outcome::Unfinished => counts.failed += 1,
            Outcome::Skipped => counts.skipped += 1,
        }
    }
    counts
}

fn early_end(evidence: &Evidence<'_>) -> String {
    let what = match evidence.end {
        End::Silent => format!("it said nothing for {} s", evidence.silence.as_secs()),
        End::Overtime => format!("it took more than {} s", evidence.limit.as_secs()),
        End::Exited(status) => format!("QEMU ended before the verdict ({status})"),
        End::Stopped => "it was stopped before the verdict".to_owned(),
    };
    match evidence.report.binaries.last() {
        None => format!("{what}, before the first test"),
        Some(binary) => match binary.tests.last() {
            Some(test) if test.outcome == Outcome::Unfinished => {
                format!("{what}, in {}::{}", binary.name, test.name)
            }
            _ => format!("{what}, in {}", binary.name),
        },
    }
}

/// What is wrong with a binary that ran, beside its failed tests.
fn problem_of(binary: &Binary) -> Option<String> {
    let name = &binary.name;
    let status = binary
        .exit_status
        .map_or_else(|| "unknown".to_owned(), |status| status.to_string());
    let Some(counts) = binary.counts else {
        return Some(format!("{name} died (exit status {status})"));
    };
    let ran = counts.passed + counts.failed + counts.skipped;
    if u64::try_from(binary.tests.len()) != Ok(ran) {
        let seen = binary.tests.len();
        return Some(format!("{name} counts {ran} tests, but {seen} were seen"));
    }
    if (counts.failed == 0) != (binary.exit_status == Some(0)) {
        let failed = counts.failed;
        return Some(format!(
            "{name} counts {failed} failures and ends with status {status}"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

    use super::*;
    use crate::vm::report::Reader;

    const GOOD: &str = "##vm begin live\ntest a ... ok\ntest b ... \nSKIPPED: x\nok\n\
                        test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n\
                        ##vm end live 0\n##vm done\n";

    fn judge(output: &str, end: End, crash: Option<&str>) -> (Tally, Vec<String>) {
        let mut reader = Reader::default();
        reader.take(output.as_bytes(), Duration::ZERO);
        let report = reader.finish(Duration::ZERO);
        let problems = problems(&Evidence {
            report: &report,
            end,
            crash,
            binaries: &["live"],
            silence: Duration::from_secs(60),
            limit: Duration::from_secs(600),
        });
        (counts(&report), problems)
    }

    fn exited() -> End {
        End::Exited(ExitStatus::from_raw(0))
    }

    fn only_problem(output: &str, end: End) -> String {
        let (_, problems) = judge(output, end, None);
        let [problem] = &problems[..] else {
            panic!("{problems:?}");
        };
        problem.clone()
    }

    #[test]
    fn a_good_run_has_no_problems() {
        for end in [exited(), End::Stopped] {
            let (counts, problems) = judge(GOOD, end, None);
            assert_eq!((counts.passed, counts.failed, counts.skipped), (1, 0, 1));
            assert_eq!(problems, [""; 0]);
        }
    }

    #[test]
    fn failed_tests_are_counted_and_are_no_problem_of_the_machine() {
        let output = GOOD
            .replace("a ... ok", "a ... FAILED")
            .replace("ok. 2 passed; 0 failed", "FAILED. 1 passed; 1 failed")
            .replace("live 0", "live 101");
        let (counts, problems) = judge(&output, exited(), None);
        assert_eq!((counts.failed, problems.len()), (1, 0));
    }

    #[test]
    fn a_crash_is_the_only_problem_of_a_run_that_it_ended() {
        let half = &GOOD[..GOOD.find("test b").unwrap()];
        let (_, problems) = judge(half, exited(), Some("Kernel panic - not syncing"));
        assert_eq!(problems, ["the kernel crashed: Kernel panic - not syncing"]);
        // Even after the verdict.
        assert_eq!(judge(GOOD, exited(), Some("Oops: 0000")).1.len(), 1);
    }

    #[test]
    fn a_run_without_a_verdict_says_where_it_ended() {
        let half = &GOOD[..GOOD.find("SKIPPED").unwrap()];
        let problem = only_problem(half, End::Silent);
        assert_eq!(problem, "it said nothing for 60 s, in live::b");
        let problem = only_problem("", End::Overtime);
        assert_eq!(problem, "it took more than 600 s, before the first test");
        let problem = only_problem("##vm begin live\n", exited());
        assert_eq!(
            problem,
            "QEMU ended before the verdict (exit status: 0), in live"
        );
    }

    #[test]
    fn binaries_that_die_or_contradict_themselves_are_problems() {
        let died = "##vm begin live\ntest a ... ok\n##vm end live 137\n##vm done\n";
        assert_eq!(only_problem(died, exited()), "live died (exit status 137)");
        let missing = GOOD.replace("live", "other");
        assert_eq!(only_problem(&missing, exited()), "live did not run");
        let lost = GOOD.replace("test a ... ok\n", "");
        assert_eq!(
            only_problem(&lost, exited()),
            "live counts 2 tests, but 1 were seen"
        );
        let status = only_problem(&GOOD.replace("live 0", "live 1"), exited());
        assert_eq!(status, "live counts 0 failures and ends with status 1");
    }

    #[test]
    fn a_run_that_shows_nothing_is_a_problem() {
        let skipped = GOOD
            .replace("test a ... ok\n", "")
            .replace("2 passed", "1 passed");
        assert_eq!(
            only_problem(&skipped, exited()),
            "nothing was shown: all 1 tests skipped themselves"
        );
        let empty = skipped
            .replace("test b ... \nSKIPPED: x\nok\n", "")
            .replace("1 passed", "0 passed");
        assert_eq!(
            only_problem(&empty, exited()),
            "no test ran; does the filter fit any?"
        );
    }

    #[test]
    fn crashes_are_told_from_what_only_looks_alike() {
        for line in [
            "[    2.1] Kernel panic - not syncing: Attempted to kill init!",
            "[   12.345678] BUG: unable to handle page fault for address: 0",
            "Oops: 0002 [#1] SMP",
        ] {
            assert!(is_crash(line), "{line}");
        }
        for line in [
            "[    0.1] Command line: oops=panic panic=-1",
            "[    9.1] TCP: Possible SYN flooding on port 1",
            "[    9.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
        ] {
            assert!(!is_crash(line), "{line}");
        }
    }
}
