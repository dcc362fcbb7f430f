//! `check --self-test`: sockets in every state, counted by the tracker and by the kernel.

mod sockets;

use std::{
    fmt::{self, Write as _},
    panic, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use tcp_status_common::state::{Family, State};

use self::sockets::OpenSockets;
use crate::{
    kernel::{
        netns,
        plan::Backend,
        procfs::{self, Listing},
    },
    serve::protocol::Show,
    snapshot::{Counts, Snapshot},
    track::{self, Pace, Settings},
};

/// How long the counts may take to be right.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time between comparisons.
const PAUSE: Duration = Duration::from_millis(50);

/// Audits mend what the kernel kept from the programs, while the test waits.
const PACE: Pace = Pace {
    interval: Duration::from_millis(100),
    share: 0.5,
};

/// What the self-test found.
pub(super) struct Report {
    /// The last reading of the tracker.
    pub(super) snapshot: Snapshot,
    /// Whether the sockets were in a network namespace of their own.
    pub(super) isolated: bool,
    rows: Vec<Row>,
}

/// One state, both families together.
struct Row {
    state: State,
    listed: u64,
    counted: u64,
    verdict: RowVerdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowVerdict {
    Equal,
    Differs,
    /// There is no socket to compare.
    NotOpened,
}

impl Report {
    /// Whether every count is right.
    pub(super) fn is_right(&self) -> bool {
        self.rows.iter().all(|row| row.verdict == RowVerdict::Equal)
    }

    /// A line for each state.
    pub(super) fn write(&self, out: &mut String) -> fmt::Result {
        for row in &self.rows {
            let verdict = match row.verdict {
                RowVerdict::Equal => "equal",
                RowVerdict::Differs => "DIFFERS",
                RowVerdict::NotOpened => "NOT OPENED",
            };
            let (state, listed, counted) = (row.state, row.listed, row.counted);
            writeln!(
                out,
                "{state:<22}{listed} listed, {counted} counted, {verdict}"
            )?;
        }
        Ok(())
    }
}

/// Counts sockets in every state, half of which are opened before the programs are loaded.
///
/// # Errors
/// If sockets cannot be opened, or programs not be loaded.
pub(super) fn run(settings: Settings) -> anyhow::Result<Report> {
    // The thread that changes its namespace ends with the test.
    thread::scope(|scope| {
        let test = scope.spawn(|| {
            let isolated = netns::isolate().context(
                "cannot set up a network namespace for the self-test; try again as root",
            )?;
            let report = count(&Settings {
                pace: PACE,
                split_interval: PACE.interval,
                ..settings
            })?;
            Ok(Report { isolated, ..report })
        });
        test.join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

fn count(settings: &Settings) -> anyhow::Result<Report> {
    const NOT_OPENED: &str = "cannot open sockets on loopback for the self-test; bring up lo";
    let available = |family: &Family| sockets::is_available(*family);
    let families: Vec<_> = Family::ALL.into_iter().filter(available).collect();
    let mut sockets = OpenSockets::default();
    let mut open = || -> anyhow::Result<()> {
        for &family in &families {
            sockets.open(family).context(NOT_OPENED)?;
        }
        Ok(())
    };
    // These are seeded.
    open()?;
    let running = track::start(Backend::Ebpf, *settings)?;
    // These are counted by events.
    open()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before = procfs::listing(None)?;
        let snapshot = running.source.show(&Show::default())?.pop();
        let snapshot = snapshot.ok_or_else(|| anyhow!("cannot read counts: there are none"))?;
        let after = procfs::listing(None)?;
        let report = compare(snapshot, [&before, &after], &families);
        if report.is_right() || Instant::now() > deadline {
            return Ok(report);
        }
        thread::sleep(PAUSE);
    }
}

/// A count is right if it lies between two listings.
fn compare(snapshot: Snapshot, listings: [&Listing; 2], families: &[Family]) -> Report {
    let row = |state: State| {
        let right = |family: Family| {
            let counted = of(&snapshot, family)[state];
            let [before, after] = listings.map(|listing| listing.of(family)[state]);
            (before.min(after)..=before.max(after)).contains(&counted)
        };
        // No socket stays in CLOSE.
        let opened = |family: &&Family| {
            let listed = listings[0].of(**family)[state];
            state == State::Closed || listed >= 2
        };
        let verdict = if families.iter().filter(opened).count() < families.len() {
            RowVerdict::NotOpened
        } else if Family::ALL.into_iter().all(right) {
            RowVerdict::Equal
        } else {
            RowVerdict::Differs
        };
        Row {
            state,
            listed: listings[1].total()[state],
            counted: snapshot.states[state],
            verdict,
        }
    };
    let rows = State::ALL.map(row).into();
    Report {
        snapshot,
        isolated: false,
        rows,
    }
}

const fn of(snapshot: &Snapshot, family: Family) -> &Counts {
    match family {
        Family::V4 => &snapshot.ipv4,
        Family::V6 => &snapshot.ipv6,
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, Family, Listing, Snapshot, State, compare};
    use crate::snapshot::Tier;

    fn all(count: u64) -> Counts {
        let mut counts = Counts::default();
        for state in State::ALL {
            counts[state] = if state == State::Closed { 0 } else { count };
        }
        counts
    }

    #[test]
    fn one_wrong_count_fails_and_so_does_a_state_without_sockets() {
        let listing = Listing {
            ipv4: all(2),
            ipv6: all(2),
        };
        let verdict = |ipv4: Counts, listing: &Listing| {
            let snapshot = Snapshot::of(Tier::Full, 1, [ipv4, listing.ipv6]);
            let report = compare(snapshot, [listing, listing], &Family::ALL);
            let mut text = String::new();
            report.write(&mut text).unwrap();
            assert_eq!(text.lines().count(), State::COUNT, "{text}");
            (report.is_right(), text)
        };
        assert!(verdict(all(2), &listing).0);
        let mut wrong = all(2);
        wrong[State::LastAck] = 3;
        let (right, text) = verdict(wrong, &listing);
        assert!(!right);
        assert!(
            text.contains("lastack               4 listed, 5 counted, DIFFERS\n"),
            "{text}"
        );
        let mut empty = listing;
        empty.ipv4[State::SynRecv] = 0;
        let (right, text) = verdict(empty.ipv4, &empty);
        assert!(!right && text.contains("2 counted, NOT OPENED\n"), "{text}");
    }
}
