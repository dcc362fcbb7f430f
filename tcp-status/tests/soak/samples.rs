//! What the tracker takes, second by second, and whether that grows.

use std::{fmt, time::Duration};

use tcp_status::snapshot::FINE_WINDOW;

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

    /// Once all history that is kept has been filled, memory and files stay as they are. In a run
    /// too short for that, memory grows with the history and no faster.
    pub(crate) fn assert_flat(&self) {
        /// A page here and there; what leaks, leaks with each of hundreds of connections.
        const ROOM: u64 = 512;
        /// KiB of one thread more in a build for debugging, its stack and its arena; 656 were measured.
        const THREAD: u64 = 768;
        /// Requests that are answered at the same time, in threads that are made when that first happens.
        const AT_ONCE: u64 = 2;
        /// Files that may be open for a moment at each look, if there are few looks.
        const IN_USE: u64 = 2;
        /// KiB of history in a second; 4 were measured.
        const HISTORY: u64 = 8;
        let full = Duration::from_secs(FINE_WINDOW.into());
        let filled = self.0.iter().filter(|sample| sample.at > full).count();
        let (part, room) = if filled >= self.0.len() / 3 {
            (&self.0[self.0.len() - filled..], ROOM)
        } else {
            let seconds = self.0.last().map_or(0, |last| last.at.as_secs());
            (&self.0[self.0.len() / 4..], ROOM + HISTORY * seconds)
        };
        let (first, last) = (&part[..part.len() / 3], &part[part.len() * 2 / 3..]);
        let median = |samples: &[Sample]| {
            let mut all: Vec<_> = samples.iter().map(|sample| sample.rss).collect();
            all.sort_unstable();
            all[all.len() / 2]
        };
        let fewest = |samples: &[Sample]| samples.iter().map(|sample| sample.files).min();
        let threads = |samples: &[Sample]| samples.iter().map(|sample| sample.threads).max();
        let threads = [first, last].map(|part| threads(part).unwrap_or(0));
        let more = threads[1].saturating_sub(threads[0]);
        assert!(more <= AT_ONCE, "threads grow: {threads:?}");
        let (rss, files) = ([median(first), median(last)], [fewest(first), fewest(last)]);
        println!(
            "from {:.0} s on, first and last third: median RSS {rss:?} KiB, fewest files {files:?}",
            part[0].at.as_secs_f64()
        );
        let room = room + THREAD * more;
        assert!(
            rss[1] <= rss[0] + room,
            "memory grows: {rss:?} KiB, threads {threads:?}"
        );
        let opened = files[1]
            .zip(files[0])
            .map(|(last, first)| last.saturating_sub(first));
        assert!(opened <= Some(IN_USE), "files are left open: {files:?}");
    }
}
