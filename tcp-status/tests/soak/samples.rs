//! What the tracker takes, second by second, and whether that grows.

use std::{fmt, time::Duration};

/// One look at the tracker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    /// Resident memory, in KiB.
    pub(crate) rss: u64,
    /// Open file descriptors.
    pub(crate) files: u64,
    pub(crate) threads: u64,
    pub(crate) corrections: u64,
    pub(crate) audits: u64,
    pub(crate) events: u64,
    pub(crate) missed: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>7.0} s{:>9}{:>7}{:>9}{:>12}{:>9}{:>12}{:>9}",
            self.at.as_secs_f64(),
            self.rss,
            self.files,
            self.threads,
            self.corrections,
            self.audits,
            self.events,
            self.missed
        )
    }
}

#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Sample>);

impl Samples {
    pub(crate) const HEADING: &str =
        "       at  RSS KiB  files  threads corrections   audits      events   missed";

    pub(crate) fn add(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// In the last quarter of the time it takes what it took in the second one. The first is that
    /// of maps and buffers that reach their size.
    pub(crate) fn assert_flat(&self) {
        /// A page here and there; what leaks, leaks with each of hundreds of connections.
        const ROOM: u64 = 512;
        let quarter = self.0.len() / 4;
        let (second, last) = (&self.0[quarter..2 * quarter], &self.0[3 * quarter..]);
        let median = |samples: &[Sample]| {
            let mut all: Vec<_> = samples.iter().map(|sample| sample.rss).collect();
            all.sort_unstable();
            all[all.len() / 2]
        };
        let fewest = |samples: &[Sample]| samples.iter().map(|sample| sample.files).min();
        let (rss, files) = (
            [median(second), median(last)],
            [fewest(second), fewest(last)],
        );
        println!("median RSS {rss:?} KiB, fewest files {files:?}, in the second and last quarter");
        assert!(rss[1] <= rss[0] + ROOM, "memory grows: {rss:?} KiB");
        assert!(files[1] <= files[0], "files are left open: {files:?}");
    }
}
