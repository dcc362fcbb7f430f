//! Reads what `cargo test -- --show-output` prints: counts, and tests that skipped themselves.
//!
//! A test that cannot run here prints a line `SKIPPED: reason` and returns, and so passes in the
//! eyes of the harness. Printed by `println!`, the line comes below the test's name among the
//! successes; written to stdout itself, it comes anywhere. Both count.

use std::collections::BTreeSet;

use crate::tally::Tally;

/// Begins the line of a test that cannot run.
pub(crate) const SKIPPED: &str = "SKIPPED: ";

/// Takes the output line by line.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    tally: Tally,
    /// Inside one test binary: its tests have begun, and its result is still to come.
    running: bool,
    section: Section,
    /// Tests of this binary that printed a skip.
    skipped: BTreeSet<String>,
    /// Skips of this binary whose test is not known.
    unnamed: u64,
}

#[derive(Debug, Default)]
enum Section {
    /// One line for each test.
    #[default]
    Tests,
    /// The output of tests that passed; with the name of the test.
    Successes(String),
    /// The output of tests that failed.
    Failures,
}

impl Reader {
    /// Takes one line, and says whether it is worth showing: the output of tests that passed
    /// is not, but for skips.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        if let Some(binary) = result(line) {
            self.finish(binary);
            return true;
        }
        if is_start(line) {
            self.abandon();
            self.running = true;
            return true;
        }
        match line {
            "successes:" => self.section = Section::Successes(String::new()),
            "failures:" => self.section = Section::Failures,
            _ => return self.other_line(line),
        }
        matches!(self.section, Section::Failures)
    }

    fn other_line(&mut self, line: &str) -> bool {
        let is_skip = line.starts_with(SKIPPED);
        match &mut self.section {
            Section::Tests if is_skip => self.unnamed += 1,
            Section::Successes(test) => {
                if is_skip {
                    self.skipped.insert(test.clone());
                } else if let Some(name) = output_of(line) {
                    name.clone_into(test);
                }
                return is_skip;
            }
            Section::Tests | Section::Failures => {}
        }
        true
    }

    /// The counts over all binaries, once the output has ended.
    pub(crate) fn finished(mut self) -> Tally {
        self.abandon();
        self.tally
    }

    fn finish(&mut self, binary: Tally) {
        let named = u64::try_from(self.skipped.len()).unwrap_or(u64::MAX);
        let skipped = binary.passed.min(named.saturating_add(self.unnamed));
        self.tally.add(Tally {
            passed: binary.passed - skipped,
            failed: binary.failed,
            skipped: binary.skipped + skipped,
        });
        self.running = false;
        self.reset();
    }

    /// A binary that began and told no result died.
    fn abandon(&mut self) {
        if self.running {
            self.tally.failed += 1;
        }
        self.running = false;
        self.reset();
    }

    fn reset(&mut self) {
        self.section = Section::Tests;
        self.skipped.clear();
        self.unnamed = 0;
    }
}

/// `running 3 tests`
fn is_start(line: &str) -> bool {
    let count = line
        .strip_prefix("running ")
        .and_then(|rest| rest.strip_suffix(" tests").or(rest.strip_suffix(" test")));
    count.is_some_and(|count| count.parse::<u64>().is_ok())
}

/// `---- module::name stdout ----`
pub(crate) fn output_of(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s`
pub(crate) fn result(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        counts
            .split("; ")
            .find_map(|count| count.strip_suffix(what)?.trim_end().parse().ok())
    };
    Some(Tally {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> (Tally, Vec<&str>) {
        let mut reader = Reader::default();
        let shown = output.lines().filter(|line| reader.line(line)).collect();
        (reader.finished(), shown)
    }

    fn tally(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally {
            passed,
            failed,
            skipped,
        }
    }

    const RESULT: &str = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; \
                          0 filtered out; finished in 0.01s";

    #[test]
    fn counts_all_binaries() {
        let (tally_read, _) = read(&format!(
            "\nrunning 4 tests\ntest a ... ok\ntest b ... ok\ntest c ... ok\n\
             test d ... ignored\n\n{RESULT}\n\nrunning 4 tests\n\n{RESULT}\n"
        ));
        assert_eq!(tally_read, tally(6, 0, 2));
    }

    #[test]
    fn a_captured_skip_belongs_to_its_test_and_counts_once() {
        let output = format!(
            "running 4 tests\ntest a ... ok\n\nsuccesses:\n\n---- a stdout ----\nchatter\n\
             SKIPPED: no BTF\nSKIPPED: no root\n\n\nsuccesses:\n    a\n    b\n\n{RESULT}"
        );
        let (tally_read, shown) = read(&output);
        assert_eq!(tally_read, tally(2, 0, 2));
        assert!(shown.contains(&"SKIPPED: no BTF"));
        assert!(!shown.contains(&"chatter"));
    }

    #[test]
    fn a_skip_past_the_harness_counts_too() {
        let (tally_read, _) = read(&format!(
            "running 4 tests\ntest a ... \nSKIPPED: no BTF\nok\ntest b ... ok\n\n{RESULT}"
        ));
        assert_eq!(tally_read, tally(2, 0, 2));
    }

    #[test]
    fn failures_are_shown_and_are_not_skips() {
        let (tally_read, shown) = read(
            "running 1 test\ntest a ... FAILED\n\nfailures:\n\n---- a stdout ----\n\
             SKIPPED: half of it\nwrong\n\nfailures:\n    a\n\n\
             test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; \
             finished in 0.00s",
        );
        assert_eq!(tally_read, tally(0, 1, 0));
        assert!(shown.contains(&"wrong"));
    }

    #[test]
    fn a_binary_that_dies_fails() {
        assert_eq!(read("running 2 tests\ntest a ... ok\n").0, tally(0, 1, 0));
        let (tally_read, _) = read(&format!("running 2 tests\nrunning 4 tests\n{RESULT}"));
        assert_eq!(tally_read, tally(3, 1, 1));
    }
}
